"""What must hold for every method, shape and density; and that nothing but the seed and the tensors decides."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedc.errors import InputError
from sparsedc.optim import AdamW
from sparsedc.sparsity.distribution import layer_counts
from sparsedc.sparsity.engine import SparseEngine
from sparsedc.sparsity.methods import METHODS, method
from sparsedc.sparsity.schedule import TopologySchedule

SHAPES = {"attention": (12, 12), "up": (24, 12), "down": (12, 24)}
SCHEDULE = TopologySchedule(steps=12, updates=4, drop_fraction=0.3, final_drop_fraction=0.05, stop_fraction=0.75)


class Run:
    """A small sparse regression, trained a step at a time: random gradients would hide wiring mistakes."""

    def __init__(
        self,
        name: str,
        counts: dict[str, int] | None = None,
        seed: int = 0,
        schedule: TopologySchedule = SCHEDULE,
        order: Sequence[str] = tuple(SHAPES),
    ) -> None:
        density = 1.0 if name == "dense" else 0.25
        counts = counts or layer_counts(SHAPES, density, "erk")
        self.weights = {layer: torch.nn.Parameter(self.normal(layer, SHAPES[layer])) for layer in order}
        counts = {layer: counts[layer] for layer in order}
        self.engine = SparseEngine(self.weights, counts, method(name), schedule, seed)
        self.optimizer = AdamW(self.weights.values(), lr=1e-2, weight_decay=0.1, aged=True)

    @staticmethod
    def normal(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(sum(name.encode())))

    def step(self, step: int) -> int | None:
        """Fit a linear map of each layer for one step; returns the replaced weights, if any could be."""
        self.optimizer.zero_grad()
        for layer, weight in self.weights.items():
            x = self.normal(f"{layer}{step}", (16, weight.shape[1]))
            target = x @ self.normal(f"{layer}*", tuple(weight.shape)).T
            (x @ weight.T - target).square().mean().backward()
        self.engine.before_step(step)
        self.optimizer.step()
        update = self.engine.after_step(step, self.optimizer)
        return sum(update.replaced.values()) if update else None


@pytest.mark.parametrize("name", METHODS)
def test_counts_and_zeros_hold_throughout_training(name: str) -> None:
    run = Run(name)
    start = run.engine.mask_hash()
    for step in range(1, SCHEDULE.steps + 1):
        replaced = run.step(step)
        run.engine.check()
        for layer, mask in run.engine.masks.items():
            weight, state = run.weights[layer], run.optimizer.state[run.weights[layer]]
            assert weight.grad is not None
            for tensor in (weight, state["exp_avg"], state["exp_avg_sq"]):
                assert tensor[~mask].eq(0).all()
        dynamic_step = name in ("set", "rigl") and step in SCHEDULE.update_steps
        assert (replaced is not None) == dynamic_step
    assert (run.engine.mask_hash() != start) == (name in ("set", "rigl"))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    density=st.floats(0, 1),
    fraction=st.floats(0, 1, exclude_max=True),
    name=st.sampled_from(["static", "set", "rigl"]),
    seed=st.integers(0, 2**63),
)
def test_properties(shape: tuple[int, int], density: float, fraction: float, name: str, seed: int) -> None:
    numel = shape[0] * shape[1]
    count = min(numel, 1 + int(density * numel))
    weight = torch.nn.Parameter(torch.ones(shape))  # nothing but ties
    schedule = TopologySchedule(2, 1, fraction, fraction, 1.0)
    engine = SparseEngine({"w": weight}, {"w": count}, method(name), schedule, seed)
    optimizer = AdamW([weight], aged=True)
    for step in (1, 2):
        weight.grad = torch.ones(shape)
        engine.before_step(step)
        optimizer.step()
        engine.after_step(step, optimizer)
        engine.check()
        assert int(weight.count_nonzero()) <= count
    assert engine.active == count
    assert engine.maskable == numel
    for mask in engine.masks.values():
        assert mask.shape == weight.shape
        assert mask.dtype == torch.bool


def test_only_gradient_growth_asks_for_dense_gradients() -> None:
    asks = {name: [s for s in range(1, 13) if Run(name).engine.needs_gradient(s)] for name in METHODS}
    assert asks == {"dense": [], "static": [], "set": [], "rigl": list(SCHEDULE.update_steps)}


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_order_of_layers_decides_nothing(name: str) -> None:
    forward, backward = Run(name), Run(name, order=tuple(reversed(SHAPES)))
    for step in range(1, 13):
        forward.step(step)
        backward.step(step)
        assert forward.engine.mask_hash() == backward.engine.mask_hash()


@pytest.mark.parametrize("name", ["static", "set", "rigl"])
def test_seed_decides(name: str) -> None:
    runs = [Run(name, seed=seed) for seed in (0, 0, 1)]
    torch.manual_seed(1)  # the global stream is not used
    for run in runs:
        for step in range(1, 4):
            run.step(step)
    hashes = [run.engine.mask_hash() for run in runs]
    assert hashes[0] == hashes[1] != hashes[2]


def test_layers_and_steps_draw_apart() -> None:
    counts = {"a": 20, "b": 20}
    weights = {name: torch.nn.Parameter(torch.ones(8, 8)) for name in counts}
    engine = SparseEngine(weights, counts, method("set"), SCHEDULE, 0)
    assert not engine.masks["a"].equal(engine.masks["b"])
    alone = SparseEngine({"b": weights["b"]}, {"b": 20}, method("set"), SCHEDULE, 0)
    assert engine.masks["b"].equal(alone.masks["b"])


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_resumed_run_makes_the_same_choices(name: str) -> None:
    straight, first = Run(name), Run(name)
    for step in range(1, 6):
        straight.step(step)
        first.step(step)
    resumed = Run(name)
    with torch.no_grad():
        for layer, weight in resumed.weights.items():
            weight.copy_(first.weights[layer])
    resumed.engine.load_state_dict(first.engine.state_dict())
    resumed.optimizer.load_state_dict(deepcopy(first.optimizer.state_dict()))
    assert resumed.engine.mask_hash() == first.engine.mask_hash()
    for step in range(6, 13):
        assert straight.step(step) == resumed.step(step)
    assert straight.engine.mask_hash() == resumed.engine.mask_hash()
    for layer, weight in straight.weights.items():
        assert weight.equal(resumed.weights[layer])


def test_dense_is_plain_training_bit_for_bit() -> None:
    run, plain = Run("dense"), Run("dense")
    assert run.engine.masks == {}
    assert run.engine.active == run.engine.maskable == sum(r * c for r, c in SHAPES.values())
    plain.engine = SparseEngine({}, {}, method("dense"), SCHEDULE, 0)  # touches nothing
    for step in range(1, 13):
        run.step(step)
        plain.step(step)
    for layer, weight in run.weights.items():
        assert weight.equal(plain.weights[layer])


def test_grown_weights_are_newborn() -> None:
    run = Run("rigl")
    for step in range(1, SCHEDULE.update_steps[1]):
        run.step(step)
    before = {layer: mask.clone() for layer, mask in run.engine.masks.items()}
    replaced = run.step(SCHEDULE.update_steps[1])
    grown = {layer: mask & ~before[layer] for layer, mask in run.engine.masks.items()}
    assert replaced == sum(int(new.sum()) for new in grown.values()) > 0
    for layer, new in grown.items():
        state = run.optimizer.state[run.weights[layer]]
        for tensor in (run.weights[layer], state["exp_avg"], state["exp_avg_sq"], state["age"]):
            assert tensor[new].eq(0).all()
        assert state["age"].max() == SCHEDULE.update_steps[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["static", "set", "rigl"])
def test_topology_is_the_same_on_every_device(name: str) -> None:
    hashes: dict[str, list[str]] = {"cpu": [], "cuda": []}
    for device, found in hashes.items():
        weights = {layer: torch.nn.Parameter(Run.normal(layer, shape).to(device)) for layer, shape in SHAPES.items()}
        engine = SparseEngine(weights, layer_counts(SHAPES, 0.25, "erk"), method(name), SCHEDULE, 0)
        optimizer = AdamW(weights.values(), lr=0.0, aged=True)  # equal weights: only the topology is compared
        found.append(engine.mask_hash())
        for step in range(1, 13):
            for layer, weight in weights.items():
                weight.grad = Run.normal(f"{layer}{step}", SHAPES[layer]).to(device)
            engine.before_step(step)
            optimizer.step()
            engine.after_step(step, optimizer)
            found.append(engine.mask_hash())
        assert all(mask.device.type == device for mask in engine.masks.values())
    assert hashes["cpu"] == hashes["cuda"]


def test_infinite_gradient_of_an_inactive_weight_is_masked() -> None:
    run = Run("static")
    weight, mask = run.weights["up"], run.engine.masks["up"]
    weight.grad = torch.where(mask, 1.0, torch.inf)
    run.engine.before_step(1)
    assert weight.grad.equal(mask.float())


def test_nan_gradients_keep_counts_exact() -> None:
    run = Run("rigl")
    step = SCHEDULE.update_steps[0]
    for layer, weight in run.weights.items():
        weight.grad = torch.where(run.engine.masks[layer], 1.0, torch.nan)
    run.engine.before_step(step)
    run.optimizer.step()
    assert run.engine.after_step(step, run.optimizer) is not None


def test_divergence_is_no_broken_topology() -> None:
    """Clipping by a NaN norm makes every gradient NaN, masked or not; the loss is what reports it."""
    run = Run("set")
    step = SCHEDULE.update_steps[0]
    for weight in run.weights.values():
        weight.grad = torch.full_like(weight, torch.nan)
    run.engine.before_step(step)
    torch.nn.utils.clip_grad_norm_(run.weights.values(), 1.0)
    run.optimizer.step()
    assert all(weight.isnan().all() for weight in run.weights.values())
    assert run.engine.after_step(step, run.optimizer) is not None


def test_check_finds_a_wrong_weight_and_a_wrong_mask() -> None:
    run = Run("set")
    mask = run.engine.masks["up"]
    with torch.no_grad():
        run.weights["up"][~mask] = 1e-30
    with pytest.raises(RuntimeError, match="up has inactive weights that are not zero"):
        run.engine.check()
    mask.fill_(True)
    with pytest.raises(RuntimeError, match="up has 288 active weights"):
        run.engine.check()


def test_bad_input() -> None:
    weights = {"a": torch.nn.Parameter(torch.ones(2, 2))}
    static, bad = method("static"), pytest.raises(InputError)
    for counts in ({"b": 1}, {"a": 0}, {"a": 5}, {}):
        with bad:
            SparseEngine(weights, counts, static, SCHEDULE, 0)
    with pytest.raises(InputError, match="density"):
        SparseEngine(weights, {"a": 2}, method("dense"), SCHEDULE, 0)
    engine = SparseEngine(weights, {"a": 2}, static, SCHEDULE, 0)
    with pytest.raises(InputError, match="Resume with the same cell"):
        engine.load_state_dict({"masks": {}})
    other = SparseEngine(weights, {"a": 3}, static, SCHEDULE, 0)
    with pytest.raises(InputError, match="3: active weights instead of 2"):
        engine.load_state_dict(other.state_dict())

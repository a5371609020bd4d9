"""What must hold for every method, shape, block and density; and that nothing but the seed and the tensors decides."""

import gc
import io
import math
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

from sparsedc.config import NewbornPolicy
from sparsedc.errors import InputError
from sparsedc.optim import POLICIES, Newborn, SparseAdamW
from sparsedc.sparsity import engine as engine_module
from sparsedc.sparsity.distribution import layer_counts
from sparsedc.sparsity.engine import SparseEngine
from sparsedc.sparsity.history import TopologyUpdate
from sparsedc.sparsity.methods import METHODS, Growing, Momentum, method
from sparsedc.sparsity.schedule import TopologySchedule

SHAPES = {"up": (16, 8), "gate": (16, 8), "down": (8, 16), "attention": (8, 8)}
STEPS, UPDATES = 22, (6, 12, 18)
SCHEDULE = TopologySchedule(STEPS, 0, 0.4, 0.1, 0.82, 6)
MOVING = sorted(name for name, cls in METHODS.items() if cls.dynamic)
SPARSE = ["static", *MOVING]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small train faster on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Counts = Callable[[int | None], dict[str, int]]


def normal(name: str, shape: Sequence[int]) -> torch.Tensor:
    seed = int.from_bytes(name.encode(), "little") % (2**61 - 1)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def constant(density: float, block: tuple[int, int] = (1, 1)) -> Counts:
    counts = layer_counts(SHAPES, density, "erk", block=block)
    return lambda update: counts


def falling(block: tuple[int, int] = (1, 1), densities: Sequence[float] = (0.9, 0.6, 0.4, 0.25)) -> Counts:
    by_update = {
        update: layer_counts(SHAPES, density, "uniform", block=block)
        for update, density in zip((None, *UPDATES), densities, strict=True)
    }
    return lambda update: by_update[update]


def counts_of(name: str, block: tuple[int, int] = (1, 1)) -> Counts:
    return falling(block) if name == "gmp" else constant(0.3, block)


class Run:
    """Three small matrices that fit a teacher, and one on its own, trained a step at a time."""

    def __init__(
        self, name: str, counts: Counts | None = None, seed: int = 0, order: Sequence[str] = tuple(SHAPES), **more: Any
    ) -> None:
        self.weights = {layer: torch.nn.Parameter(normal(layer, SHAPES[layer])) for layer in order}
        counts = counts or counts_of(name, more.get("block", (1, 1)))
        settings = {"betas": (0.9, 0.95), "weight_decay": 0.1} | more
        self.engine = SparseEngine(self.weights, counts, method(name), SCHEDULE, seed, **settings)

    def loss(self, step: int) -> torch.Tensor:
        return regression(self.weights, step)

    def step(self, step: int) -> TopologyUpdate | None:
        self.engine.begin(step)
        self.loss(step).backward()
        norm = self.engine.gradient_norm()
        assert norm is not None
        self.engine.step(rate(step), (1 / (norm + 1e-6)).clamp(max=1.0))
        return self.engine.update_topology()

    def save(self) -> io.BytesIO:
        file = io.BytesIO()
        torch.save({"weights": {k: w.data for k, w in self.weights.items()}, "engine": self.engine.state_dict()}, file)
        return file

    def load(self, file: io.BytesIO) -> None:
        file.seek(0)
        state = torch.load(file, weights_only=True)
        with torch.no_grad():
            for layer, weight in self.weights.items():
                weight.copy_(state["weights"][layer])
        self.engine.load_state_dict(state["engine"])


def rate(step: int) -> float:
    return 0.03 * (1.1 + math.cos(step / 5))


def regression(weights: dict[str, torch.Tensor], step: int) -> torch.Tensor:
    dtype = weights["up"].dtype
    x = normal(f"x{step}", (32, 8)).to(weights["up"])
    target = (x.float() @ normal("teacher", (8, 8)).to(x.device)).tanh()
    hidden = linear(x, weights["up"]) * linear(x, weights["gate"]).sigmoid()
    out = linear(linear(hidden, weights["down"]), weights["attention"])
    assert out.dtype in (dtype, torch.bfloat16)
    return (out.float() - target).square().mean()


def matrix_masks(engine: SparseEngine) -> dict[str, np.ndarray]:
    """bool [rows, columns] of each layer, from its bits by numpy."""
    masks = {}
    for layer in engine.layers:
        (high, wide), (rows, columns) = layer.blocks.block, layer.weight.shape
        bits = np.unpackbits(layer.bits.cpu().numpy(), bitorder="little")
        assert not bits[layer.blocks.count :].any()
        blocks = bits[: layer.blocks.count].astype(bool).reshape(rows // high, columns // wide)
        masks[layer.name] = blocks.repeat(high, 0).repeat(wide, 1)
    return masks


def assert_invariants(engine: SparseEngine, counts: dict[str, int], diverged: bool = False) -> None:
    """Exact counts, zeros elsewhere, and state for the active blocks and no others."""
    engine.check()
    optimizer, total = engine.optimizer, sum(counts.values())
    assert optimizer is not None
    area = engine.layers[0].blocks.area
    assert engine.active == total * area
    for key in ("master", "mean", "square", "gradient"):
        assert getattr(optimizer, key).shape == (total, area)
    assert optimizer.age.shape == (total,)
    assert [layer.name for layer in engine.layers] == sorted(counts)
    start = 0
    for layer, mask in zip(engine.layers, matrix_masks(engine).values(), strict=True):
        assert int(mask.sum()) == counts[layer.name] * area == layer.active * area
        weight = layer.weight.detach()
        assert weight[~torch.from_numpy(mask)].eq(0).all()
        assert layer.weight.grad is None
        ids = layer.ids()
        assert ids.tolist() == sorted(set(ids.tolist()))
        end = start + counts[layer.name]
        if not diverged:
            expected = optimizer.master[start:end].to(weight.dtype)
            assert layer.blocks.split(weight)[ids].equal(expected)
        start = end


@pytest.mark.parametrize("block", [(1, 1), (1, 4), (2, 2)])
@pytest.mark.parametrize("name", SPARSE)
def test_invariants_hold_throughout_training(name: str, block: tuple[int, int]) -> None:
    for counts in (constant(0.3, block), falling(block)):
        if name == "static" and counts(None) != counts(UPDATES[0]):
            continue
        run = Run(name, counts, block=block)
        start = run.engine.mask_hash()
        assert_invariants(run.engine, counts(None))
        for step in range(1, STEPS + 1):
            update = run.step(step)
            past = [at for at in UPDATES if at <= step] if name != "static" else []
            assert (update is not None) == (step in past)
            assert_invariants(run.engine, counts(past[-1] if past else None))
        moved = name != "static" and (name != "gmp" or counts(None) != counts(UPDATES[0]))
        assert (run.engine.mask_hash() != start) == moved


@pytest.mark.parametrize("name", SPARSE)
def test_training_fits(name: str) -> None:
    run = Run(name)
    before = run.loss(0).item()
    for step in range(1, STEPS + 1):
        run.step(step)
    assert run.loss(0).item() < 0.8 * before


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_properties(data: st.DataObject) -> None:
    block = data.draw(st.sampled_from([(1, 1), (1, 4), (2, 2), (3, 1), (2, 3)]))
    blocks = st.tuples(st.integers(1, 5), st.integers(1, 5))
    shapes = {
        name: (high * block[0], wide * block[1])
        for name, (high, wide) in data.draw(st.dictionaries(st.sampled_from("abc"), blocks, min_size=1)).items()
    }
    name = data.draw(st.sampled_from(SPARSE))
    fraction = data.draw(st.floats(0, 1, exclude_max=True))
    schedule = TopologySchedule(6, 0, fraction, fraction, 1.0, 2)
    number = {layer: rows * columns // (block[0] * block[1]) for layer, (rows, columns) in shapes.items()}
    falls = {
        layer: sorted(data.draw(st.lists(st.integers(1, number[layer]), min_size=3, max_size=3)), reverse=True)
        for layer in shapes
    }
    if name == "static" or data.draw(st.booleans()):
        falls = {layer: [counts[0]] * 3 for layer, counts in falls.items()}

    def counts(update: int | None) -> dict[str, int]:
        return {layer: falls[layer][(update or 0) // 2] for layer in shapes}

    kind = data.draw(st.sampled_from(["ties", "normal", "nan"]))
    dtype = data.draw(st.sampled_from([None, torch.bfloat16]))
    weights = {
        layer: torch.nn.Parameter(torch.ones(shape) if kind == "ties" else normal(layer, shape))
        for layer, shape in shapes.items()
    }
    engine = SparseEngine(
        weights, counts, method(name), schedule, data.draw(st.integers(0, 2**63)), block=block, compute_dtype=dtype,
        together=data.draw(st.booleans()), newborn=Newborn(data.draw(st.sampled_from(POLICIES)), 3), weight_decay=0.1,
    )  # fmt: skip
    for step in range(1, 6):
        engine.begin(step)
        gradients = {
            layer: torch.full(shape, {"ties": 1.0, "nan": torch.nan}[kind])
            if kind != "normal"
            else normal(f"{layer}{step}", shape)
            for layer, shape in shapes.items()
        }
        sum((weight * gradients[layer].to(weight)).sum() for layer, weight in weights.items()).backward()
        engine.gradient_norm()
        engine.step(0.1)
        update = engine.update_topology()
        past = step - step % 2 if name != "static" else 0
        assert_invariants(engine, counts(past or None), diverged=kind == "nan")
        if update is not None:
            assert update.active == [counts(step)[layer] for layer in sorted(shapes)]
            assert all(0 <= new <= now for new, now in zip(update.replaced, update.active, strict=True))


# ------------------------------------------------------------------------------------------- against plain training


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999)])
@pytest.mark.parametrize(
    ("name", "policy", "block"),
    [
        ("static", "reset", (1, 1)),
        ("set", "reset", (1, 4)),
        ("smet", "linear", (1, 1)),
        ("rigl", "naive", (2, 2)),
        ("rigl", "compounding", (1, 4)),
    ],
)
def test_density_one_is_torch_adamw_bit_for_bit(
    name: str, policy: NewbornPolicy, block: tuple[int, int], betas: tuple[float, float]
) -> None:
    """Also over topology updates, which find nothing to do, and at every newborn policy, as nothing is born."""
    newborn = Newborn(policy, 10)
    run = Run(name, constant(1.0, block), block=block, betas=betas, newborn=newborn)
    plain = {layer: torch.nn.Parameter(normal(layer, shape)) for layer, shape in SHAPES.items()}
    adamw = torch.optim.AdamW(plain.values(), betas=betas, weight_decay=0.1)
    clipped = set()
    for step in range(1, 51):
        run.engine.begin(step)
        run.loss(step).backward()
        adamw.zero_grad()
        regression(plain, step).backward()
        gradients = [weight.grad for weight in plain.values() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        ours = run.engine.gradient_norm()
        assert ours is not None
        torch.testing.assert_close(ours, norm)
        clip = ((0.5 if step % 2 else 1e3) / (norm + 1e-6)).clamp(max=1.0)
        clipped.add(bool(clip < 1))
        torch._foreach_mul_(gradients, clip)
        adamw.param_groups[0]["lr"] = rate(step)
        adamw.step()
        run.engine.step(rate(step), clip)
        update = run.engine.update_topology()
        assert update is None or not any(update.replaced)
        for layer, weight in plain.items():
            assert weight.equal(run.weights[layer])
    assert clipped == {False, True}


@pytest.mark.parametrize("block", [(1, 1), (1, 4), (2, 2)])
def test_static_is_plain_training_of_masked_weights(block: tuple[int, int]) -> None:
    """Also where the gradients of inactive weights are infinite: they are left behind, not multiplied by zero."""
    run = Run("static", constant(0.3, block), block=block)
    masks = {layer: torch.from_numpy(mask) for layer, mask in matrix_masks(run.engine).items()}
    plain = {layer: torch.nn.Parameter(normal(layer, shape) * masks[layer]) for layer, shape in SHAPES.items()}
    adamw = torch.optim.AdamW(plain.values(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(1, 11):
        run.engine.begin(step)
        gradients = {layer: normal(f"{layer}{step}", shape) for layer, shape in SHAPES.items()}
        unsafe = {layer: gradient.where(masks[layer], torch.inf) for layer, gradient in gradients.items()}
        for layer, weight in run.weights.items():
            weight.backward(unsafe[layer])
            plain[layer].grad = gradients[layer].where(masks[layer], 0.0)
        norm = run.engine.gradient_norm()
        expected = math.sqrt(sum(float(w.grad.double().square().sum()) for w in plain.values() if w.grad is not None))
        assert float(norm or 0) == pytest.approx(expected, rel=1e-6)
        run.engine.step(0.01)
        adamw.step()
        for layer, weight in plain.items():
            assert weight.equal(run.weights[layer])


def test_dense_is_left_alone() -> None:
    """Without weights the engine has nothing to do at any step."""
    engine = SparseEngine({}, constant(0.3), method("dense"), SCHEDULE, 0)
    engine.begin(UPDATES[0])
    assert engine.gradient_norm() is None
    assert engine.step(0.1) is None
    assert engine.update_topology() is None
    assert engine.active == engine.persistent_bytes() == 0
    assert not engine.updates_at(UPDATES[0])
    other = SparseEngine({}, constant(0.3), method("dense"), SCHEDULE, 1)
    other.load_state_dict(engine.state_dict())
    assert other.mask_hash() == engine.mask_hash()


# ------------------------------------------------------------------------------------------------- what may decide


@pytest.mark.parametrize("name", SPARSE)
def test_order_of_layers_decides_nothing(name: str) -> None:
    forward, backward = Run(name), Run(name, order=tuple(reversed(SHAPES)))
    for step in range(1, STEPS + 1):
        assert forward.step(step) == backward.step(step)
        assert forward.engine.mask_hash() == backward.engine.mask_hash()
    for layer, weight in forward.weights.items():
        assert weight.equal(backward.weights[layer])


@pytest.mark.parametrize("name", SPARSE)
def test_seed_decides(name: str) -> None:
    runs = [Run(name, seed=seed) for seed in (0, 0, 1)]
    torch.manual_seed(1)  # the global stream is not used
    for run in runs:
        for step in range(1, 8):
            run.step(step)
    hashes = [run.engine.mask_hash() for run in runs]
    assert hashes[0] == hashes[1] != hashes[2]


def test_layers_draw_apart() -> None:
    counts = {"a": 20, "b": 20}
    weights = {name: torch.nn.Parameter(torch.ones(8, 8)) for name in counts}
    engine = SparseEngine(weights, lambda at: counts, method("set"), SCHEDULE, 0)
    masks = matrix_masks(engine)
    assert (masks["a"] != masks["b"]).any()
    alone = SparseEngine({"b": torch.nn.Parameter(torch.ones(8, 8))}, lambda at: {"b": 20}, method("set"), SCHEDULE, 0)
    assert (masks["b"] == matrix_masks(alone)["b"]).all()


@pytest.mark.parametrize("name", MOVING)
def test_resumed_at_any_step_it_makes_the_same_choices(name: str) -> None:
    """Within a window of accumulated gradients, at an update, and with a density that falls."""
    more: dict[str, Any] = {"counts": falling((1, 4)), "block": (1, 4), "newborn": Newborn("linear", 5)}
    straight, files = Run(name, **more), []
    updates = []
    for step in range(1, STEPS + 1):
        updates.append(straight.step(step))
        files.append(straight.save())
    for taken, file in enumerate(files, start=1):
        resumed = Run(name, **more)
        resumed.load(file)
        assert [resumed.step(step) for step in range(taken + 1, STEPS + 1)] == updates[taken:]
        assert resumed.engine.mask_hash() == straight.engine.mask_hash()
        for layer, weight in straight.weights.items():
            assert weight.equal(resumed.weights[layer])


def test_only_some_methods_look_at_dense_gradients() -> None:
    looks = {name: list(filter(Run(name).engine.looks_at, range(1, STEPS + 1))) for name in SPARSE}
    assert UPDATES == (6, 12, 18)
    windows = {0: [], 1: [6, 12, 18], 5: [s for s in range(1, 19) if s % 6 != 1], None: list(range(1, 19))}
    assert looks == {name: windows[METHODS[name].window] for name in SPARSE}


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("at_once", [1, 200])
def test_updating_layers_together_changes_nothing(name: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    together = Run(name, falling())
    updates = [together.step(step) for step in range(1, STEPS + 1)]
    assert len(together.engine._batches()) == 1
    monkeypatch.setattr(engine_module, "UPDATED_AT_ONCE", at_once)
    apart = Run(name, falling())
    assert len(apart.engine._batches()) > 1
    assert updates == [apart.step(step) for step in range(1, STEPS + 1)]
    assert together.engine.mask_hash() == apart.engine.mask_hash()
    for layer, weight in together.weights.items():
        assert weight.equal(apart.weights[layer])


def test_each_layer_has_one_gradient_a_step() -> None:
    """A layer's gradient and its new weights take turns in one place: without a gradient it would step by its weights,
    and a second one would replace the first."""
    run = Run("static")
    run.engine.begin(1)
    missing, *others = run.weights
    sum(run.weights[layer].sum() for layer in others).backward()
    for use in (run.engine.gradient_norm, lambda: run.engine.step(0.1)):
        with pytest.raises(RuntimeError, match=f"{missing}: no gradient since begin"):
            use()
    run.weights[missing].sum().backward()
    run.engine.step(0.1)
    run.engine.begin(2)
    with pytest.raises(RuntimeError, match="no gradient since begin"):
        run.engine.step(0.1)
    run.loss(2).backward()
    with pytest.raises(RuntimeError, match="a gradient more than begin\\(\\) was told of"):
        run.loss(2).backward()


def test_an_engine_that_is_no_longer_used_is_freed() -> None:
    run = Run("rigl")
    run.step(1)
    kept, alive = run.weights, weakref.ref(run.engine)
    del run
    gc.collect()
    assert alive() is None
    assert kept


def test_weights_that_leave_the_shared_memory_are_refused() -> None:
    """They would stop training without a word."""
    run = Run("static")
    run.step(1)
    weight = run.weights["gate"]
    weight.data.copy_(weight.data.clone())  # in place it may change
    run.step(2)
    weight.data = weight.data.clone()
    with pytest.raises(RuntimeError, match="gate has left the memory"):
        run.step(3)


def test_a_second_step_needs_a_second_gradient() -> None:
    run = Run("static")
    run.engine.begin(1)
    run.loss(1).backward()
    run.engine.step(0.1)
    with pytest.raises(RuntimeError, match="no gradient since begin"):
        run.engine.step(0.1)


@pytest.mark.parametrize("name", ["static", "rigl", "momentum"])
def test_gradients_are_averaged_without_clipping_too(name: str) -> None:
    halved, plain = Run(name, average=lambda gradient: gradient.mul_(0.5)), Run(name)
    for step in range(1, STEPS + 1):
        for run, share in ((halved, 2.0), (plain, 1.0)):
            run.engine.begin(step)
            (share * run.loss(step)).backward()
            if step % 2:
                run.engine.gradient_norm()
            run.engine.step(0.1)
            run.engine.update_topology()
    assert halved.engine.mask_hash() == plain.engine.mask_hash()
    for layer, weight in halved.weights.items():
        assert weight.equal(plain.weights[layer])


@pytest.mark.parametrize("name", ["rigl", "momentum", "rigl-acc"])
def test_candidates_do_not_outlive_their_update(name: str) -> None:
    run = Run(name)
    for step in range(1, UPDATES[0] + 1):
        run.step(step)
    assert run.engine.growth.candidates == [None] * len(run.engine.layers)


@pytest.mark.parametrize(
    ("weight", "block", "field"),
    [
        (torch.zeros(4, 9), (1, 4), "block"),
        (torch.zeros(9, 4), (2, 2), "block"),
        (torch.zeros(4, 8).T, (1, 1), "weights.w"),
    ],
)
def test_weights_that_blocks_do_not_tile_are_refused(weight: torch.Tensor, block: tuple[int, int], field: str) -> None:
    with pytest.raises(InputError) as error:
        SparseEngine({"w": torch.nn.Parameter(weight)}, lambda at: {"w": 1}, method("set"), SCHEDULE, 0, block=block)
    assert error.value.field == field


@pytest.mark.parametrize("name", MOVING)
def test_taking_layers_together_changes_nothing(name: str) -> None:
    kept, made = (Run(name, falling(), together=keep) for keep in (True, False))
    for step in range(1, STEPS + 1):
        assert kept.step(step) == made.step(step)
    assert kept.engine.mask_hash() == made.engine.mask_hash()
    for layer, weight in kept.weights.items():
        assert weight.equal(made.weights[layer])


RANKS = 2
AVERAGING = ("rigl", "set", "momentum", "rigl-acc", "smet")


def train_on(gradient: Callable[[str, int], torch.Tensor], name: str, **more: Any) -> dict[str, Any]:
    """Masks after every step, and the weights at the end, of training by given gradients."""
    run, hashes = Run(name, **more), []
    for step in range(1, STEPS + 1):
        run.engine.begin(step)
        sum((run.weights[layer] * gradient(layer, step)).sum() for layer in SHAPES).backward()
        norm = run.engine.gradient_norm()
        assert norm is not None
        run.engine.step(rate(step), (1 / norm).clamp(max=1.0))
        run.engine.update_topology()
        hashes.append(run.engine.mask_hash())
    return {"hashes": hashes, "weights": {layer: run.weights[layer].data for layer in SHAPES}}


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=RANKS)

    def average(tensor: torch.Tensor) -> None:
        torch.distributed.all_reduce(tensor)
        tensor /= RANKS

    order = tuple(SHAPES) if rank == 0 else tuple(reversed(SHAPES))
    results = {
        name: train_on(
            lambda layer, step: normal(f"{layer}{step}/{rank}", SHAPES[layer]), name, average=average, order=order
        )
        for name in AVERAGING
    }
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_ranks_agree_and_are_one_process_on_the_mean_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(one_rank, (str(tmp_path),), nprocs=RANKS)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]

    def mean(layer: str, step: int) -> torch.Tensor:
        return (normal(f"{layer}{step}/0", SHAPES[layer]) + normal(f"{layer}{step}/1", SHAPES[layer])) / RANKS

    for name in AVERAGING:
        alone = train_on(mean, name)
        assert len(set(alone["hashes"])) == len(UPDATES) + 1
        for rank in ranks:
            assert rank[name]["hashes"] == alone["hashes"]
            for layer in SHAPES:
                assert rank[name]["weights"][layer].equal(alone["weights"][layer])
        apart = train_on(lambda layer, step: normal(f"{layer}{step}/0", SHAPES[layer]), name)
        assert apart["hashes"] != alone["hashes"]  # so that ranks which did not average would be found


@pytest.mark.parametrize("name", ["set", "rigl", "rigl-acc", "momentum"])
def test_ranks_exchange_only_active_gradients_unless_the_method_looks_at_all(name: str) -> None:
    exchanged: list[int] = []
    run = Run(name, average=lambda tensor: exchanged.append(tensor.numel()))
    dense = sorted(rows * columns for rows, columns in SHAPES.values())
    for step in range(1, STEPS + 1):
        exchanged.clear()
        active = run.engine.active
        run.step(step)
        assert sorted(exchanged) == (dense if run.engine.looks_at(step) else [active])


# ---------------------------------------------------------------------------------------------------- what it keeps


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("block", [(1, 1), (1, 4), (2, 2), (4, 4)])
@pytest.mark.parametrize("density", [0.05, 0.25, 0.5, 1.0])
def test_memory(density: float, block: tuple[int, int], together: bool) -> None:
    """2 bytes a weight, 16 an active one, a bit a block; kept ids are 8 more an active block."""
    area = block[0] * block[1]
    counts = {layer: max(1, round(density * rows * columns / area)) for layer, (rows, columns) in SHAPES.items()}
    run = Run("static", lambda at: counts, block=block, compute_dtype=torch.bfloat16, together=together)
    run.step(1)
    run.engine.begin(2)
    run.loss(2).backward()
    assert all(weight.grad is None for weight in run.weights.values())
    total, active = sum(rows * columns for rows, columns in SHAPES.values()), run.engine.active
    blocks = active // area
    bits = sum(-(-rows * columns // area // 8) for rows, columns in SHAPES.values())
    found = run.engine.persistent_bytes()
    assert found == 2 * total + bits + (2 + 3 * 4) * active + 2 * blocks + 8 * blocks * together
    if not together:
        assert found <= (2 + 16 * active / total + 1 / 8) * total


def test_sparse_momentum_keeps_a_mean_of_every_weight() -> None:
    run = Run("momentum")
    before = run.engine.persistent_bytes()
    run.step(1)
    assert run.engine.persistent_bytes() == before + 4 * sum(rows * columns for rows, columns in SHAPES.values())


@pytest.mark.parametrize("name", ["gmp", "rigl"])
def test_state_shrinks_with_the_density(name: str) -> None:
    run = Run(name, falling())
    assert run.engine.optimizer is not None
    for step in range(1, STEPS + 1):
        before = run.engine.persistent_bytes()
        update = run.step(step)
        assert (run.engine.persistent_bytes() < before) == (update is not None)
        for key in (*SparseAdamW.STATE, "gradient"):
            tensor = getattr(run.engine.optimizer, key)
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("name", ["rigl", "smet"])
def test_half_precision_weights_are_the_rounded_full_ones(name: str) -> None:
    run = Run(name, compute_dtype=torch.bfloat16, block=(1, 4))
    assert run.engine.optimizer is not None
    for step in range(1, STEPS + 1):
        run.step(step)
        assert all(weight.dtype == torch.bfloat16 for weight in run.weights.values())
        assert run.engine.optimizer.master.dtype == torch.float32
        assert_invariants(run.engine, constant(0.3, (1, 4))(None))
    master = run.engine.optimizer.master
    assert not master.equal(master.bfloat16().float())


# -------------------------------------------------------------------------------------------------- what it observes


@pytest.mark.parametrize("block", [(1, 1), (2, 2)])
@pytest.mark.parametrize("name", MOVING)
def test_what_an_update_reports_is_counted_from_the_history_of_masks(name: str, block: tuple[int, int]) -> None:
    run = Run(name, falling(block), block=block)
    names = sorted(SHAPES)

    def masks() -> list[list[bool]]:
        return [layer.mask().tolist() for layer in run.engine.layers]

    history = [masks()]
    births = [[0 for _ in mask] for mask in history[0]]  # step after which a block was born
    chosen = method(name)
    takes_back = isinstance(chosen, Growing) and chosen.takes_back
    for step in range(1, STEPS + 1):
        update = run.step(step)
        if update is None:
            continue
        before, now = history[-1], masks()
        pairs = [list(zip(a, b, strict=True)) for a, b in zip(before, now, strict=True)]
        assert update.step == step
        if takes_back:  # masks do not show what was dropped and taken back at once
            share = SCHEDULE.drop_fraction_at(step)
            dropped = sum(
                sum(a) - sum(b) + min(math.floor(share * sum(b)), len(b) - sum(b))
                for a, b in zip(before, now, strict=True)
            )
        else:
            dropped = sum(a and not b for pair in pairs for a, b in pair)
        assert update.drop_fraction == dropped / sum(map(sum, before)) > 0
        assert update.active == [sum(mask) for mask in now] == [falling(block)(step)[layer] for layer in names]
        assert update.replaced == [sum(b and not a for a, b in pair) for pair in pairs]
        ages = [
            step - born
            for mask, of_layer in zip(before, births, strict=True)
            for active, born in zip(mask, of_layer, strict=True)
            if active
        ]
        if not takes_back or len(history) == 1:  # masks do not show what was dropped and taken back at once
            quartiles = np.percentile(ages, [0, 25, 50, 75, 100], method="inverted_cdf")
            assert update.ages == quartiles.tolist()
        history.append(now)
        flat = [[on for mask in masks for on in mask] for masks in history]
        start, end = flat[0], flat[-1]
        both = sum(a and b for a, b in zip(start, end, strict=True))
        assert update.overlap == both / sum(start)
        assert update.explored == sum(map(any, zip(*flat, strict=True))) / len(start)
        births = [
            [step if b and not a else born for (a, b), born in zip(pair, of_layer, strict=True)]
            for pair, of_layer in zip(pairs, births, strict=True)
        ]
    assert len(history) == len(UPDATES) + 1


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("first", [1, UPDATES[0], UPDATES[0] + 1])
def test_divergence_is_no_broken_topology(name: str, first: int) -> None:
    """NaN everywhere from a step on, as after clipping by a NaN norm; the loss is what reports it."""
    counts = falling()
    run = Run(name, counts)
    for step in range(1, STEPS + 1):
        if step < first:
            run.step(step)
            continue
        run.engine.begin(step)
        for weight in run.weights.values():
            weight.backward(torch.full_like(weight, torch.nan))
        run.engine.step(0.1, torch.tensor(torch.nan))
        assert (run.engine.update_topology() is not None) == (step in UPDATES)
        past = [at for at in UPDATES if at <= step]
        assert_invariants(run.engine, counts(past[-1] if past else None), diverged=True)
    assert all(weight.isnan().any() for weight in run.weights.values())


def test_check_finds_a_wrong_weight_and_a_wrong_mask() -> None:
    run = Run("set")
    layer = next(layer for layer in run.engine.layers if layer.name == "up")
    with torch.no_grad():
        place = (~layer.mask()).nonzero()[0]
        layer.weight.view(-1)[place] = 1e-30
    with pytest.raises(RuntimeError, match="up has inactive weights that are not zero"):
        run.engine.check()
    with torch.no_grad():
        layer.weight.view(-1)[place] = 0.0
    run.engine.check()
    layer.bits.fill_(255)
    with pytest.raises(RuntimeError, match="up has 128 active blocks instead of"):
        run.engine.check()


def test_a_broken_topology_stops_training() -> None:
    run = Run("set")
    run.engine.begin(UPDATES[0])
    run.loss(1).backward()
    run.engine.step(0.1)
    layer = run.engine.layers[0]
    with torch.no_grad():
        layer.weight.view(-1)[(~layer.mask()).nonzero()[0]] = 1.0
    with pytest.raises(RuntimeError, match="not zero"):
        run.engine.update_topology()


@pytest.mark.parametrize("counts", [{"b": 1}, {"a": 0}, {"a": 5}, {}, {"a": 1, "b": 1}])
def test_counts_must_be_those_of_the_layers(counts: dict[str, int]) -> None:
    weights = {"a": torch.nn.Parameter(torch.ones(2, 2))}
    with pytest.raises(InputError) as error:
        SparseEngine(weights, lambda at: counts, method("static"), SCHEDULE, 0)
    assert error.value.field.startswith("counts")


def test_state_of_another_cell_is_refused() -> None:
    run, fuller = Run("rigl"), Run("rigl", constant(0.5))
    with pytest.raises(InputError, match="Resume with the same cell"):
        run.engine.load_state_dict({"masks": {}})
    with pytest.raises(InputError, match=r"active blocks instead of") as error:
        run.engine.load_state_dict(fuller.engine.state_dict())
    assert error.value.field.startswith("masks.")
    early, late = Run("gmp"), Run("gmp")
    for step in range(1, UPDATES[0] + 1):
        late.step(step)
    state = late.engine.state_dict()
    early.engine.load_state_dict(state)
    assert early.engine.active == late.engine.active
    state["optimizer"]["steps"] = UPDATES[0] - 1  # by then the density had not fallen yet
    with pytest.raises(InputError, match=r"active blocks instead of"):
        early.engine.load_state_dict(state)


# ------------------------------------------------------------------------------------------------------------ GPU


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("block", [(1, 1), (1, 4), (2, 2)])
@pytest.mark.parametrize("name", SPARSE)
def test_topology_is_the_same_on_every_device(
    name: str, block: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a learning rate of zero weights stay equal, and only the topology is compared; it has ties."""
    monkeypatch.setattr(Momentum, "decay", 0.5)  # running means without rounding, in which devices differ
    hashes: dict[str, list[str]] = {"cpu": [], "cuda": []}
    for device, found in hashes.items():
        weights = {k: torch.nn.Parameter(normal(k, s).mul(2).round().to(device)) for k, s in SHAPES.items()}
        engine = SparseEngine(weights, counts_of(name, block), method(name), SCHEDULE, 0, block=block)
        found.append(engine.mask_hash())
        for step in range(1, STEPS + 1):
            engine.begin(step)
            for layer, weight in weights.items():
                weight.backward(normal(f"{layer}{step}", SHAPES[layer]).mul(2).round().to(device))
            engine.gradient_norm()
            engine.step(0.0)
            engine.update_topology()
            found.append(engine.mask_hash())
        assert all(layer.bits.device.type == device for layer in engine.layers)
    assert hashes["cpu"] == hashes["cuda"]


@needs_gpu
def test_half_precision_weights_train_as_full_ones_under_autocast() -> None:
    """The same masks, and torch's AdamW on masked float32 weights: the losses are those of rounding."""
    device = torch.device("cuda")
    weights = {layer: torch.nn.Parameter(normal(layer, shape).to(device)) for layer, shape in SHAPES.items()}
    plain = {layer: torch.nn.Parameter(weight.detach().clone()) for layer, weight in weights.items()}
    engine = SparseEngine(weights, constant(0.3), method("static"), SCHEDULE, 0, compute_dtype=torch.bfloat16)
    masks = {layer: torch.from_numpy(mask).to(device) for layer, mask in matrix_masks(engine).items()}
    adamw = torch.optim.AdamW(plain.values(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.0)
    with torch.no_grad():
        for layer, weight in plain.items():
            weight *= masks[layer]
    losses: list[list[float]] = [[], []]
    for step in range(1, 61):
        engine.begin(step)
        loss = regression(weights, step)
        loss.backward()
        engine.gradient_norm()
        engine.step(0.01)
        adamw.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            theirs = regression(plain, step)
        theirs.backward()
        for layer, weight in plain.items():
            assert weight.grad is not None
            weight.grad *= masks[layer]
        adamw.step()
        losses[0].append(loss.item())
        losses[1].append(theirs.item())
    assert losses[1][-1] < 0.8 * losses[1][0]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    for layer, weight in plain.items():
        assert weights[layer][~masks[layer]].eq(0).all()
        torch.testing.assert_close(weights[layer].float(), weight.detach(), rtol=2e-2, atol=2e-2)


def test_counts_that_rise_are_refused_before_anything_moves() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 4))
    engine = SparseEngine(
        {"a": weight},
        lambda step: {"a": 4 if step is None else 5},
        method("set"),
        TopologySchedule(4, 3, 0.5, 0.5, 1.0),
        0,
    )
    before = engine.mask_hash()
    engine.begin(1)
    weight.sum().backward()
    engine.step(0.0)
    with pytest.raises(InputError, match=r"counts\.a = 5: rises from 4"):
        engine.update_topology()
    assert engine.mask_hash() == before


@pytest.mark.parametrize("name", MOVING)
def test_nothing_is_remembered_after_the_last_update(name: str) -> None:
    run = Run(name)
    last = SCHEDULE.update_steps[-1]
    for step in range(1, last):
        run.step(step)
    assert all(run.engine.growth.memories) == (name in ("momentum", "rigl-acc"))
    held = run.engine.persistent_bytes()
    run.step(last)
    run.step(last + 1)
    assert not any(run.engine.growth.memories)
    if name == "momentum":
        assert run.engine.persistent_bytes() == held - 4 * sum(weight.numel() for weight in run.weights.values())

"""Each method's topology updates against a slow reference written from its definition."""

import subprocess
import sys

import plain
import pytest
import torch

from sparsedc.errors import InputError
from sparsedc.sparsity.draws import Draws
from sparsedc.sparsity.engine import SparseEngine
from sparsedc.sparsity.layer import activate
from sparsedc.sparsity.methods import METHODS, Momentum, method
from sparsedc.sparsity.schedule import TopologySchedule

SHAPES = {"first": (4, 8), "second": (6, 4)}
SEED, INTERVAL, UPDATES = 7, 5, 3  # as many steps from update to update as rigl-acc looks at
MOVING = sorted(name for name, cls in METHODS.items() if cls.dynamic)

#: fraction dropped, and density before the first update and after each
CASES = {
    "steady": (0.4, (0.3, 0.3, 0.3, 0.3)),
    "nothing is dropped": (0.0, (0.3, 0.3, 0.3, 0.3)),
    "almost all are dropped": (0.999, (0.6, 0.6, 0.6, 0.6)),
    "full": (0.4, (1.0, 1.0, 1.0, 1.0)),
    "one block": (0.4, (0.0, 0.0, 0.0, 0.0)),
    "falls": (0.4, (0.9, 0.6, 0.5, 0.2)),
    "falls from dense to one block": (0.3, (1.0, 0.5, 0.5, 0.0)),
    "only falls": (0.0, (1.0, 0.8, 0.4, 0.1)),
}


def ties(seed: str, shape: tuple[int, int]) -> torch.Tensor:
    """Few distinct magnitudes, none of them zero; sums and halves of them are exact."""
    generator = torch.Generator().manual_seed(sum(seed.encode()))
    magnitude = torch.randint(1, 4, shape, generator=generator).float()
    return magnitude * (torch.randint(0, 2, shape, generator=generator).float() * 2 - 1)


@pytest.mark.parametrize("block", [(1, 1), (1, 4), (2, 2)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MOVING)
def test_updates_are_the_definition(
    name: str, case: str, block: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Momentum, "decay", 0.5)  # halves are exact, and so are ties; 0.9 has a test of its own
    fraction, densities = CASES[case]
    schedule = TopologySchedule(INTERVAL * UPDATES + 1, 0, fraction, fraction, 1.0, INTERVAL)
    blocks = {layer: rows * columns // (block[0] * block[1]) for layer, (rows, columns) in SHAPES.items()}

    def counts(update: int | None) -> dict[str, int]:
        density = densities[0 if update is None else update // INTERVAL]
        return {layer: max(1, round(density * number)) for layer, number in blocks.items()}

    start = {layer: ties(layer, shape) for layer, shape in SHAPES.items()}
    weights = {layer: torch.nn.Parameter(values.clone()) for layer, values in start.items()}
    engine = SparseEngine(weights, counts, method(name), schedule, SEED, block=block)
    references = {
        layer: plain.PlainLayer(layer, name, SEED, plain.cut(start[layer].tolist(), block), count, decay=0.5)
        for layer, count in counts(None).items()
    }
    assert_same(engine, references, block)
    for step in range(1, INTERVAL * UPDATES + 2):
        gradients = {layer: ties(f"{layer}{step}", shape) for layer, shape in SHAPES.items()}
        engine.begin(step)
        sum((weight * gradients[layer]).sum() for layer, weight in weights.items()).backward()
        engine.step(0.0)
        for layer, reference in references.items():
            reference.step(plain.cut(gradients[layer].tolist(), block))
        update = engine.update_topology()
        assert (update is not None) == (step % INTERVAL == 0)
        if update is None:
            continue
        replaced = [reference.update(fraction, counts(step)[layer], step) for layer, reference in references.items()]
        assert update.replaced == replaced
        assert update.active == [sum(reference.active) for reference in references.values()]
        assert_same(engine, references, block)
        refill(engine, references, step, block)


def assert_same(engine: SparseEngine, references: dict[str, plain.PlainLayer], block: tuple[int, int]) -> None:
    assert engine.optimizer is not None
    rows: dict[str, list[object]] = {"master": [], "mean": [], "square": [], "age": []}
    for layer, reference in zip(engine.layers, references.values(), strict=True):
        assert layer.mask().tolist() == reference.active
        assert plain.cut(layer.weight.tolist(), block) == reference.weights
        on = [i for i, active in enumerate(reference.active) if active]
        sources = (reference.weights, reference.mean, reference.square, reference.ages)
        for found, source in zip(rows.values(), sources, strict=True):
            found += [source[i] for i in on]
    assert engine.optimizer.age.tolist() == rows["age"]
    assert engine.optimizer.master.tolist() == rows["master"]
    for moment in ("mean", "square"):
        expected = torch.tensor(rows[moment])
        torch.testing.assert_close(getattr(engine.optimizer, moment), expected, rtol=1e-5, atol=1e-7)
        assert getattr(engine.optimizer, moment).eq(0).equal(expected.eq(0))


def refill(engine: SparseEngine, references: dict[str, plain.PlainLayer], step: int, block: tuple[int, int]) -> None:
    """Give active weights new values: grown ones would stay zero at this learning rate, and all be dropped again."""
    assert engine.optimizer is not None
    rows = []
    for layer, reference in references.items():
        fresh = plain.cut(ties(f"{layer}+{step}", SHAPES[layer]).tolist(), block)
        reference.weights = [
            values if on else zeros
            for values, zeros, on in zip(fresh, reference.weights, reference.active, strict=True)
        ]
        rows += [values for values, on in zip(fresh, reference.active, strict=True) if on]
    engine.optimizer.master.copy_(torch.tensor(rows))


def test_cases_tell_methods_apart() -> None:
    """Else one method's reference would do for another."""
    hashes = {}
    for name in MOVING:
        weights = {layer: torch.nn.Parameter(ties(layer, shape)) for layer, shape in SHAPES.items()}
        schedule = TopologySchedule(6, 0, 0.4, 0.4, 1.0, 5)
        counts = dict.fromkeys(SHAPES, 12)
        falls = dict.fromkeys(SHAPES, 24)
        engine = SparseEngine(weights, lambda at, a=counts, b=falls: a if at else b, method(name), schedule, SEED)
        for step in range(1, 6):
            engine.begin(step)
            sum((w * ties(f"{layer}{step}", SHAPES[layer])).sum() for layer, w in weights.items()).backward()
            engine.step(0.0)
            engine.update_topology()
        hashes[name] = engine.mask_hash()
    assert len(set(hashes.values())) == len(MOVING), hashes


def one_update(
    name: str, weight: list[float], gradients: list[list[float]], active: list[int], seed: int = 0
) -> list[int]:
    """Ids of the active weights of a single row after one update that replaces half of them."""
    parameter = torch.nn.Parameter(torch.tensor([weight]))
    schedule = TopologySchedule(len(gradients) + 1, 0, 0.5, 0.5, 1.0, len(gradients))
    engine = SparseEngine({"w": parameter}, lambda at: {"w": len(active)}, method(name), schedule, seed, together=False)
    activate(engine.layers, torch.tensor(active), [len(active)])
    with torch.no_grad():
        parameter.copy_(torch.tensor([[w if i in active else 0.0 for i, w in enumerate(weight)]]))
    assert engine.optimizer is not None
    engine.optimizer.master.copy_(torch.tensor([[weight[i]] for i in active]))
    for step, gradient in enumerate(gradients, start=1):
        engine.begin(step)
        (parameter * torch.tensor([gradient])).sum().backward()
        engine.step(0.0)
        update = engine.update_topology()
    assert update is not None
    return engine.layers[0].ids().tolist()


def test_rigl_may_take_back_what_it_drops_and_smet_never_does() -> None:
    gradient = [[9.0, 1.0, 2.0, 3.0]]
    assert one_update("rigl", [1.0, 2.0, 3.0, 4.0], gradient, [0, 1]) == [0, 1]  # 0 dropped, and its gradient largest
    assert one_update("rigl-acc", [1.0, 2.0, 3.0, 4.0], gradient, [0, 1]) == [1, 3]
    after = {
        name: {tuple(one_update(name, [1.0, 2.0, 3.0, 4.0], gradient, [0, 1], seed)) for seed in range(30)}
        for name in ("set", "smet")
    }
    assert after == {"set": {(0, 1), (1, 2), (1, 3)}, "smet": {(1, 2), (1, 3)}}


def test_sparse_momentum_weighs_gradients_as_published() -> None:
    """Decay 0.9: 2 now is 0.2, and 2.2 a step ago 0.198; with a decay of 0.92 and more the order is the other."""
    nows, befores = [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.2]
    assert one_update("momentum", [1.0, 2.0, 0.0, 0.0], [befores, nows], [0, 1]) == [1, 2]
    befores[3] = 2.25  # 0.2025
    assert one_update("momentum", [1.0, 2.0, 0.0, 0.0], [befores, nows], [0, 1]) == [1, 3]


def test_accumulated_gradients_cancel() -> None:
    """The sum of gradients decides, and not the sum of their sizes; among the candidates of the first step alone."""
    zero = [0.0] * 6
    first, last = [0.0, 0.0, 3.0, 2.0, 1.0, 0.0], [0.0, 0.0, -3.0, 0.0, 9.0, 9.0]
    gradients = [first, zero, zero, zero, last]
    assert one_update("rigl-acc", [1.0, 2.0, 0.0, 0.0, 0.0, 0.0], gradients, [0, 1]) == [1, 3]


def test_soft_magnitude_survival_has_odds_of_the_cube() -> None:
    """Of two weights 1 and 1.5, the smaller survives once in 1 + 1.5³ = 4.375 times."""
    weights = torch.tensor([[1.0], [1.5]])
    drops = method("set-soft").drop_scores
    small = sum(
        bool(scores[0] > scores[1])
        for scores in (drops(weights, Draws({f"odds/{i}": 2}, torch.device("cpu"))) for i in range(4000))
    )
    assert small / 4000 == pytest.approx(1 / 4.375, abs=0.03)  # 4.5 standard errors


def test_gradual_pruning_never_takes_a_weight_back() -> None:
    weight = torch.nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    falling = {None: 64, 1: 40, 2: 20, 3: 7}
    engine = SparseEngine(
        {"a": weight}, lambda step: {"a": falling[step]}, method("gmp"), TopologySchedule(4, 3, 0.0, 0.0, 1.0), 0
    )
    before = engine.layers[0].mask()
    for step in (1, 2, 3):
        engine.begin(step)
        (weight**2).sum().backward()
        engine.step(1e-3)
        update = engine.update_topology()
        after = engine.layers[0].mask()
        assert update is not None
        assert update.replaced == [0]
        assert int(after.sum()) == falling[step]
        assert not (after & ~before).any()
        before = after


@pytest.mark.parametrize("name", ["dense", "static"])
def test_controls_keep_their_topology(name: str) -> None:
    control, weight = method(name), torch.nn.Parameter(torch.ones(4, 4))
    assert not control.dynamic
    assert not control.grows
    assert control.window == 0
    engine = SparseEngine({"a": weight}, lambda step: {"a": 5}, control, TopologySchedule(4, 3, 0.5, 0.5, 1.0), 0)
    before = engine.mask_hash()
    for step in (1, 2, 3, 4):
        engine.begin(step)
        weight.sum().backward()
        engine.step(1e-3)
        assert engine.update_topology() is None
        assert engine.mask_hash() == before


def test_registry() -> None:
    assert all(cls.name == name and cls.source for name, cls in METHODS.items())
    with pytest.raises(InputError, match="dense, static, set, set-soft, rigl"):
        method("rigel")


def test_names_come_without_torch() -> None:
    modules = "methods, distribution, schedule"
    program = f"import sys; from sparsedc.sparsity import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

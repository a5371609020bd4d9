"""What a spec says of a cell's topology: blocks, densities and FLOPs over the course of training."""

import re
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedc import model
from sparsedc.config import Hyperparameters
from sparsedc.errors import InputError
from sparsedc.sparsity.distribution import layer_counts
from sparsedc.sparsity.engine import SparseEngine
from sparsedc.sparsity.methods import METHODS
from sparsedc.spec import Spec
from sparsedc.study import load_study

SHAPE = model.LADDER["13k"]
SHAPES = model.maskable_shapes(SHAPE)
MASKABLE = sum(rows * columns for rows, columns in SHAPES.values())


def make(method: str = "rigl", density: float = 0.25, steps: int = 16, **training: Any) -> Spec:
    return Spec(
        data="0", size="13k", shape=SHAPE, vocab_size=512, sequence_length=64, evaluation_split="validation",
        method=method, density=density, unique_tokens=256 * steps, epochs=1, seed=0,
        training=Hyperparameters.model_validate({"batch_tokens": 256, **training}),
    )  # fmt: skip


@pytest.mark.parametrize("block", [(1, 1), (1, 16), (16, 2), (16, 16)])
def test_block_counts_are_the_distributions(block: tuple[int, int]) -> None:
    spec = make(density=0.5, block=block, distribution="attention", attention_ratio=0.5)
    expected = layer_counts(SHAPES, 0.5, "attention", block=block, attention_ratio=0.5)
    assert spec.block_counts == spec.block_counts_at(None) == spec.block_counts_at(12) == expected
    area = block[0] * block[1]
    assert spec.active_maskable == spec.active_maskable_mean == sum(expected.values()) * area
    assert spec.active_maskable == round(0.5 * MASKABLE / area) * area


def test_counts_that_were_handed_out_may_be_changed() -> None:
    """They come from a cache that all specs share."""
    spec = make()
    before = dict(spec.block_counts)
    spec.block_counts.clear()
    spec.block_counts_at(None).clear()
    assert spec.block_counts == make().block_counts == before


def test_a_dense_model_is_full_whatever_sparse_methods_are_told() -> None:
    sparse = {
        "block": (1, 7), "distribution": "attention", "attention_ratio": 1e-9, "topology_interval": 1000,
        "initial_density": 0.1, "beta2": 0.99999,
    }  # fmt: skip
    spec = make("dense", 1.0, **sparse)
    spec.check()
    assert spec.block == (1, 1)
    assert spec.block_counts == {name: rows * columns for name, (rows, columns) in SHAPES.items()}
    assert spec.active_maskable == spec.active_maskable_mean == MASKABLE
    assert spec.topology.update_steps == ()
    assert spec.flops(sparse=True) == spec.flops(sparse=False)
    assert spec.content() == make("dense", 1.0, beta2=0.99999).content()


def test_the_topology_of_a_fixed_method_never_changes() -> None:
    spec = make("static", topology_interval=1000)  # of other cells of its study
    spec.check()
    assert spec.topology.update_steps == ()
    assert spec.active_maskable_mean == spec.active_maskable


def test_falling_density_by_value() -> None:
    """Three updates over 12 of 16 steps: density 1 for 4 steps, then 0.75, 0.5 and 0.25."""
    spec = make(initial_density=1.0, density_shape="linear", topology_updates=3)
    spec.check()
    assert spec.topology.update_steps == (4, 8, 12)
    assert [sum(spec.block_counts_at(step).values()) for step in (None, 4, 8, 12)] == [
        MASKABLE, MASKABLE * 3 // 4, MASKABLE // 2, MASKABLE // 4,
    ]  # fmt: skip
    assert spec.active_maskable == MASKABLE // 4
    assert spec.active_maskable_mean == MASKABLE * (1 + 0.75 + 0.5 + 0.25) / 4
    dense, half = spec.flops(sparse=False), make(density=0.625).flops(sparse=True)
    assert half == spec.flops(sparse=True) < dense  # 0.625 is the mean of the four


@settings(deadline=None)
@given(
    st.sampled_from(["gmp", "rigl", "set"]), st.floats(0.05, 1), st.floats(0.05, 1), st.integers(2, 60),
    st.integers(1, 40), st.sampled_from(["cubic", "cosine", "linear"]), st.sampled_from([(1, 1), (1, 16), (8, 8)]),
    st.booleans(), st.floats(0.3, 1),
)  # fmt: skip
def test_the_mean_is_over_the_steps_and_the_topology_each_was_trained_with(
    method: str,
    one: float,
    other: float,
    steps: int,
    often: int,
    shape: Any,
    block: Any,
    by_interval: bool,
    stop: float,
) -> None:
    """By walking through training, one step after the other."""
    density, initial = sorted((one, other))
    rule = {"topology_interval" if by_interval else "topology_updates": often}
    spec = make(
        method, density, steps, initial_density=initial, density_shape=shape, block=block, topology_stop=stop, **rule
    )
    try:
        spec.check()
    except InputError:  # too few steps or blocks, or density 1
        return
    area = block[0] * block[1]
    now, walked, held = spec.block_counts_at(None), 0, []
    assert 0 <= sum(now.values()) - round(initial * (MASKABLE // area)) < len(SHAPES)
    for step in range(1, steps + 1):
        walked += sum(now.values()) * area
        held.append(sum(now.values()))
        if step in spec.topology.update_steps:
            before, now = now, spec.block_counts_at(step)
            assert all(now[name] <= before[name] for name in now)  # else a method that only drops could not follow
            # Exact, but for blocks that rounding takes from a layer and gives back to it at a lower density.
            exact = layer_counts(SHAPES, spec.density_schedule.density_at(step), "uniform", block=block)
            assert all(0 <= now[name] - exact[name] <= 1 for name in now)
    assert now == spec.block_counts
    assert held == sorted(held, reverse=True)
    assert spec.active_maskable_mean == pytest.approx(walked / steps, rel=1e-12)
    assert spec.active_maskable == sum(now.values()) * area
    counts = model.count_parameters(SHAPE, 512)
    saved = spec.flops(sparse=False) - spec.flops(sparse=True)
    assert saved == pytest.approx(6 * spec.tokens * (counts.maskable - walked / steps), rel=1e-9, abs=1)


def test_any_density_on_the_way_is_checked() -> None:
    """Largest remainders may leave a layer empty at a density above one that leaves none (the Alabama paradox): of 13
    blocks, 10 and 11 reach every layer with this ratio, and 12 do not."""
    common: dict[str, Any] = {
        "density": 10 / 13, "block": (32, 32), "distribution": "attention", "attention_ratio": 0.8,
        "density_shape": "linear", "drop_fraction": 0.9, "final_drop_fraction": 0.9,
    }  # fmt: skip
    make(**common).check()
    make(**common, initial_density=1.0, topology_updates=1).check()
    make(**common, initial_density=11 / 13, topology_updates=1).check()
    with pytest.raises(InputError, match=r"density = 0\.923.* leaves 1 of 7 layers without a block of 32 × 32"):
        make(**common, initial_density=1.0, topology_updates=3).check()
    with pytest.raises(InputError, match=r"density = 0\.923"):
        make(**common, initial_density=12 / 13, topology_updates=1).check()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 80), st.booleans(), st.floats(0.2, 1))
def test_no_gradient_window_reaches_behind_the_update_before_it(
    often: int, steps: int, by_interval: bool, stop: float
) -> None:
    rule = {"topology_interval" if by_interval else "topology_updates": often}
    spec = make("rigl-acc", steps=steps, topology_stop=stop, **rule)
    try:
        updates = set(spec.topology.update_steps)
    except InputError:
        return
    if not updates:
        with pytest.raises(InputError, match="topology_stop"):
            spec.check()
        return
    # The steps of each window, which must exist and hold no other update.
    clear = all(u >= 5 and updates.isdisjoint(range(u - 4, u)) for u in updates)
    if clear:
        spec.check()
        return
    with pytest.raises(InputError, match="grows by the gradients of 5 steps") as raised:
        spec.check()
    remedy = re.match(r"Give at (most|least) (\d+), or train for more steps", raised.value.remedy)
    assert (remedy is None) == (spec.topology.last < 5)  # then no schedule would do
    if remedy:
        assert remedy[1] == ("least" if by_interval else "most")
        make("rigl-acc", steps=steps, topology_stop=stop, **dict.fromkeys(rule, int(remedy[2]))).check()
        if not by_interval:
            with pytest.raises(InputError, match="grows by the gradients"):
                make("rigl-acc", steps=steps, topology_stop=stop, topology_updates=int(remedy[2]) + 1).check()


class Training:
    """The spec's engine on matrices of its shapes, which it trains to its end."""

    def __init__(self, spec: Spec) -> None:
        weights = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}
        chosen = METHODS[spec.method]()
        engine = SparseEngine(weights, spec.block_counts_at, chosen, spec.topology, 0, block=spec.block)
        self.births = 0
        for step in range(1, spec.steps + 1):
            engine.begin(step)
            sum((weight**2).sum() for weight in weights.values()).backward()  # type: ignore[union-attr]
            engine.step(1e-3)
            before = engine.active
            if (update := engine.update_topology()) is not None:
                dropped = round(update.drop_fraction * before)
                self.births += dropped - (before - engine.active)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["set", "rigl", "smet"]), st.integers(2, 8), st.integers(1, 4), st.floats(0.3, 0.95),
    st.none() | st.just(1.0), st.sampled_from([0.0, 1e-9, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9]),
    st.sampled_from([0.0, 0.1, 0.5]),
)  # fmt: skip
def test_a_growing_method_is_refused_where_its_engine_would_grow_nothing(
    name: str, steps: int, updates: int, density: float, initial: float | None, drop: float, final: float
) -> None:
    """By training it: weights that become active are those that are dropped beyond what the density lost."""
    spec = make(
        name, density, steps, block=(16, 16), topology_updates=updates, initial_density=initial, drop_fraction=drop,
        final_drop_fraction=final, topology_stop=1.0,
    )  # fmt: skip
    refused = None
    try:
        spec.check()
    except InputError as error:
        refused = error.field
    if refused != "density":  # else a layer without a block, or all of them full
        assert refused == (None if Training(spec).births else "drop_fraction")


@pytest.mark.parametrize("method", ["set", "rigl", "momentum", "smet"])
def test_other_methods_may_update_as_often_as_they_like(method: str) -> None:
    make(method, topology_interval=1).check()


@pytest.mark.parametrize("field", ["beta1", "beta2"])
def test_bias_correction_is_over_before_ages_end(field: str) -> None:
    """Where 16-bit ages end, a float32 moment must not see the correction any more: 1 − β^32767 rounds to 1."""
    for beta in (0.0, 0.9, 0.999, 0.9994):
        make(**{field: beta}).check()
        assert 1 - beta**32767 > 1 - 2**-25
    for beta in (0.9995, 0.9999, 0.99999):
        for method in ("static", "rigl"):
            with pytest.raises(InputError, match=f"{field} = {beta}: .*16-bit.* Use 0.9994 or less"):
                make(method, **{field: beta}).check()
        make("dense", 1.0, **{field: beta}).check()


def test_a_study_of_ten_thousand_cells_is_checked_in_seconds() -> None:
    study = {
        "name": "large", "corpus": {"source": "installed"}, "tokenizer": {"vocab_size": 512}, "sequence_length": 64,
        "training": {"batch_tokens": 256, "block": [1, 16]},
        "grid": [{
            "sizes": ["800k", "6m", "85m", "7b68"], "densities": [0.5, 0.25, 0.125], "unique_tokens": [16384, 32768],
            "epochs": [1, 2, 4], "methods": ["rigl", "gmp", "smet"], "seeds": list(range(47)),
        }],
    }  # fmt: skip
    start = time.perf_counter()
    assert len(load_study(study).cells) == 4 * 3 * 2 * 3 * 3 * 47 > 10_000
    assert time.perf_counter() - start < 30

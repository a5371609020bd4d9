"""Counts per layer: exact totals, caps, and ERK against a computation by bisection."""

from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedc.errors import InputError
from sparsedc.sparsity.distribution import DISTRIBUTIONS, layer_counts

SHAPES = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    min_size=1,
    max_size=8,
)


def erk_by_bisection(shapes: dict[str, tuple[int, int]], density: float) -> dict[str, float]:
    """Σ min(size, unit · (rows + columns)) grows with `unit`: bisect it to the wanted total."""
    total = density * sum(r * c for r, c in shapes.values())
    low, high = 0.0, 1e6
    for _ in range(200):
        unit = (low + high) / 2
        if sum(min(r * c, unit * (r + c)) for r, c in shapes.values()) < total:
            low = unit
        else:
            high = unit
    return {name: min(r * c, unit * (r + c)) for name, (r, c) in shapes.items()}


@given(shapes=SHAPES, density=st.floats(0.01, 1), distribution=st.sampled_from(sorted(DISTRIBUTIONS)))
def test_totals_are_exact_and_layers_within_bounds(
    shapes: dict[str, tuple[int, int]], density: float, distribution: str
) -> None:
    try:
        counts = layer_counts(shapes, density, distribution)
    except InputError:  # so few weights that some layer would have none: see test_bad_input
        return
    assert counts.keys() == shapes.keys()
    assert sum(counts.values()) == round(density * sum(r * c for r, c in shapes.values()))
    assert all(1 <= counts[name] <= r * c for name, (r, c) in shapes.items())
    reverse = dict(reversed(shapes.items()))
    assert layer_counts(reverse, density, distribution) == counts


@given(shapes=SHAPES, density=st.floats(0.3, 1))
def test_erk_agrees_with_bisection(shapes: dict[str, tuple[int, int]], density: float) -> None:
    try:
        counts = layer_counts(shapes, density, "erk")
    except InputError:
        return
    expected = erk_by_bisection(shapes, density)
    # Rounding of the total moves quotas by less than one, rounding of the quotas by less than one more.
    assert all(abs(counts[name] - expected[name]) < 2 for name in shapes)


def test_erk_fills_small_layers_and_rescales_the_rest() -> None:
    # Shares are rows + columns: 4, 128 and 128. 1038 weights would give the 2×2 layer 15.97, so it is full.
    shapes = {"small": (2, 2), "a": (64, 64), "b": (64, 64)}
    assert layer_counts(shapes, 0.1267, "erk") == {"small": 4, "a": 517, "b": 517}


def test_uniform_is_the_same_density_everywhere() -> None:
    assert layer_counts({"a": (10, 10), "b": (20, 30)}, 0.25, "uniform") == {"a": 25, "b": 150}


def test_largest_remainder_breaks_ties_by_name() -> None:
    # Quotas 1.5 each, total 3.
    assert layer_counts({"b": (1, 3), "a": (3, 1)}, 0.5, "uniform") == {"a": 2, "b": 1}


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_density_one_is_dense(distribution: str) -> None:
    assert layer_counts({"a": (3, 7), "b": (1, 1)}, 1.0, distribution) == {"a": 21, "b": 1}


def test_rounded_counts_stay_within_one_of_their_quota() -> None:
    counts = layer_counts({str(i): (7, 11) for i in range(9)}, 0.3, "uniform")
    assert set(counts.values()) <= {floor(0.3 * 77), floor(0.3 * 77) + 1}


@pytest.mark.parametrize(
    ("shapes", "density", "distribution", "field"),
    [
        ({"a": (4, 4)}, 0.5, "er", "distribution"),
        ({"a": (4, 4)}, 0.0, "erk", "density"),
        ({"a": (4, 4)}, 1.1, "erk", "density"),
        ({"a": (4, 4)}, float("nan"), "erk", "density"),
        ({"a": (1, 1), "b": (100, 100)}, 0.01, "uniform", "density"),
        ({}, 0.5, "erk", "shapes"),
        ({"a": (0, 4)}, 0.5, "erk", "shapes"),
    ],
)
def test_bad_input(shapes: dict[str, tuple[int, int]], density: float, distribution: str, field: str) -> None:
    with pytest.raises(InputError) as error:
        layer_counts(shapes, density, distribution)
    assert error.value.field == field

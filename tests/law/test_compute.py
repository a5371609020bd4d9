import numpy as np
import pandas as pd
import pytest

from sparsedc.errors import InputError
from sparsedc.law.compute import Compute, Family
from sparsedc.law.counts import CONVENTIONS, count_params
from sparsedc.model import LADDER, count_parameters, training_flops

VOCABULARY, LENGTH = 32_000, 2048
FAMILY = Family(VOCABULARY, LENGTH)


def as_runs(density):
    """The ladder's models as a runs table, counted by what plans and trains them."""
    counts = [count_parameters(shape, VOCABULARY) for shape in LADDER.values()]
    runs = pd.DataFrame(
        {
            "cell": list(LADDER),
            "density": density,
            "params_total": [each.total for each in counts],
            "params_embedding": [each.embedding for each in counts],
            "params_head": [each.head for each in counts],
            "params_active": [each.active(density * each.maskable) for each in counts],
        }
    )
    runs["params_active_mean"] = runs["params_active"]
    return runs


@pytest.mark.parametrize("params", CONVENTIONS)
@pytest.mark.parametrize("density", [1.0, 0.25])
def test_family_counts_and_costs_ladder_models_exactly(params, density):
    size = count_params(as_runs(1.0), params)
    s = np.full(size.size, density)
    for zeros_free in (False, True):
        compute = Compute(zeros_free, exact=True, family=FAMILY)
        np.testing.assert_allclose(compute.active(size, s, params), count_params(as_runs(density), params), rtol=1e-9)
        expected = [
            training_flops(shape, VOCABULARY, LENGTH, 1, density * count_parameters(shape, VOCABULARY).maskable)
            if zeros_free
            else training_flops(shape, VOCABULARY, LENGTH, 1)
            for shape in LADDER.values()
        ]
        np.testing.assert_allclose(compute.per_token(size, s, params), expected, rtol=1e-9)


@pytest.mark.parametrize("params", CONVENTIONS)
def test_family_grows_steadily_between_and_beyond_the_ladder(params):
    low, high = FAMILY.sizes(params)
    size = np.geomspace(low, high, 5000)
    parts = FAMILY.parts(size, params)
    assert (parts.maskable > 0).all()
    for each in (parts.width, parts.depth):
        assert (np.diff(each) >= -1e-9 * each[1:]).all() or each is parts.depth  # the ladder is not monotone in depth
    # LLaMA blocks of width w hold 12 w² parameters or a little more.
    assert ((parts.maskable / (parts.depth * parts.width**2) > 9) & (parts.width > 0)).mean() > 0.9
    cost = Compute(exact=True, family=FAMILY).per_token(size, np.ones_like(size), params)
    assert (np.diff(cost) > 0).all()


def test_family_of_a_ladder_of_ones_own():
    shape = LADDER["3m"]
    counts = count_parameters(shape, 512)
    size = np.array([float(counts.maskable + counts.norms)])
    parts = Family(512, 64, {"only": shape}).parts(8 * size)
    assert parts.width == pytest.approx(2 * shape.width)  # eight times the size at the same aspect ratio
    assert parts.depth == pytest.approx(2 * shape.depth)


def test_six_nd_with_zeros_and_without():
    size, s = np.array([1e9, 1e9]), np.array([1.0, 0.25])
    assert Compute().active(size, s).tolist() == [1e9, 0.25e9]
    assert Compute().per_token(size, s).tolist() == [6e9, 6e9]
    assert Compute(zeros_free=True).per_token(size, s).tolist() == [6e9, 1.5e9]


def test_six_nd_of_all_active_parameters_keeps_embedding_and_head():
    shape = LADDER["60m"]
    counts = count_parameters(shape, VOCABULARY)
    compute = Compute(zeros_free=True, family=FAMILY)
    active = counts.active(counts.maskable // 2)
    size, s = np.array([float(counts.total)]), np.array([0.5])
    assert compute.active(size, s, "active") == pytest.approx(active)
    assert compute.per_token(size, s, "active") == pytest.approx(6 * active)


def test_exact_flops_need_a_family():
    with pytest.raises(InputError, match="family"):
        Compute(exact=True)

"""Each likelihood against numerical integration and SciPy's distributions."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm, t

from sparsedc.errors import InputError
from sparsedc.law.likelihood import LIKELIHOODS, Gaussian, Huber, StudentT

RESIDUALS = np.random.default_rng(0).laplace(0, 0.004, 60)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_rho_is_the_objective_with_its_slope(name):
    """SciPy minimises Σ ρ((r / scale)²) / 2: in its slope by r it must agree with the objective, up to one factor."""
    likelihood = LIKELIHOODS[name]().tuned(RESIDUALS)
    scaled = RESIDUALS / likelihood.scale
    value, slope, _ = likelihood.rho(scaled**2)
    gradient = slope * scaled / likelihood.scale  # of Σ ρ / 2 by r
    step = 1e-7
    for i in (0, 7, 30):
        moved = [RESIDUALS + sign * step * np.eye(60)[i] for sign in (1, -1)]
        expected = (likelihood.objective(moved[0]) - likelihood.objective(moved[1])) / (2 * step)
        ratio = gradient[i] / expected
        assert ratio == pytest.approx(
            {"huber": 1 / likelihood.scale**2, "gaussian": 1 / likelihood.scale**2, "student": 1.0}[name], rel=1e-4
        )
    assert (value >= 0).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_weight_of_two_is_a_run_twice(name):
    likelihood = LIKELIHOODS[name]()
    twice = np.concatenate([RESIDUALS, RESIDUALS[:10]])
    weights = np.where(np.arange(60) < 10, 2.0, 1.0)
    assert likelihood.objective(RESIDUALS, weights) == pytest.approx(likelihood.objective(twice))


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1e-1])
def test_huber_deviance_is_that_of_its_density(scale):
    """Its scale is the best one, and its normalisation is that of numerical integration."""
    delta, n = 1e-3, 40
    residuals = np.random.default_rng(0).laplace(0, scale, n)
    loss = lambda r: np.where(abs(r) <= delta, r**2 / 2, delta * (abs(r) - delta / 2))  # noqa: E731
    H = float(loss(residuals).sum())
    assert Huber(delta).objective(residuals) == pytest.approx(H)

    def deviance(tau):
        # in units of the width of the density, so that quad sees it
        width = max(math.sqrt(tau), tau / delta)
        Z = 2 * width * quad(lambda u: math.exp(-float(loss(u * width)) / tau), 0, 60, limit=400)[0]
        return 2 * n * math.log(Z) + 2 * H / tau

    best = min(deviance(tau) for tau in H / n * np.geomspace(0.3, 5, 400))
    assert Huber(delta).deviance(H, n) == pytest.approx(best, abs=1e-2)


def test_gaussian_deviance_is_scipys():
    sigma = np.sqrt(np.mean(RESIDUALS**2))
    expected = -2 * norm.logpdf(RESIDUALS, scale=sigma).sum()
    assert Gaussian().deviance(Gaussian().objective(RESIDUALS), 60) == pytest.approx(expected)


def test_student_scale_and_deviance_are_scipys():
    tuned = StudentT(nu=4).tuned(RESIDUALS)
    found = minimize(lambda p: -t.logpdf(RESIDUALS, 4, scale=math.exp(p[0])).sum(), [-5.0], tol=1e-10)
    assert tuned.sigma == pytest.approx(math.exp(found.x[0]), rel=1e-3)
    assert tuned.deviance(tuned.objective(RESIDUALS), 60) == pytest.approx(2 * found.fun, abs=1e-3)


@pytest.mark.parametrize(("noise", "low", "high"), [("normal", 0.95, 1.05), ("laplace", 1.0, 1.3)])
def test_huber_inflation_is_that_of_the_noise(noise, low, high):
    """Far beyond δ Huber's loss is |r|, for which theory has closed forms. The window flattens Laplace's peak a little,
    which errs towards wider intervals."""
    residuals = getattr(np.random.default_rng(1), noise)(0, 0.1, 20_000)
    expected = {"normal": math.pi / 2, "laplace": 1.0}[noise]
    assert low < Huber(1e-3).inflation(residuals, 5) / expected < high


def test_huber_inflation_is_1_where_its_density_is_right():
    """Far below δ Huber's loss is r² / 2, and Gaussian noise is what it takes residuals to have."""
    residuals = np.random.default_rng(1).normal(0, 1e-4, 2000)
    assert Huber(1e-2).inflation(residuals, 5) == pytest.approx(1.0, rel=0.02)
    assert Gaussian().inflation(residuals, 5) == 1.0


def test_aicc_counts_the_scale_and_needs_runs():
    assert Gaussian().aicc(1.0, 20, 4) == pytest.approx(Gaussian().deviance(1.0, 20) + 2 * 5 * 20 / 14)
    assert Gaussian().aicc(1.0, 6, 4) == math.inf


@pytest.mark.parametrize("delta", [0.0, -1e-3, math.nan])
def test_bad_delta(delta):
    with pytest.raises(InputError, match="delta"):
        Huber(delta)

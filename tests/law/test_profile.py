import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, f

from sparsedc.errors import InputError
from sparsedc.law.fitting import fit_law
from sparsedc.law.likelihood import Gaussian, Huber
from sparsedc.law.profile import profile
from sparsedc.law.published import published_fit

from .conftest import DATA
from .test_fitting import external


@pytest.fixture(scope="module")
def chinchilla():
    from sparsedc.law.simulate import simulate_runs

    from .conftest import GRID, LAWS

    runs = simulate_runs("chinchilla", LAWS["chinchilla"], noise=0.01, seed=3, **(GRID | {"densities": [1.0]}))
    return runs, fit_law(runs, "chinchilla", starts=4, likelihood=Gaussian())


@pytest.mark.parametrize("name", ["alpha", "E", "B"])
def test_a_parameters_profile_is_that_of_fits_with_it_fixed(chinchilla, name):
    runs, fit = chinchilla
    found = profile(runs, fit, name)
    threshold = f.ppf(0.95, 1, len(runs) - 5)
    likelihood = Gaussian()
    for end in (found.low, found.high):
        held = fit_law(runs, "chinchilla", starts=4, likelihood=likelihood, fixed={name: end})
        excess = likelihood.deviance(held.objective, len(runs)) - likelihood.deviance(fit.objective, len(runs))
        assert excess == pytest.approx(threshold, rel=0.02)
    assert found.low < fit.parameters[name] < found.high
    assert found.identified


def test_a_derived_quantity_is_profiled_like_the_parameter_that_it_is(simulate):
    runs = simulate("muennighoff", noise=0.005)
    fit = fit_law(runs, "muennighoff", starts=8)
    direct, derived = profile(runs, fit, "R_D_star"), profile(runs, fit, "R_D_star(s=0.5)")
    assert derived.low == pytest.approx(direct.low, rel=2e-3)
    assert derived.high == pytest.approx(direct.high, rel=2e-3)


def test_beta_less_alpha(simulate, laws):
    runs = simulate("muennighoff", noise=0.003)
    fit = fit_law(runs, "muennighoff:untied", starts=8)
    found = profile(runs, fit, "beta-alpha")
    assert found.low < 0 < found.high  # the law that made the runs ties them
    assert found.best == pytest.approx(fit.parameters["beta"] - fit.parameters["alpha"])


def test_optimal_density_of_the_published_law(simulate):
    runs = simulate("sparse", noise=0.004, unique_tokens=[650_000_000, 2_600_000_000])
    fit = fit_law(runs, "sparse", starts=8)
    found = profile(runs, fit, "optimal_density")
    assert found.low < 0.555 < found.high  # of the law that made the runs
    free = [value for value, deviance in zip(found.values, found.deviances, strict=True) if deviance < 0.01]
    assert min(free) <= found.best <= max(free)
    assert max(found.deviances) > chi2.ppf(0.95, 1)


def test_a_flat_profile_is_open():
    """Of R_D* the runs that Muennighoff et al. fitted it to say only that it is above 4 or so."""
    runs = pd.read_csv(DATA / "datablations_c4_fit182.csv")
    table = external(runs["params"], runs["unique_tokens"], runs["tokens"], runs["val_loss"])
    frozen = {"E": math.exp(0.6254804), "A": math.exp(6.255414), "B": math.exp(7.3049974), "alpha": 0.3526596}
    fit = fit_law(table, "muennighoff", fixed=frozen)
    found = profile(table, fit, "R_D_star")
    assert found.high is None
    assert not found.identified
    assert 3 < found.low < 10
    # their own optimum is one of the rivals, and within the profile
    published = min(zip(found.values, found.deviances, strict=True), key=lambda point: abs(point[0] - 15.39))
    assert published[1] < chi2.ppf(0.95, 1)
    assert any(abs(rival["parameters"]["R_D_star"] - 15.37) < 0.05 for rival in fit.rivals)


@pytest.mark.parametrize(
    ("quantity", "problem"),
    [("R_D_star", "none that form chinchilla implies"), ("beta-gamma", "none that"), ("optimal_density", "none that")],
)
def test_unknown_quantities(chinchilla, quantity, problem):
    with pytest.raises(InputError, match=problem):
        profile(*chinchilla, quantity)


def test_what_has_no_profile(chinchilla):
    runs, fit = chinchilla
    with pytest.raises(InputError, match="not the"):
        profile(runs.head(9), fit, "alpha")
    with pytest.raises(InputError, match="not the"):
        profile(runs, published_fit(), "alpha")
    held = fit_law(runs, "chinchilla", starts=2, fixed={"E": 1.7})
    with pytest.raises(InputError, match="held"):
        profile(runs, held, "E")


def test_a_profile_reaches_from_the_lowest_basin_to_the_highest(simulate):
    """The paper's factor has basins with c below and above 0: an interval that kept to one would be a false finding."""
    runs = simulate("sparse", noise=0.006, seed=2)
    fit = fit_law(runs, "sparse", starts=24)
    basins = [fit.parameters["c"], *(rival["parameters"]["c"] for rival in fit.rivals)]
    assert min(basins) < 0 < max(basins)
    found = profile(runs, fit, "c")
    assert found.low < min(basins) < max(basins) < found.high


def test_a_huber_profile_allows_for_its_inflation(chinchilla):
    runs, _ = chinchilla
    fit = fit_law(runs, "chinchilla", starts=8)
    found = profile(runs, fit, "alpha")
    likelihood = Huber()
    held = fit_law(runs, "chinchilla", starts=8, fixed={"alpha": found.high})
    excess = likelihood.deviance(held.objective, len(runs)) - likelihood.deviance(fit.objective, len(runs))
    assert excess > 1.1 * f.ppf(0.95, 1, len(runs) - 5)  # noise is Gaussian, the objective nearly Laplace's


def test_huber_profile_is_finite_and_deviances_are_not_negative(chinchilla):
    runs, _ = chinchilla
    fit = fit_law(runs, "chinchilla", starts=8, likelihood=Huber(1e-3))
    found = profile(runs, fit, "alpha")
    assert np.min(found.deviances) > -1e-3

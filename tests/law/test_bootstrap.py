import json
from dataclasses import replace

import numpy as np
import pytest

from sparsedc.errors import InputError
from sparsedc.law.bootstrap import bootstrap
from sparsedc.law.fit import Fit
from sparsedc.law.fitting import fit_law
from sparsedc.law.likelihood import Gaussian


@pytest.fixture(scope="module")
def noisy():
    from sparsedc.law.simulate import simulate_runs

    from .conftest import GRID, LAWS

    runs = simulate_runs("chinchilla", LAWS["chinchilla"], noise=0.01, seed=1, **(GRID | {"densities": [1.0]}))
    return runs, fit_law(runs, "chinchilla", starts=4, likelihood=Gaussian())


def test_spread_of_a_prediction_is_that_of_its_linear_theory(noisy):
    """Pairs bootstrap of least squares: the draws' standard deviation of ln loss against the sandwich estimate."""
    runs, fit = noisy
    drawn = bootstrap(runs, fit, n=300, workers=1)
    from sparsedc.law.fitting import design_of
    from sparsedc.law.forms import get_form
    from sparsedc.law.problem import Problem

    problem = Problem(get_form("chinchilla"), design_of(runs, "body"), runs["val_loss"].to_numpy(), Gaussian(), {})
    x = problem.coordinates(fit.parameters)
    J, r = problem.jacobian(x), problem.residuals(x)
    bread = np.linalg.inv(J.T @ J)
    covariance = bread @ (J.T * r**2) @ J @ bread
    expected = np.sqrt(np.einsum("ij,jk,ik->i", J, covariance, J))
    design = problem.design
    found = np.log(drawn.predict_draws(design.N, design.U, design.D, design.s)).std(axis=0)
    assert np.median(found / expected) == pytest.approx(1, abs=0.15)


def test_draws_depend_on_the_seed_and_not_on_the_workers(noisy):
    runs, fit = noisy
    one = bootstrap(runs, fit, n=40, workers=1)
    assert bootstrap(runs, fit, n=40, workers=2) == one
    assert bootstrap(runs, fit, n=40, workers=1, seed=1).draws != one.draws


def test_seeds_of_one_configuration_are_drawn_together(simulate):
    """Runs repeated under other seeds add no configuration, and so no certainty."""
    runs = simulate("chinchilla", noise=0.01, densities=[1.0])
    fit = fit_law(runs, "chinchilla", starts=2, likelihood=Gaussian())
    doubled = runs.loc[runs.index.repeat(2)].reset_index(drop=True)
    doubled["cell"] = [str(i) for i in range(len(doubled))]
    again = fit_law(doubled, "chinchilla", starts=2, likelihood=Gaussian())
    width, same = (
        np.diff(bootstrap(t, f, n=60, workers=1).intervals["alpha"]) for t, f in ((runs, fit), (doubled, again))
    )
    np.testing.assert_allclose(same, width, rtol=1e-3)


def test_intervals_surround_the_fit_and_survive_json(noisy, tmp_path):
    runs, fit = noisy
    drawn = bootstrap(runs, fit, n=60, workers=1)
    for name, (low, high) in drawn.intervals.items():
        assert low < fit.parameters[name] < high
        assert len(drawn.draws[name]) == 60
    drawn.save(tmp_path / "fit.json")
    assert Fit.load(tmp_path / "fit.json") == drawn
    assert set(json.loads((tmp_path / "fit.json").read_text())["intervals"]) == set(fit.parameters)
    point = (1e9, 1e10, 1e10, 1.0)
    law, run = drawn.law_interval(*point)[0], drawn.run_interval(*point)[0]
    assert run[0] < law[0] < drawn.predict(*point)[0] < law[1] < run[1]


def test_a_run_interval_is_that_of_simulated_runs(noisy):
    """Where the scatter of runs outweighs the law's own, and at another level."""
    runs, fit = noisy
    drawn = replace(bootstrap(runs, fit, n=60, workers=1), noise=0.03)
    points = (np.array([1e8, 1e9]), 1e10, 1e10, 1.0)
    law = drawn.predict_draws(*points)
    rng = np.random.default_rng(0)
    simulated = law[rng.integers(60, size=400_000)] * np.exp(rng.normal(0, 0.03, (400_000, 2)))
    for level in (0.95, 0.99):
        expected = np.quantile(simulated, [(1 - level) / 2, (1 + level) / 2], axis=0).T
        np.testing.assert_allclose(drawn.run_interval(*points, level=level), expected, rtol=1e-3)


def test_intervals_span_the_basins_that_the_runs_do_not_rule_out(simulate):
    runs = simulate("sparse", noise=0.006, seed=2)
    fit = fit_law(runs, "sparse", starts=24)
    drawn = bootstrap(runs, fit, n=20, workers=1)
    low, high = drawn.intervals["c"]
    assert all(low < basin["c"] < high for basin in (fit.parameters, *(rival["parameters"] for rival in fit.rivals)))
    assert low < 0 < high


def test_a_run_interval_without_draws_is_the_noise_alone(noisy):
    fit = replace(noisy[1], noise=0.01, n_runs=10_000)
    low, high = fit.run_interval(1e9, 1e10, 1e10, 1.0)[0]
    assert high / low == pytest.approx(np.exp(2 * 1.96 * 0.01), rel=1e-3)


def test_an_interval_that_reaches_the_bound_is_open(simulate):
    """Two passes say next to nothing of how many repeats are worth having."""
    runs = simulate("muennighoff", noise=0.02, epochs=[1, 2], densities=[1.0])
    fit = fit_law(runs, "muennighoff", starts=8)
    drawn = bootstrap(runs, fit, n=40, workers=1)
    assert drawn.intervals["R_D_star"][1] is None


def test_parameters_that_were_held_stay_held(simulate, laws):
    runs = simulate("muennighoff", noise=0.005)
    held = {"E": laws["muennighoff"]["E"], "alpha": 0.35}
    drawn = bootstrap(runs, fit_law(runs, "muennighoff", starts=4, fixed=held), n=20, workers=1)
    assert set(drawn.draws["E"]) == {held["E"]}
    assert "E" not in drawn.intervals
    assert len(set(drawn.draws["B"])) == 20


@pytest.mark.parametrize(("change", "field"), [({"n": 1}, "bootstrap"), ({"level": 1.0}, "level")])
def test_bad_arguments(noisy, change, field):
    runs, fit = noisy
    with pytest.raises(InputError) as caught:
        bootstrap(runs, fit, **change)
    assert caught.value.field == field


def test_bad_runs(noisy):
    runs, fit = noisy
    with pytest.raises(InputError, match="not the 36 runs"):
        bootstrap(runs.head(5), fit)
    few = runs.head(5)
    with pytest.raises(InputError, match="cannot be resampled"):
        bootstrap(few, fit_law(few, "chinchilla", starts=2))

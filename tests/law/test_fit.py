import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad

from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.fit import Fit, _Problem, design_of, fit_law, huber_aicc
from sparsedc.law.forms import FORMS, get_form
from sparsedc.law.simulate import simulate_runs

from .conftest import DATA


def problem(form, runs):
    return _Problem(get_form(form), design_of(runs, "body"), np.log(runs["val_loss"].to_numpy()), {})


def external(N, U, D, losses):
    """A runs table of other people's dense runs, with N in the body."""
    blank = simulate_runs(
        "chinchilla",
        {"E": 1, "A": 1, "B": 1, "alpha": 1, "beta": 1},
        body=[1],
        densities=[1.0],
        unique_tokens=[1],
        epochs=[1],
    )
    runs = pd.concat([blank] * len(losses), ignore_index=True)
    return runs.assign(
        cell=[str(i) for i in range(len(runs))], params_active=N, unique_tokens=U, tokens=D, val_loss=losses
    )


@pytest.fixture(scope="module")
def datablations():
    runs = pd.read_csv(DATA / "datablations_c4_fit182.csv")
    return external(runs["params"], runs["unique_tokens"], runs["tokens"], runs["val_loss"])


@pytest.mark.parametrize("form", FORMS)
def test_jacobian_equals_finite_differences(form, simulate):
    p = problem(form, simulate("sparse", noise=0.01))
    for x in p.starts(8, seed=3):
        exact = p.jacobian(x)
        for i in range(x.size):
            step = 1e-6 * np.eye(x.size)[i]
            central = (p.residuals(x + step) - p.residuals(x - step)) / 2e-6
            np.testing.assert_allclose(exact[:, i], central, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_exact_runs_give_back_the_law(form, simulate, laws):
    fit = fit_law(simulate(form), form, starts=16)
    assert fit.objective < 1e-12
    assert fit.status == "ok"
    assert fit.parameters == pytest.approx(laws[form], rel=1e-3)


@pytest.mark.parametrize("convention", ["paper", "active"])
def test_other_conventions_are_fitted_as_told(convention, laws, grid):
    runs = simulate_runs("chinchilla", laws["chinchilla"], embedding=9_000_000, params=convention, **grid)
    assert fit_law(runs, "chinchilla", params=convention, starts=4).objective < 1e-12
    assert fit_law(runs, "chinchilla", params="body", starts=4).objective > 1e-6


def test_noisy_runs_give_back_the_law_nearly(simulate, laws):
    fit = fit_law(simulate("muennighoff", noise=0.003), "muennighoff")
    truth = laws["muennighoff"]
    assert fit.status == "ok"
    assert fit.share_at_best > 0.5
    assert fit.parameters["alpha"] == pytest.approx(truth["alpha"], rel=0.05)
    assert fit.parameters["E"] == pytest.approx(truth["E"], rel=0.03)
    assert fit.parameters["R_D_star"] == pytest.approx(truth["R_D_star"], rel=0.25)


def test_one_wild_run_moves_the_law_little(simulate):
    runs = simulate("chinchilla", noise=0.002)
    wild = runs.copy()
    wild.loc[7, "val_loss"] *= 1.5
    alpha, moved = (fit_law(table, "chinchilla", starts=4).parameters["alpha"] for table in (runs, wild))
    assert moved == pytest.approx(alpha, rel=0.02)


def test_same_seed_same_fit(simulate):
    runs = simulate("muennighoff", noise=0.01)
    assert fit_law(runs, "muennighoff", starts=4) == fit_law(runs, "muennighoff", starts=4)


def test_finds_the_lower_minimum_that_the_published_fit_missed(datablations):
    frozen = {"E": math.exp(0.6254804), "A": math.exp(6.255414), "B": math.exp(7.3049974), "alpha": 0.3526596}
    fit = fit_law(datablations, "muennighoff", fixed=frozen)
    assert fit.objective <= 0.0158046645 + 1e-9  # published: 0.0158259 at R_D* = 15.39, R_N* = 5.31
    assert fit.parameters["R_D_star"] == pytest.approx(95.365, abs=0.05)
    assert fit.parameters["R_N_star"] == pytest.approx(1.7059, abs=0.002)
    assert fit.share_at_best < 1
    assert {name: fit.parameters[name] for name in frozen} == frozen


def test_joint_fit_to_the_same_runs_calls_r_n_star_weakly_determined(datablations):
    fit = fit_law(datablations, "muennighoff")
    assert fit.status == "weakly determined"
    assert "R_N_star" in fit.reasons[0]


def test_refits_the_gemstones():
    runs = pd.read_csv(DATA / "gemstones_hot.csv")
    table = external(runs["params_active_precise"], runs["tokens"], runs["tokens"], runs["final_loss"])
    fit = fit_law(table, "chinchilla", starts=8)
    assert fit.status == "ok"
    assert fit.objective == pytest.approx(0.0019816129, rel=1e-4)
    assert fit.parameters["alpha"] == pytest.approx(0.2928686863, abs=5e-4)
    assert fit.parameters["beta"] == pytest.approx(0.712872206, abs=2e-3)


def test_one_width_does_not_settle_alpha():
    runs = pd.read_csv(DATA / "gemstones_hot_100bplus_512x.csv")
    table = external(runs["params_active_precise"], runs["tokens"], runs["tokens"], runs["final_loss"])
    fit = fit_law(table, "chinchilla", starts=8)
    assert fit.status == "at bound"
    assert fit.at_bound == ("alpha",)


def test_diverged_cells_are_left_out_and_named(simulate):
    runs = simulate("chinchilla")
    runs.loc[3, ["status", "val_loss"]] = ["diverged", np.nan]
    with pytest.warns(SparsedcWarning, match=f"1 of {len(runs)} fit cells.*{runs['cell'][3]}"):
        fit = fit_law(runs, "chinchilla", starts=4)
    assert (fit.n_runs, fit.n_left_out) == (len(runs) - 1, 1)
    assert fit.objective < 1e-12


def test_extrapolation_cells_are_not_fitted(simulate):
    runs = simulate("chinchilla", extrapolation_body=[7_000_000_000])
    runs.loc[runs["role"] == "extrapolation", "val_loss"] = 99.0
    fit = fit_law(runs, "chinchilla", starts=4)
    assert fit.objective < 1e-12
    assert fit.n_runs == (runs["role"] == "fit").sum()


@pytest.mark.parametrize(
    ("form", "changes", "reason"),
    [
        ("chinchilla", {"body": [10**8], "densities": [1.0]}, "distinct values of N, the runs have 1"),
        ("muennighoff", {"epochs": [1]}, "no run depends on R_D_star"),
        ("sparse", {"densities": [1.0]}, "no run depends on epsilon, mu, c, c11, c21, c12, c22"),
        ("sparse", {"densities": [1.0, 0.5, 0.25]}, "cannot tell .*mu"),
        # Through three values of the density factor go two curves, so that a good fit is not the only one.
        ("sparse", {"densities": [1.0, 0.5, 0.25, 0.125]}, "needs 5 distinct values of s, the runs have 4"),
    ],
)
def test_designs_that_do_not_identify_the_form(form, changes, reason, simulate):
    fit = fit_law(simulate(form, noise=0.003, **changes), form, starts=4)
    assert fit.status == "not identifiable"
    assert not fit.usable
    assert re.search(reason, "; ".join(fit.reasons))


def test_fewer_runs_than_parameters(simulate):
    fit = fit_law(simulate("sparse", noise=0.003).iloc[::23], "sparse", starts=4)
    assert fit.status == "not identifiable"
    assert fit.reasons[0] == "8 runs cannot determine 13 parameters"
    assert fit.aicc == math.inf


def test_json_round_trip(simulate, tmp_path):
    for runs in (simulate("sparse", noise=0.01), simulate("sparse").head(6)):  # the second has an infinite AICc
        fit = fit_law(runs, "sparse", starts=2)
        fit.save(tmp_path / "fit.json")
        assert Fit.load(tmp_path / "fit.json") == fit
    assert [path.name for path in tmp_path.iterdir()] == ["fit.json"]


def test_load_refuses_what_is_no_fit(simulate, tmp_path):
    path = tmp_path / "fit.json"
    with pytest.raises(InputError, match="no such file"):
        Fit.load(path)
    good = fit_law(simulate("chinchilla"), "chinchilla", starts=1).to_dict()
    parameters = {name: value for name, value in good["parameters"].items() if name != "E"}
    for bad in ({}, good | {"format": 99}, good | {"extra": 1}, good | {"parameters": parameters}, []):
        path.write_text(json.dumps(bad))
        with pytest.raises(InputError):
            Fit.load(path)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Fit.load(path)


def test_predict_is_the_form_at_the_parameters(simulate):
    runs = simulate("muennighoff")
    fit = fit_law(runs, "muennighoff", starts=4)
    N = runs["params_active"] - runs["params_embedding"] - runs["params_head"]
    predicted = fit.predict(N, runs["unique_tokens"], runs["tokens"], runs["density"])
    np.testing.assert_allclose(predicted, runs["val_loss"], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1e-1])
def test_aicc_is_that_of_the_huber_density(scale):
    """Its scale is the best one, and its normalisation is that of numerical integration."""
    delta, n, k = 1e-3, 40, 5
    residuals = np.random.default_rng(0).laplace(0, scale, n)
    loss = lambda r: np.where(abs(r) <= delta, r**2 / 2, delta * (abs(r) - delta / 2))  # noqa: E731
    H = float(loss(residuals).sum())

    def deviance(tau):
        # in units of the width of the density, so that quad sees it
        width = max(math.sqrt(tau), tau / delta)
        Z = 2 * width * quad(lambda u: math.exp(-float(loss(u * width)) / tau), 0, 60, limit=400)[0]
        return 2 * n * math.log(Z) + 2 * H / tau

    best = min(deviance(tau) for tau in H / n * np.geomspace(0.3, 5, 400))
    expected = best + 2 * (k + 1) + 2 * (k + 1) * (k + 2) / (n - k - 2)
    assert huber_aicc(H, n, k, delta) == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize(
    ("change", "options", "field"),
    [
        ({"val_loss": np.nan}, {}, "val_loss"),
        ({"val_loss": -1.0}, {}, "val_loss"),
        ({"role": "extrapolation"}, {}, "runs table"),
        ({"density": 1.5}, {}, "s"),
        ({}, {"delta": 0.0}, "delta"),
        ({}, {"starts": 0}, "starts"),
        ({}, {"fixed": {"gamma9": 1.0}}, "fixed"),
        ({}, {"params": "all"}, "params"),
        ({}, {"form": "kaplan"}, "form"),
    ],
)
def test_bad_input(change, options, field, simulate):
    runs = simulate("chinchilla", body=[10**7, 10**8], densities=[1.0]).assign(**change)
    with pytest.raises(InputError) as caught:
        fit_law(runs, **({"form": "chinchilla"} | options))
    assert field in caught.value.field

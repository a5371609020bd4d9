import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit

from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.fitting import design_of, fit_finished, fit_law
from sparsedc.law.forms import get_form
from sparsedc.law.likelihood import Gaussian, Huber, StudentT
from sparsedc.law.problem import Problem
from sparsedc.law.simulate import simulate_runs

from .conftest import DATA
from .plain import LAWS as PLAIN


def problem(form, runs):
    return Problem(get_form(form), design_of(runs, "body"), runs["val_loss"].to_numpy(), Huber(), {})


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


@pytest.mark.parametrize("form", PLAIN)
def test_jacobian_equals_finite_differences(form, simulate):
    p = problem(form, simulate("sparse", noise=0.01))
    for x in p.starts(8, seed=3):
        exact = p.jacobian(x)
        for i in range(x.size):
            step = 1e-6 * np.eye(x.size)[i]
            central = (p.residuals(x + step) - p.residuals(x - step)) / 2e-6
            np.testing.assert_allclose(exact[:, i], central, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", PLAIN)
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


@pytest.mark.parametrize(
    ("table", "objective", "alpha", "beta", "e"),
    [
        ("gemstones_hot", 0.0019816129, 0.2928686863, 0.712872206, 0.7622636901),
        ("gemstones_cool_end", 0.0019640865, 0.3002728205, 0.580241077, 0.7297863295),
    ],
)
def test_refits_the_gemstones(table, objective, alpha, beta, e):
    """Published coefficients of McLeish et al. 2025."""
    runs = pd.read_csv(DATA / f"{table}.csv")
    table = external(runs["params_active_precise"], runs["tokens"], runs["tokens"], runs["final_loss"])
    fit = fit_law(table, "chinchilla", starts=8)
    assert fit.status == "ok"
    assert fit.objective == pytest.approx(objective, rel=1e-4)
    assert fit.parameters["alpha"] == pytest.approx(alpha, abs=5e-4)
    assert fit.parameters["beta"] == pytest.approx(beta, abs=2e-3)
    assert math.log(fit.parameters["E"]) == pytest.approx(e, abs=1e-3)


@pytest.mark.parametrize(
    ("dataset", "E", "a", "b", "eta"),
    [
        ("c4_original", 1.508, 141.3, 189.5, 0.1212),
        ("rpj", 1.837, 212.2, 366.7, 0.1364),
        ("rw_original", 1.734, 157.1, 246.2, 0.1272),
    ],
)
def test_predicts_gadres_over_trained_models_from_five_small_ones(dataset, E, a, b, eta):
    """Their five runs, unweighted least squares of the loss; they print 0.71 % of error for 1.4B at M = 640 on rpj."""
    runs = pd.read_csv(DATA / "gadre_overtraining_104.csv").query("dataset == @dataset")
    small = ["d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8"]
    once = (runs["chinchilla_multiplier"] == 1) & runs["model"].isin(small)
    fitted = runs[once | (runs["chinchilla_multiplier"] == 16) & (runs["model"] == small[0])]
    fitted = fitted.reset_index(drop=True)
    table = external(fitted["params"], fitted["tokens"], fitted["tokens"], fitted["loss_c4_val"])
    fit = fit_law(table, "gadre", likelihood=Gaussian(residuals="loss"), starts=8)
    assert fit.n_runs == 5
    assert fit.parameters == pytest.approx({"E": E, "a": a, "b": b, "eta": eta}, rel=1e-3)
    if dataset == "rpj":
        big = runs[(runs["params"] > 1.3e9) & (runs["params"] < 1.5e9) & (runs["chinchilla_multiplier"] == 32)].iloc[0]
        error = fit.predict(big["params"], big["tokens"], big["tokens"], 1.0)[0] / big["loss_c4_val"] - 1
        assert 100 * abs(error) == pytest.approx(0.7103, abs=0.002)


def test_one_width_does_not_settle_alpha():
    runs = pd.read_csv(DATA / "gemstones_hot_100bplus_512x.csv")
    table = external(runs["params_active_precise"], runs["tokens"], runs["tokens"], runs["final_loss"])
    fit = fit_law(table, "chinchilla", starts=8)
    assert fit.status == "not identifiable"
    assert "the runs do not settle alpha" in fit.reasons[0]
    assert not fit.usable


@pytest.mark.parametrize("likelihood", [Gaussian(), StudentT(), Huber(1e-2), Gaussian(residuals="loss")])
def test_every_likelihood_finds_the_law(likelihood, simulate, laws):
    fit = fit_law(simulate("chinchilla", noise=0.002), "chinchilla", likelihood=likelihood, starts=4)
    assert fit.status == "ok"
    assert fit.parameters["alpha"] == pytest.approx(laws["chinchilla"]["alpha"], rel=0.03)
    assert fit.noise == pytest.approx(0.002, rel=0.15)


def test_gaussian_fit_is_scipys_own(simulate):
    runs = simulate("chinchilla", noise=0.01, densities=[1.0])
    N, D, loss = runs["params_active"] - 60_000_000, runs["tokens"], runs["val_loss"]

    def curve(at, E, A, B, alpha, beta):
        return np.log(E + A / at[0] ** alpha + B / at[1] ** beta)

    expected, _ = curve_fit(curve, (N, D), np.log(loss), p0=[1.7, 400, 900, 0.34, 0.38], maxfev=20000)
    fit = fit_law(runs, "chinchilla", likelihood=Gaussian(), starts=4)
    best = float(((curve((N, D), *expected) - np.log(loss)) ** 2).sum()) / 2
    assert fit.objective == pytest.approx(best, rel=1e-6)


def test_two_basins_of_the_papers_factor_are_said_aloud(simulate):
    """Five densities leave c of either sign: the fit names what its equally good optima disagree in."""
    fit = fit_law(simulate("sparse", noise=0.006), "sparse")
    assert fit.status == "weakly determined"
    assert "different in optima that fit about equally well: epsilon, mu, c" in "; ".join(fit.reasons)
    rival = fit.rivals[0]["parameters"]
    assert rival["c"] * fit.parameters["c"] < 0
    assert fit.rivals[0]["objective"] >= fit.objective


def test_warm_starts_are_starts(simulate, laws):
    fit = fit_finished(simulate("sparse"), "sparse", starts=0, warm=[laws["sparse"]])
    assert fit.starts == 1
    assert fit.objective < 1e-12


def test_ranges_are_those_of_the_fitted_runs(simulate):
    runs = simulate("chinchilla", extrapolation_body=[7_000_000_000])
    fit = fit_law(runs, "chinchilla", starts=2)
    assert fit.ranges["N"] == (20_000_000 / 16, 1_900_000_000)
    assert fit.ranges["epochs"] == (1, 16)
    assert fit.outside(1e8, 1e9, 4e9, 0.5) == []
    words = fit.outside(7e9, 1e9, 32e9, 0.5)
    assert [clause.split()[0] for clause in words] == ["N", "epochs"]


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


def test_densities_are_no_sizes(simulate):
    """One size at five densities has five active N, and settles no exponent of size."""
    fit = fit_law(simulate("power", noise=0.003, body=[480_000_000]), "power", starts=8)
    assert fit.status == "not identifiable"
    assert "needs 2 distinct values of N, the runs have 1" in fit.reasons[0]


def test_seeds_are_no_configurations(simulate):
    runs = simulate("chinchilla", noise=0.003, densities=[1.0], unique_tokens=[10**9], epochs=[1], seeds=6)
    fit = fit_law(runs, "chinchilla", starts=4)
    assert (len(runs), fit.status) == (24, "not identifiable")
    assert fit.reasons[0] == "4 configurations cannot determine 5 parameters"


def test_held_parameters_do_not_stand_for_missing_densities(simulate):
    runs = simulate("sparse", noise=0.003, densities=[1.0, 0.5, 0.25, 0.125])
    fit = fit_law(runs, "sparse", starts=4, fixed={"E": 2.3})
    assert "needs 5 distinct values of s" in fit.reasons[0]


def test_a_value_held_beyond_sense_is_refused(simulate):
    with pytest.raises(InputError, match="no finite loss"):
        fit_law(simulate("chinchilla"), "chinchilla", starts=2, fixed={"alpha": 500.0})


def test_fewer_runs_than_parameters(simulate):
    fit = fit_law(simulate("sparse", noise=0.003).iloc[::23], "sparse", starts=4)
    assert fit.status == "not identifiable"
    assert fit.reasons[0] == "8 runs cannot determine 13 parameters"
    assert fit.aicc == math.inf


@pytest.mark.parametrize(
    ("change", "options", "field"),
    [
        ({"val_loss": np.nan}, {}, "val_loss"),
        ({"val_loss": -1.0}, {}, "val_loss"),
        ({"role": "extrapolation"}, {}, "runs table"),
        ({"density": 1.5}, {}, "s"),
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

from math import log

import numpy as np
import pandas as pd
import pytest

from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.bootstrap import bootstrap
from sparsedc.law.fit import Fit
from sparsedc.law.fitting import fit_law
from sparsedc.law.forms import get_form
from sparsedc.law.likelihood import Gaussian
from sparsedc.law.published import WHEN_DATA_IS_SCARCE
from sparsedc.law.simulate import simulate_runs
from sparsedc.law.staged import fit_staged

from . import plain

SIZES = [27_000_000, 120_000_000, 480_000_000, 960_000_000]
DENSITIES = [1.0, 0.5, 0.25, 0.125, 0.0625]
SCARCE = [130_000_000, 520_000_000, 2_600_000_000]
#: N_opt of the published law is at least 3 % of U: no model of `SIZES` has an excess parameter here
PLENTY = [32_000_000_000, 64_000_000_000, 128_000_000_000]


def draw(unique_tokens, epochs, noise=0.0, seed=0, **changes):
    grid = {"body": SIZES, "densities": DENSITIES, "params": "paper"} | changes
    return simulate_runs(
        "sparse", WHEN_DATA_IS_SCARCE, unique_tokens=unique_tokens, epochs=epochs, noise=noise, seed=seed, **grid
    )


@pytest.fixture(scope="module")
def study():
    """240 runs with the noise of the paper's, most of the models larger than N_opt."""
    return draw(SCARCE, [1, 2, 4, 16], noise=0.006)


@pytest.fixture(scope="module")
def staged(study):
    return fit_staged(study, params="paper", starts=4)


@pytest.fixture(scope="module")
def joint(study):
    return fit_law(study, "sparse", params="paper", starts=4)


def test_finds_the_law_where_no_model_of_one_epoch_has_excess_parameters():
    runs = pd.concat([draw(PLENTY, [1]), draw(SCARCE, [2, 4, 16])], ignore_index=True)
    fit = fit_staged(runs, params="paper", starts=4)
    assert fit.parameters == pytest.approx(WHEN_DATA_IS_SCARCE, rel=1e-3)
    assert fit.objective == pytest.approx(0, abs=1e-9)


def test_stages_hold_what_those_before_found(study, staged):
    """Each stage's parameters are those of its runs alone: a change of the last stage's runs moves only its own."""
    later = study["density"].lt(1) & study["epochs"].gt(1)
    moved = study.assign(val_loss=study["val_loss"].where(~later, study["val_loss"] + 0.05 * np.log(study["epochs"])))
    again = fit_staged(moved, params="paper", starts=4)
    last = ("c11", "c21", "c12", "c22")
    for name, value in staged.parameters.items():
        assert (again.parameters[name] == value) == (name not in last)


def test_counts_models_of_one_epoch_in_full(study):
    """As the paper does: its one-epoch runs are predicted by L = E + A f(s) / N^α + B / D^α, even beyond N_opt."""
    fresh = study[study["epochs"] == 1]
    p = WHEN_DATA_IS_SCARCE
    N, s = fresh["params_active"], fresh["density"]
    factor = s ** p["epsilon"] + p["c"] * (1 - s) ** p["mu"]
    loss = p["E"] + factor * p["A"] / N ** p["alpha"] + p["B"] / fresh["tokens"] ** p["alpha"]
    fit = fit_staged(pd.concat([fresh.assign(val_loss=loss), study[study["epochs"] > 1]]), params="paper", starts=4)
    for name in ("E", "A", "B", "alpha", "epsilon", "mu", "c"):
        assert fit.parameters[name] == pytest.approx(p[name], rel=2e-3)


def test_is_measured_on_all_runs(study, staged):
    columns = [study[name] for name in ("params_active", "unique_tokens", "tokens", "density")]
    pairs = zip(map(tuple, zip(*columns, strict=True)), study["val_loss"], strict=True)
    sizes = [abs(log(plain.LAWS["sparse"](staged.parameters, *run)) - log(loss)) for run, loss in pairs]
    assert staged.objective == pytest.approx(sum(r**2 / 2 if r <= 1e-3 else 1e-3 * (r - 5e-4) for r in sizes))
    assert staged.n_runs == len(study) == 240
    assert staged.ranges["epochs"] == (1, 16)
    assert staged.noise == pytest.approx((sum(r**2 for r in sizes) / (240 - 13)) ** 0.5)


def test_says_that_it_is_staged_and_refuses_a_bootstrap(study, staged, tmp_path):
    assert "four stages" in staged.reasons[0]
    staged.save(tmp_path / "fit.json")
    assert Fit.load(tmp_path / "fit.json") == staged
    with pytest.raises(InputError, match="nothing to fit"):
        bootstrap(study, staged, n=10, workers=1)


def test_the_joint_fit_is_at_least_as_good_and_extrapolates_better(joint, staged):
    assert joint.objective <= staged.objective
    N, s, U, epochs = np.meshgrid([1.99e9, 7.68e9], DENSITIES, [2.6e9, 20.8e9], [1, 16])
    point = (N * s).ravel(), U.ravel(), (U * epochs).ravel(), s.ravel()
    truth = [plain.LAWS["sparse"](WHEN_DATA_IS_SCARCE, *run) for run in zip(*point, strict=True)]
    errors = [np.sqrt(np.mean((fit.predict(*point) - truth) ** 2)) for fit in (joint, staged)]
    assert errors[0] <= errors[1]
    assert errors[0] < 0.02


def test_intervals_hold_the_law_that_made_the_runs(study, joint):
    """One study of those that benchmarks/law_recovery.py makes 200 of."""
    drawn = bootstrap(study, joint, n=40, workers=1)
    held = [low <= WHEN_DATA_IS_SCARCE[name] <= high for name, (low, high) in drawn.intervals.items()]
    assert sum(held) >= 11
    form = get_form("sparse")
    theta = {name: np.array(values)[:, None] for name, values in drawn.draws.items()}
    for true, of_draws in zip(
        form.stars(WHEN_DATA_IS_SCARCE, np.array(DENSITIES)), form.stars(theta, np.array(DENSITIES)), strict=True
    ):
        low, high = np.quantile(of_draws, [0.025, 0.975], axis=0)
        assert ((low <= true) & (true <= high)).sum() >= 4


def test_leaves_out_runs_that_diverged(study):
    lost = study.assign(status=study["status"].where(study.index != 7, "diverged"))
    with pytest.warns(SparsedcWarning, match="1 of 240 fit cells diverged"):
        fit = fit_staged(lost, params="paper", starts=1, likelihood=Gaussian())
    assert (fit.n_runs, fit.n_left_out) == (239, 1)


@pytest.mark.parametrize(
    ("kept", "missing"),
    [
        (lambda runs: runs["epochs"] > 1, "dense runs of one epoch"),
        (lambda runs: (runs["epochs"] > 1) | (runs["density"] == 1), "sparse runs of one epoch"),
        (lambda runs: (runs["epochs"] == 1) | (runs["density"] < 1), "dense runs of more than one epoch"),
        (lambda runs: (runs["epochs"] == 1) | (runs["density"] == 1), "sparse runs of more than one epoch"),
    ],
    ids=["dense, one", "sparse, one", "dense, more", "sparse, more"],
)
def test_says_which_runs_a_stage_lacks(study, kept, missing):
    with pytest.raises(InputError, match=missing):
        fit_staged(study[kept(study)], params="paper")

"""Errors on unseen runs: against the same by hand, and what must have none."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from sparsedc.law.fitting import fit_law
from sparsedc.law.validate import (
    Error,
    Fold,
    baselines,
    cross_validate,
    cross_validate_baselines,
    folds,
    pooled_rmse,
    predictions,
    seed_noise,
)

BIGGER = [4_000_000_000]
SMALL = {"densities": [1.0, 0.25], "epochs": [1, 4]}


def test_error():
    error = Error.of(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 5.0]))
    assert (error.n, error.rmse) == (3, pytest.approx((2 / 3) ** 0.5))
    assert (error.mean_abs, error.mean) == (pytest.approx(2 / 3), pytest.approx(-2 / 3))
    assert error.r2 == pytest.approx(0.75)
    assert Error.of(np.array([1.0]), np.array([2.0])).r2 is None
    assert Error.of(np.empty(0), np.empty(0)) is None


def nearest_loss(run, fitted):
    """By hand: squared distances in ln N, ln U, ln D and s, in units of the fitted runs' spread."""
    distance = 0.0
    for take in (
        lambda t: np.log(t["params_active"] - t["params_embedding"] - t["params_head"]),
        lambda t: np.log(t["unique_tokens"]),
        lambda t: np.log(t["tokens"]),
        lambda t: t["density"],
    ):
        distance += (take(fitted) - take(run)) ** 2 / np.var(take(fitted))
    return fitted.loc[distance.idxmin(), "val_loss"]


def test_baselines(simulate):
    runs = simulate("chinchilla", extrapolation_body=BIGGER)
    fitted, others = runs[runs["role"] == "fit"], runs[runs["role"] == "extrapolation"]
    known = baselines(fitted, others, "body")
    assert known["mean"] == pytest.approx(np.full(len(others), fitted["val_loss"].mean()))
    nearest = [nearest_loss(run, fitted) for _, run in others.iterrows()]
    np.testing.assert_array_equal(known["nearest run"], nearest)
    np.testing.assert_allclose(known["dense law"], others["val_loss"], rtol=1e-5)
    sparse_only = fitted[fitted["density"] < 1]
    assert set(baselines(sparse_only, others, "body")) == {"mean", "nearest run"}
    one_size = fitted[fitted["size"] == "1900M"]
    assert "dense law" not in baselines(one_size, others, "body")


def test_folds_leave_out_each_level_once_and_the_most_compute(simulate, grid):
    runs = simulate("sparse", seeds=2)
    found = folds(runs, "body")
    assert {kind: [name for name, _ in some] for kind, some in found.items()} == {
        "size": ["size 20M", "size 120M", "size 480M", "size 1900M"],
        "density": ["density 1/16", "density 1/8", "density 1/4", "density 1/2", "density 1 (dense)"],
        "unique_tokens": ["U 650M", "U 2.6B", "U 10.4B"],
        "compute": ["the 18 of the most compute"],
    }
    for kind, column in (("size", "size"), ("density", "density"), ("unique_tokens", "unique_tokens")):
        masks = np.array([mask for _, mask in found[kind]])
        np.testing.assert_array_equal(masks.sum(axis=0), 1)
        for mask in masks:
            assert runs.loc[mask, column].nunique() == 1
            assert not set(runs.loc[mask, column]) & set(runs.loc[~mask, column])
    ((_, most),) = found["compute"]
    body = runs["params_active"] - runs["params_embedding"] - runs["params_head"]
    compute = body.astype(float) * runs["tokens"]
    assert most.sum() == 2 * 18  # of 180 configurations, both seeds
    assert compute[most].min() >= compute[~most].max()


def test_many_levels_are_left_out_by_neighbours_and_one_level_not_at_all(simulate):
    runs = simulate(
        "chinchilla", body=[10**7 * 2**i for i in range(23)], densities=[1.0], unique_tokens=[10**9, 10**10]
    )
    found = folds(runs, "body")
    assert set(found) == {"size", "unique_tokens", "compute"}
    assert len(found["size"]) == 10
    order = runs["params_maskable"].to_numpy()
    for (_, before), (_, after) in pairwise(found["size"]):
        assert order[before].max() < order[after].min()
    assert found["size"][0][0] == "size 10M to 40M"
    assert set(folds(runs.iloc[:1], "body")) == set()


def test_cross_validation_is_a_refit_without_the_fold_and_its_error_there(simulate):
    runs = simulate("muennighoff", noise=0.01, **SMALL)
    found = cross_validate(runs, fit_law(runs, "muennighoff", starts=8), folds(runs, "body"))
    masks = folds(runs, "body")
    assert set(found) == set(masks) == {"size", "density", "unique_tokens", "compute"}
    for kind in ("density", "compute"):
        for fold, (name, mask) in zip(found[kind], masks[kind], strict=True):
            by_hand = fit_law(runs[~mask], "muennighoff", starts=8, seed=5)
            out = runs[mask]
            N = out["params_active"] - out["params_embedding"] - out["params_head"]
            predicted = by_hand.predict(N, out["unique_tokens"], out["tokens"], out["density"])
            rmse = np.sqrt(np.mean((predicted - out["val_loss"]) ** 2))
            assert (fold.left_out, fold.n, fold.status) == (name, mask.sum(), by_hand.status)
            assert fold.rmse == pytest.approx(rmse, rel=1e-3)


def test_what_is_left_out_is_not_seen(simulate):
    """With its losses raised by one nat, a fold's error is one nat: the refit did not follow them."""
    runs = simulate("chinchilla", densities=[1.0])
    wild = runs.assign(val_loss=runs["val_loss"] + np.where(runs["size"] == "480M", 1.0, 0.0))
    found = cross_validate(wild, fit_law(runs, "chinchilla", starts=4), folds(runs, "body"))
    error = {fold.left_out: fold.rmse for fold in found["size"]}
    assert error["size 480M"] == pytest.approx(1.0, abs=1e-4)


def test_a_fold_without_which_nothing_is_known_has_no_number(simulate):
    runs = simulate("sparse", noise=0.002)
    masks = folds(runs, "body")
    found = cross_validate(
        runs, fit_law(runs, "sparse", starts=4), {kind: masks[kind] for kind in ("density", "compute")}
    )
    assert {fold.status for fold in found["density"]} == {"not identifiable"}  # five densities are just enough
    assert {fold.rmse for fold in found["density"]} == {None}
    assert all(fold.rmse for fold in found["compute"])
    assert pooled_rmse(found["density"]) is None


def test_pooled_rmse_counts_runs_and_forgives_no_gap():
    one, other = Fold("a", 1, 2.0, "ok"), Fold("b", 3, 0.0, "ok")
    assert pooled_rmse([one, other]) == 1.0
    assert pooled_rmse([one, Fold("c", 1, None, "not identifiable")]) is None
    assert pooled_rmse([]) is None


def test_baselines_are_judged_on_the_same_folds(simulate):
    runs = simulate("muennighoff", noise=0.003, **SMALL)
    masks = folds(runs, "body")
    found = cross_validate_baselines(runs, masks, "body")
    law = cross_validate(runs, fit_law(runs, "muennighoff", starts=8), masks)
    for kind, some in masks.items():
        for i, (_, mask) in enumerate(some):
            seen, out = runs.loc[~mask, "val_loss"], runs.loc[mask, "val_loss"]
            assert found["mean"][kind][i].rmse == pytest.approx(np.sqrt(np.mean((seen.mean() - out) ** 2)))
            assert law[kind][i].rmse < found["nearest run"][kind][i].rmse
    dense = {fold.left_out: fold for fold in found["dense law"]["density"]}
    assert dense["density 1 (dense)"] == Fold("density 1 (dense)", 24, None, "not identifiable")
    assert dense["density 1/4"].rmse is not None


def test_seed_noise_is_the_pooled_spread_of_equal_configurations(simulate):
    runs = simulate("sparse", noise=0.01, seeds=3)
    noise = seed_noise(runs)
    groups = runs.groupby(["size", "density", "unique_tokens", "epochs"])["val_loss"]
    assert noise.sd == pytest.approx(np.sqrt(groups.var(ddof=1).mean()))
    assert (noise.configurations, noise.freedom) == (180, 360)
    assert noise.sd == pytest.approx(0.01 * runs["val_loss"].mean(), rel=0.1)


def test_runs_that_differ_for_another_reason_are_no_seeds(simulate):
    runs = simulate("sparse", noise=0.01, seeds=2)
    assert seed_noise(simulate("sparse", noise=0.01)) is None
    assert seed_noise(runs.drop(columns="seed")) is None
    assert seed_noise(runs.assign(seed=0)) is None
    assert seed_noise(runs.assign(lr=np.where(runs["seed"] == 0, 1e-3, 2e-3))) is None
    some = seed_noise(runs.drop(runs.index[(runs["seed"] == 1) & (runs["density"] < 1)]))
    assert some.freedom == 36


def test_prediction_intervals_cover_runs_as_they_say(simulate):
    runs = simulate("muennighoff", noise=0.01, seeds=3)
    cells = predictions(fit_law(runs, "muennighoff", starts=4), runs)
    assert ((cells["low"] < cells["predicted"]) & (cells["predicted"] < cells["high"])).all()
    assert 0.92 < ((cells["low"] < cells["observed"]) & (cells["observed"] < cells["high"])).mean() < 0.98
    np.testing.assert_allclose(cells["error"], cells["predicted"] - cells["observed"])
    pd.testing.assert_series_equal(cells["cell"], runs["cell"])

"""How well a law predicts runs that it never saw, beside predictors that know no law.

A high R² flatters: losses of a grid vary mostly by what any predictor knows. A law earns its keep where its error on
runs that it was not fitted to is below that of the nearest run that it was, and it can do no better than the spread
between seeds of one configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial import KDTree

from sparsedc.law.design import Floats
from sparsedc.law.fit import Fit
from sparsedc.law.fitting import design_of, fit_finished, likelihood_of
from sparsedc.law.forms import get_form
from sparsedc.law.likelihood import Likelihood
from sparsedc.words import count_label, density_label

#: what a cross-validation leaves out in turn: all runs of one size, density or U; or those of the most compute, once
KINDS = ("size", "density", "unique_tokens", "compute")
#: where a kind has more levels, neighbours are left out together
MOST_FOLDS = 10
#: share of the configurations that the last kind leaves out, at least one of them
MOST_COMPUTE = 0.1
#: beside the optimum of all runs and its nearest rival, from which a refit without some of them starts
FOLD_STARTS = 2
DENSE_STARTS = 8
#: the columns that tell runs apart, but for the seed
CONFIGURATION = (
    *("params_active", "unique_tokens", "tokens", "density", "size", "method", "held_out"),
    *("lr", "maskable_lr", "weight_decay", "batch_tokens"),
)


@dataclass(frozen=True)
class Error:
    """Prediction error over some cells, in nats per token."""

    n: int
    rmse: float
    mean_abs: float
    mean: float  # predicted − observed: above 0 where losses are predicted too high
    r2: float | None = None  # share of the losses' variance that is predicted; None where they do not vary

    @classmethod
    def of(cls, predicted: Floats, observed: Floats) -> "Error | None":
        """None where there are no cells."""
        if not len(observed):
            return None
        error = predicted - observed
        squared = float(np.mean(error**2))
        variance = float(np.var(observed))
        r2 = 1 - squared / variance if variance > 0 else None
        return cls(len(error), float(np.sqrt(squared)), float(np.abs(error).mean()), float(error.mean()), r2)


@dataclass(frozen=True)
class Fold:
    """Prediction error over the runs that a refit did not see."""

    left_out: str  # such as "density 1/4"
    n: int  # how many runs were left out
    rmse: float | None  # nats per token; None where the other runs make no law to predict with
    status: str  # of the refit


#: kind → its folds; a kind is absent where the runs have one level of it
CrossValidation = dict[str, tuple[Fold, ...]]


@dataclass(frozen=True)
class SeedNoise:
    """Spread of held-out loss between seeds of one configuration: no law can predict single runs better than this."""

    sd: float  # pooled over configurations, nats per token
    configurations: int  # that were run with several seeds
    freedom: int  # degrees of freedom: runs of them, less one a configuration


def predict_runs(fit: Fit, runs: pd.DataFrame) -> Floats:
    """The fit's prediction for each run, (n,)."""
    design = design_of(runs, fit.params)
    return fit.predict(design.N, design.U, design.D, design.s)


def predictions(fit: Fit, runs: pd.DataFrame) -> pd.DataFrame:
    """One row a run: what it is, its observed and predicted loss, the interval that 95 % of such runs fall in, and the
    error, predicted − observed."""
    table = runs[["cell", "role", "method", "size", "density", "unique_tokens", "epochs", "tokens"]].copy()
    design = design_of(runs, fit.params)
    table["N"] = design.N
    table["observed"] = runs["val_loss"]
    table["predicted"] = fit.predict(design.N, design.U, design.D, design.s)
    table["low"], table["high"] = fit.run_interval(design.N, design.U, design.D, design.s).T
    table["error"] = table["predicted"] - table["observed"]
    return table.reset_index(drop=True)


def baselines(
    fitted: pd.DataFrame,
    others: pd.DataFrame,
    params: str,
    likelihood: Likelihood | None = None,
    near: Fit | None = None,
) -> dict[str, Floats]:
    """Predictions for `others` by name of baseline, from the runs that the law was fitted to.

    mean: the mean loss of the fitted runs.
    nearest run: the loss of the nearest one in ln N, ln U, ln D and s, each scaled to unit spread over the fitted runs.
    dense law: Chinchilla's form on the dense runs alone, see `dense_law`; absent where they make no law.
    """
    known = {"mean": np.full(len(others), fitted["val_loss"].mean())}
    if len(others):
        here, there = _coordinates(fitted, params), _coordinates(others, params)
        spread = here.std(axis=0)
        spread[spread == 0] = 1.0
        _, index = KDTree(here / spread).query(there / spread)
        known["nearest run"] = fitted["val_loss"].to_numpy()[index]
    law = dense_law(fitted, params, likelihood, near)
    if law is not None and law.usable:
        known["dense law"] = predict_runs(law, others) if len(others) else np.empty(0)
    return known


def dense_law(
    runs: pd.DataFrame, params: str, likelihood: Likelihood | None = None, near: Fit | None = None
) -> Fit | None:
    """Chinchilla's form, fitted to the dense runs alone; None where there are none.

    Args:
        near: the dense law of a few runs more or less, whose optimum saves most of the starts.
    """
    dense = runs[runs["density"] == 1]
    if not len(dense):
        return None
    starts, warm = (DENSE_STARTS, []) if near is None else (FOLD_STARTS, [near.parameters])
    return fit_finished(dense, "chinchilla", params=params, likelihood=likelihood, starts=starts, warm=warm)


def _coordinates(runs: pd.DataFrame, params: str) -> Floats:
    design = design_of(runs, params)
    return np.column_stack([np.log(design.N), np.log(design.U), np.log(design.D), design.s])


Masks = dict[str, list[tuple[str, npt.NDArray[np.bool_]]]]


def folds(runs: pd.DataFrame, params: str) -> Masks:
    """What each kind of cross-validation leaves out: kind → (its name, which runs, (n,)).

    Levels are in ascending order. A kind of which the runs have only one level is absent: nothing would be left.
    """
    design = design_of(runs, params)
    size = runs["size"].astype(str).to_numpy()
    dense_N = {label: (design.N / design.s)[size == label].mean() for label in set(size)}
    found = {
        "size": _levels(size, sorted(dense_N, key=lambda label: dense_N[label]), "size", str),
        "density": _levels(design.s, np.unique(design.s), "density", density_label),
        "unique_tokens": _levels(design.U, np.unique(design.U), "U", count_label),
        "compute": _most_compute(design.N, design.U, design.D, design.s),
    }
    return {kind: masks for kind, masks in found.items() if masks}


def _levels(
    values: npt.NDArray[Any], levels: Sequence[Any] | npt.NDArray[Any], word: str, label: Any
) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    if len(levels) < 2:
        return []
    parts = np.array_split(np.asarray(levels), min(len(levels), MOST_FOLDS))
    return [
        (
            f"{word} {label(part[0])}" + (f" to {label(part[-1])}" if len(part) > 1 else ""),
            np.isin(values, part),
        )
        for part in parts
    ]


def _most_compute(N: Floats, U: Floats, D: Floats, s: Floats) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """The configurations of the most 6ND."""
    configurations, which = np.unique(np.column_stack([N * D, N, U, D, s]), axis=0, return_inverse=True)
    count = max(1, round(MOST_COMPUTE * len(configurations)))
    if count == len(configurations):
        return []
    mask = which.ravel() >= len(configurations) - count
    return [(f"the {count} of the most compute" if count > 1 else "the one of the most compute", mask)]


def cross_validate(runs: pd.DataFrame, fit: Fit, masks: Masks) -> CrossValidation:
    """The fit's form, refitted without each fold in turn, and its error there.

    Args:
        runs: those that were fitted.
        masks: from `folds`.
    """
    form, likelihood = get_form(fit.form), likelihood_of(fit)
    warm = [fit.parameters, *(rival["parameters"] for rival in fit.rivals[:1])]
    design = design_of(runs, fit.params)

    def fold(left_out: str, mask: npt.NDArray[np.bool_]) -> Fold:
        kept = design.take(~mask)
        levels = {column: kept.levels(column) for column in form.needs}
        if not fit.fixed and any(levels[column] < least for column, least in form.needs.items()):
            return Fold(left_out, int(mask.sum()), None, "not identifiable")  # known without a refit, and many are
        part = fit_finished(
            runs[~mask],
            fit.form,
            params=fit.params,
            likelihood=likelihood,
            starts=FOLD_STARTS,
            fixed=fit.fixed,
            warm=warm,
        )
        return _fold(left_out, predict_runs(part, runs[mask]) if part.usable else None, part.status, runs[mask])

    return {kind: tuple(fold(left_out, mask) for left_out, mask in some) for kind, some in masks.items()}


def cross_validate_baselines(
    runs: pd.DataFrame, masks: Masks, params: str, likelihood: Likelihood | None = None
) -> dict[str, CrossValidation]:
    """The baselines on the same folds: name → as `cross_validate`."""
    names = ("mean", "nearest run", "dense law")
    found: dict[str, CrossValidation] = {name: {} for name in names}
    dense = dense_law(runs, params, likelihood)
    for kind, some in masks.items():
        each: dict[str, list[Fold]] = {name: [] for name in names}
        for left_out, mask in some:
            known = baselines(runs[~mask], runs[mask], params, likelihood, dense)
            for name in names:
                status = "ok" if name in known else "not identifiable"
                each[name].append(_fold(left_out, known.get(name), status, runs[mask]))
        for name in names:
            found[name][kind] = tuple(each[name])
    return found


def _fold(left_out: str, predicted: Floats | None, status: str, runs: pd.DataFrame) -> Fold:
    error = None if predicted is None else Error.of(predicted, runs["val_loss"].to_numpy(dtype=np.float64))
    return Fold(left_out, len(runs), error.rmse if error else None, status)


def pooled_rmse(some: Sequence[Fold]) -> float | None:
    """RMSE over all runs that the folds left out; None if a fold has none, because without its hardest folds a
    predictor would look better than it is."""
    if not some or any(fold.rmse is None for fold in some):
        return None
    squares = sum(fold.n * (fold.rmse or 0.0) ** 2 for fold in some)
    return float(np.sqrt(squares / sum(fold.n for fold in some)))


def seed_noise(runs: pd.DataFrame) -> SeedNoise | None:
    """The spread between seeds; None where no configuration was run with several.

    Runs count as seeds of one configuration only where every other column that tells runs apart is equal and the
    column `seed` differs: without that column nobody knows why two losses differ.
    """
    if "seed" not in runs:
        return None
    squares, configurations, freedom = 0.0, 0, 0
    for _, group in runs.groupby([column for column in CONFIGURATION if column in runs], dropna=False):
        if len(group) > 1 and group["seed"].nunique(dropna=False) == len(group):
            losses = group["val_loss"].to_numpy(dtype=np.float64)
            squares += float(((losses - losses.mean()) ** 2).sum())
            configurations += 1
            freedom += len(group) - 1
    return SeedNoise(float(np.sqrt(squares / freedom)), configurations, freedom) if freedom else None

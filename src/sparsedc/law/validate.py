"""How well a law predicts runs that it never saw, beside predictors that know no law.

A high R² flatters: losses of a grid vary mostly by what any predictor knows. A law earns its keep where its error on
the extrapolation cells is below that of the nearest run it was fitted to.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from sparsedc.law.counts import count_params
from sparsedc.law.fit import Fit, design_of, fit_finished
from sparsedc.law.forms import Floats


@dataclass(frozen=True)
class Error:
    """Prediction error over some cells, in nats per token."""

    n: int
    rmse: float
    mean_abs: float
    mean: float  # predicted − observed: above 0 where losses are predicted too high

    @classmethod
    def of(cls, predicted: Floats, observed: Floats) -> "Error | None":
        """None where there are no cells."""
        if not len(observed):
            return None
        error = predicted - observed
        return cls(len(error), float(np.sqrt(np.mean(error**2))), float(np.abs(error).mean()), float(error.mean()))


def predict_runs(fit: Fit, runs: pd.DataFrame) -> Floats:
    """The fit's prediction for each run, (n,)."""
    design = design_of(runs, fit.params)
    return fit.predict(design.N, design.U, design.D, design.s)


def predictions(fit: Fit, runs: pd.DataFrame) -> pd.DataFrame:
    """One row a run: what it is, its observed and predicted loss, and the error, predicted − observed."""
    table = runs[["cell", "role", "method", "size", "density", "unique_tokens", "epochs", "tokens"]].copy()
    table["N"] = count_params(runs, fit.params)
    table["observed"] = runs["val_loss"]
    table["predicted"] = predict_runs(fit, runs)
    table["error"] = table["predicted"] - table["observed"]
    return table.reset_index(drop=True)


def baselines(fitted: pd.DataFrame, others: pd.DataFrame, params: str, delta: float) -> dict[str, Floats]:
    """Predictions for `others` by name of baseline, from the runs that the law was fitted to.

    mean: the mean loss of the fitted runs.
    nearest run: the loss of the nearest one in ln N, ln U, ln D and s, each scaled to unit spread over the fitted runs.
    dense law: Chinchilla's form on the dense runs alone; absent where they do not identify it.
    """
    known = {"mean": np.full(len(others), fitted["val_loss"].mean())}
    if len(others):
        here, there = _coordinates(fitted, params), _coordinates(others, params)
        spread = here.std(axis=0)
        spread[spread == 0] = 1.0
        _, index = KDTree(here / spread).query(there / spread)
        known["nearest run"] = fitted["val_loss"].to_numpy()[index]
    dense = fitted[fitted["density"] == 1]
    if len(dense):
        law = fit_finished(dense, "chinchilla", params=params, delta=delta)
        if law.usable:
            known["dense law"] = predict_runs(law, others) if len(others) else np.empty(0)
    return known


def _coordinates(runs: pd.DataFrame, params: str) -> Floats:
    design = design_of(runs, params)
    return np.column_stack([np.log(design.N), np.log(design.U), np.log(design.D), design.s])

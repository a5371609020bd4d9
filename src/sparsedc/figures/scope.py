"""What the figures ask a law about: unique tokens, densities, compute; and where the runs end that it was fitted to."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparsedc.errors import InputError
from sparsedc.figures import style
from sparsedc.law.compute import Compute
from sparsedc.law.density_factor import Factor
from sparsedc.law.design import Floats
from sparsedc.law.fit import Fit
from sparsedc.law.forms import DataConstrained, Frantar, get_form
from sparsedc.law.frontier import Allocation, loss_optimal
from sparsedc.law.limits import Limits, knows_repetition
from sparsedc.law.repetition import QuadraticStars, StepStars

MOST_BUDGETS = 3
#: where no fit cell says which densities are of interest, as in a study of published constants
HALVINGS = (1.0, 0.5, 0.25, 0.125, 0.0625)
#: accounting of compute → how figures call it
ACCOUNTINGS = {
    Compute(zeros_free=True): "active: zeros cost nothing",
    Compute(zeros_free=False): "dense-equivalent: zeros are multiplied",
}
#: how far beyond the compute of the fitted runs figures look, for laws that know a dense optimum and for others
BEYOND, BEYOND_WITHOUT = 100.0, 3.0
#: and how many decades down from there
DECADES = 3.0


def budgets(runs: pd.DataFrame, asked: Sequence[float]) -> list[float]:
    """Unique tokens: those asked for, else those of the fit cells, else of all cells; at most three, in order."""
    if asked:
        return [float(U) for U in asked[:MOST_BUDGETS]]
    return style.spread_over(sorted(map(float, _fit_cells(runs)["unique_tokens"].unique())), MOST_BUDGETS)


def main_budget(runs: pd.DataFrame, asked: Sequence[float]) -> float:
    """The first budget asked for, else the one with the most cells, of several the largest."""
    if asked:
        return float(asked[0])
    cells = runs.groupby("unique_tokens").size()
    return float(cells[cells == cells.max()].index.max())


def densities(runs: pd.DataFrame, most: int) -> list[float]:
    """Densities of the fit cells, at most `most`, highest first; halvings of 1 where there are no fit cells."""
    if not (runs["role"] == "fit").any():
        return list(HALVINGS[:most])
    return style.spread_over(sorted(_fit_cells(runs)["density"].unique(), reverse=True), most)


def knows_density(fit: Fit) -> bool:
    """Whether two runs of equal N but different densities may differ in loss under this law."""
    form = get_form(fit.form)
    if isinstance(form, DataConstrained):
        return type(form.factor) is not Factor or isinstance(form.stars, (StepStars, QuadraticStars))
    return isinstance(form, Frantar)


def dense_optimum(fit: Fit, U: float) -> Allocation | None:
    """The cheapest dense run whose loss is nearly the lowest that U tokens allow a dense model; None where there is no
    lowest one, because the law takes repeated tokens for fresh ones."""
    if not knows_repetition(fit):
        return None
    try:
        return loss_optimal(fit, U, limits=Limits.of(fit, density=1.0), draws=0)
    except InputError:  # the loss still falls where the search ends
        return None


def compute_budgets(fit: Fit, U: float, n: int) -> Floats:
    """Training compute, 6 N D, in equal ratios, (n,).

    It goes up to three times what the dense optimum takes, but not beyond `BEYOND` times what the largest fitted runs
    took, or would have taken with models and data in proportion to U.
    """
    optimum = dense_optimum(fit, U)
    highest = 3 * optimum.flops if optimum else np.inf
    if fit.ranges:
        most = 6 * fit.ranges["N"][1] * fit.ranges["D"][1] * max(1.0, U / fit.ranges["U"][1]) ** 2
        highest = min(highest, (BEYOND if optimum else BEYOND_WITHOUT) * most)
    elif not optimum:
        highest = 6 * U**2 * BEYOND
    return np.geomspace(highest / 10**DECADES, highest, n)


def within(fit: Fit, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether each point lies in the ranges of the fitted runs; everywhere, where these are not known."""
    N, U, D, s = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (N, U, D, s)))
    inside = np.ones(N.shape, dtype=bool)
    values = {"N": N, "U": U, "D": D, "s": s, "epochs": D / U}
    for name, (low, high) in (fit.ranges or {}).items():
        inside &= (values[name] >= low * (1 - 1e-6)) & (values[name] <= high * (1 + 1e-6))
    return inside


def _fit_cells(runs: pd.DataFrame) -> pd.DataFrame:
    fitted = runs[runs["role"] == "fit"]
    return fitted if len(fitted) else runs

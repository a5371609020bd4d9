"""How certain a fit is: refits to resampled runs.

Whole configurations are drawn with replacement, all seeds of one together, because runs that differ in their seed alone
say little about where the law lies. A refit starts from the fit's optimum and from its rivals, so that a law with two
basins shows both in its draws.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparsedc.errors import InputError
from sparsedc.law.design import Floats
from sparsedc.law.fit import Fit, Interval
from sparsedc.law.fitting import APART, design_of, likelihood_of, observed_losses
from sparsedc.law.forms import get_form
from sparsedc.law.problem import Problem

#: a refit is one of hundreds and its sampling error far above this
TOLERANCE = 1e-6
STEPS = 100


def bootstrap(
    runs: pd.DataFrame, fit: Fit, *, n: int = 1000, seed: int = 0, workers: int | None = None, level: float = 0.95
) -> Fit:
    """The fit with `n` draws of its parameters and their percentile intervals.

    An interval is open where its end is the bound of the search: the runs do not limit the parameter there. Of a
    parameter in which rivals of the optimum differ, it spans the percentiles of each.

    Args:
        runs: those that were fitted, after `sparsedc.law.fitting.finished`.
        n: how many refits.
        seed: of the resampling; the draws depend on it and not on `workers`.
        workers: processes; as many as there are CPUs if None.
        level: of the intervals.

    Raises:
        InputError: fewer than 2 refits, a level outside (0, 1), a fit of other runs, or one with nothing to resample.
    """
    if n < 2:
        raise InputError("bootstrap", n, "needs at least 2 refits", "1000 are usual.")
    if not 0 < level < 1:
        raise InputError("level", level, "must be between 0 and 1", "0.95 is usual.")
    if fit.objective is None or len(runs) != fit.n_runs:
        raise InputError("runs table", len(runs), f"not the {fit.n_runs} runs of the fit", "Give the fitted runs.")
    problem = Problem(
        get_form(fit.form), design_of(runs, fit.params), observed_losses(runs), likelihood_of(fit), fit.fixed
    )
    design = problem.design
    _, cluster = np.unique(np.column_stack([design.N, design.U, design.D, design.s]), axis=0, return_inverse=True)
    clusters = int(cluster.max()) + 1
    if clusters <= len(problem.free):
        raise InputError(
            "bootstrap",
            n,
            f"{clusters} configurations cannot be resampled for {len(problem.free)} parameters",
            "Fit a simpler form, or add runs.",
        )
    starts = [problem.coordinates(theta) for theta in (fit.parameters, *(rival["parameters"] for rival in fit.rivals))]
    seeds = np.random.SeedSequence(seed).spawn(n)
    batches = np.array_split(np.array(seeds, dtype=np.object_), -(-n // 25))
    tasks = [(problem, cluster.ravel(), starts, batch) for batch in batches]
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    if workers == 1:
        found = [_refit(task) for task in tasks]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(_refit, tasks))
    objectives, optima = (np.concatenate(part) for part in zip(*found, strict=True))  # (n, starts), (n, starts, p)
    best = objectives.argmin(axis=1)
    theta = {
        name: np.broadcast_to(np.asarray(values, dtype=np.float64), objectives.shape)
        for name, values in problem.theta(np.moveaxis(optima, -1, 0)).items()
    }
    draws = {name: values[np.arange(n), best] for name, values in theta.items()}
    intervals = {
        parameter.name: _interval(
            theta[parameter.name] if _apart(starts, i) else draws[parameter.name][:, None],
            (optima[:, :, i] if _apart(starts, i) else optima[np.arange(n), best, i][:, None]),
            problem.low[i],
            problem.high[i],
            level,
        )
        for i, parameter in enumerate(problem.free)
    }
    return replace(
        fit,
        level=level,
        intervals=intervals,
        draws={name: tuple(float(f"{value:.9g}") for value in values) for name, values in draws.items()},
    )


def _apart(starts: list[Floats], i: int) -> bool:
    """Whether the optimum and its rivals differ in coordinate i."""
    return max(abs(float(start[i] - starts[0][i])) for start in starts) > APART


def _interval(values: Floats, coordinates: Floats, low: float, high: float, level: float) -> Interval:
    """Percentiles of the draws, (n, basins), from the lowest of any basin to the highest of any.

    Where two basins fit about equally well, nearly all refits may end in one of them, and percentiles of all would
    leave out the other, which the runs do not rule out.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    margin = 1e-3 * (high - low)
    ends, edges = (np.quantile(each, tails, axis=0) for each in (values, coordinates))
    return (
        None if edges[0].min() < low + margin else float(ends[0].min()),
        None if edges[1].max() > high - margin else float(ends[1].max()),
    )


def _refit(
    task: tuple[Problem, npt.NDArray[np.intp], list[Floats], npt.NDArray[np.object_]],
) -> tuple[Floats, Floats]:
    """The optimum of each resampling from each start: objectives, (n, starts), and coordinates, (n, starts, p)."""
    problem, cluster, starts, seeds = task
    clusters = int(cluster.max()) + 1
    objectives, coordinates = [], []
    for seed in seeds:
        drawn = np.random.default_rng(seed).integers(clusters, size=clusters)
        weights = np.bincount(drawn, minlength=clusters)[cluster].astype(np.float64)
        rows = np.flatnonzero(weights)
        part = problem.subset(rows)
        optima = [part.minimise(start, weights[rows], steps=STEPS, tolerance=TOLERANCE) for start in starts]
        objectives.append([objective for objective, _ in optima])
        coordinates.append([x for _, x in optima])
    return np.array(objectives), np.array(coordinates)

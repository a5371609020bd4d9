"""The published staged procedure, to compare a joint fit with.

"When Data Is Scarce" (ICML 2026, arXiv 2606.01155; github.com/boqian333/sparse-dc-scaling, fitting/fitting.ipynb) fits
its law to four subsets of the runs in turn, each stage holding what the ones before have found:

1. dense runs of one epoch: E, A, B, α
2. runs of one epoch at every density: the same four anew, and ε, μ, c
3. dense runs of more than one epoch: γ1, γ2
4. sparse runs of more than one epoch: c11, c21, c12, c22

Its first two stages know no R_N*: N counts in full there, even beyond N_opt, where the law they are part of says less.
The solver here is that of every fit, from its own starts. The published one is L-BFGS from 1,250 starts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from sparsedc.errors import InputError
from sparsedc.law.counts import DEFAULT_CONVENTION
from sparsedc.law.fit import Fit, Status
from sparsedc.law.fitting import design_of, finished, fit_finished, observed_losses
from sparsedc.law.likelihood import Huber, Likelihood

FORM = "sparse"
DENSE = {"epsilon": 0.0, "mu": 1.0, "c": 0.0}  # of no consequence at s = 1
STRAIGHT = {"c11": 0.0, "c21": 0.0, "c12": 0.0, "c22": 0.0}  # nor are these
ENDLESS = {"gamma1": 1e30, "gamma2": 1e30, **STRAIGHT}  # nothing saturates
REASON = "fitted in four stages, each holding what the ones before found: not the optimum over all runs"
_WORST_FIRST: tuple[Status, ...] = ("not identifiable", "at bound", "weakly determined", "ok")


def fit_staged(
    runs: pd.DataFrame,
    *,
    params: str = DEFAULT_CONVENTION,
    likelihood: Likelihood | None = None,
    starts: int | None = None,
    seed: int = 0,
) -> Fit:
    """Fit the form "sparse" to the finished fit cells of a runs table, in the paper's four stages.

    Args:
        params, likelihood, seed: as in `sparsedc.law.fitting.fit_law`.
        starts: of each stage, as in `fit_law`.

    Returns:
        A fit whose objective, errors and ranges are those of all runs, and whose status, condition and share of starts
        are those of its worst stage. Its first reason says that it is staged. All its parameters are `fixed`: a
        bootstrap or profile would have to repeat the stages, and refuses.

    Raises:
        InputError: no runs for some stage, or as in `fit_law`.
    """
    kept = finished(runs, "fit")
    one_epoch = kept["tokens"] <= kept["unique_tokens"]
    dense = kept["density"] == 1

    def stage(chosen: pd.Series, fixed: Mapping[str, float], warm: Sequence[Mapping[str, float]] = ()) -> Fit:
        return fit_finished(
            kept[chosen], FORM, params=params, likelihood=likelihood, starts=starts, seed=seed, fixed=fixed, warm=warm
        )

    for epochs, of_epochs in {"one epoch": one_epoch, "more than one epoch": ~one_epoch}.items():
        for name, subset in {"dense": dense, "sparse": ~dense}.items():
            if not (of_epochs & subset).any():
                raise InputError(
                    "runs table", 0, f"a staged fit needs {name} runs of {epochs}", "Fit all runs jointly, or add some."
                )
    first = stage(one_epoch & dense, DENSE | ENDLESS)
    second = stage(one_epoch, ENDLESS, [first.parameters])
    third = stage(~one_epoch & dense, _without(second.parameters, ENDLESS) | STRAIGHT)
    fourth = stage(~one_epoch & ~dense, _without(third.parameters, STRAIGHT))
    left_out = int((runs["role"] == "fit").sum()) - len(kept)
    return _over_all(kept, likelihood or Huber(), [first, second, third, fourth], left_out)


def _without(parameters: Mapping[str, float], names: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in parameters.items() if name not in names}


def _over_all(runs: pd.DataFrame, likelihood: Likelihood, stages: list[Fit], n_left_out: int) -> Fit:
    """The last stage's law, measured on all runs."""
    last = stages[-1]
    later = stages[1:]  # the second stage found anew all that the first had
    design, observed = design_of(runs, last.params), observed_losses(runs)
    errors = last.predict(design.N, design.U, design.D, design.s) - observed
    log_errors = np.log1p(errors / observed)
    residuals = log_errors if likelihood.residuals == "log" else errors
    objective = likelihood.tuned(residuals).objective(residuals)
    n, k = len(runs), len(last.parameters)
    measured = {"N": design.N, "U": design.U, "D": design.D, "s": design.s, "epochs": design.D / design.U}
    reasons = [f"stage {i}: {reason}" for i, fit in enumerate(later, 2) for reason in fit.reasons]
    return replace(
        last,
        status=min((fit.status for fit in later), key=_WORST_FIRST.index),
        reasons=(REASON, *reasons),
        objective=objective,
        n_runs=n,
        n_left_out=n_left_out,
        rmse=float(np.sqrt(np.mean(errors**2))),
        noise=float(np.sqrt((log_errors**2).sum() / (n - k))) if n > k else math.nan,
        aicc=likelihood.aicc(objective, n, k),
        fixed=last.parameters,
        starts=sum(fit.starts for fit in stages),
        share_at_best=min(fit.share_at_best for fit in later),
        condition=max(fit.condition for fit in later),
        at_bound=tuple(name for fit in later for name in fit.at_bound),
        rivals=(),
        ranges={name: (float(values.min()), float(values.max())) for name, values in measured.items()},
    )

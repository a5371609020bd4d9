"""Fit a form of the law to a runs table: all parameters jointly, from many starts.

By default the objective is Σ Huber_δ(ln predicted − ln observed), as in the literature (`sparsedc.law.likelihood`).
A fit says whether the runs determine it (`sparsedc.law.fit.Status`).
"""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.counts import count_params, default_convention
from sparsedc.law.design import Design, Floats
from sparsedc.law.fit import Fit, Status
from sparsedc.law.forms import get_form
from sparsedc.law.likelihood import LIKELIHOODS, Huber, Likelihood
from sparsedc.law.problem import Problem

#: starts of a fit for each free parameter: the more parameters, the more basins
STARTS = 4
#: χ² of one degree of freedom at 95 %: optima whose deviance exceeds the best one's by less, but for the likelihood's
#: inflation, are rivals of it
RIVAL = 3.84
#: optima within this share of the best objective are the best one
EQUAL = 1e-3
#: how precisely each start is followed, before the best optima are
SCOUT = 1e-6
EXPONENTS = ("alpha", "beta", "eta")
#: in search coordinates, so that e^0.2: optima closer than that are one
APART = 0.2


def fit_law(
    runs: pd.DataFrame,
    form: str,
    *,
    params: str | None = None,
    likelihood: Likelihood | None = None,
    starts: int | None = None,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
) -> Fit:
    """Fit `form` to the finished fit cells of a runs table; others are left out, with a warning that names them.

    Args:
        form: a name that `sparsedc.law.forms.get_form` knows.
        params: what N counts, a name from `sparsedc.law.counts.CONVENTIONS`; if None `body`, or `active` of a table
            that lacks the counts which that takes.
        likelihood: how residuals are weighed; Huber of ln loss with δ = 1e-3 if None.
        starts: how many starts, spread over the parameters' ranges by a seeded Sobol sequence; if None, 4 for each
            parameter that is fitted.
        fixed: parameters to hold at a value, as stagewise fits do.

    Raises:
        InputError: no finished fit cell, an unusable value in the table, or an unusable argument.
    """
    kept = finished(runs, "fit")
    left_out = int((runs["role"] == "fit").sum()) - len(kept)
    return fit_finished(
        kept, form, params=params, likelihood=likelihood, starts=starts, seed=seed, fixed=fixed, n_left_out=left_out
    )


def finished(runs: pd.DataFrame, role: str) -> pd.DataFrame:
    """The cells of that role that finished; a warning names the others."""
    cells = runs[runs["role"] == role]
    kept = cells[cells["status"] == "ok"]
    if len(kept) < len(cells):
        names = cells.loc[cells["status"] != "ok", "cell"].tolist()
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        warnings.warn(
            f"{len(names)} of {len(cells)} {role} cells diverged and are left out: {shown}",
            SparsedcWarning,
            stacklevel=3,
        )
    return kept


def design_of(runs: pd.DataFrame, params: str) -> Design:
    """Where the runs lie: N under the convention `params`, U, D and s."""
    return Design.of(count_params(runs, params), runs["unique_tokens"], runs["tokens"], runs["density"])


def observed_losses(runs: pd.DataFrame) -> Floats:
    """The runs' held-out losses, (n,).

    Raises:
        InputError: one is not finite or not above 0.
    """
    observed = runs["val_loss"].to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(observed) & (observed > 0))
    if bad.any():
        raise InputError(
            f"val_loss of cell {runs['cell'].to_numpy()[bad][0]}",
            observed[bad][0],
            "a finished cell's loss must be finite and above 0",
            "Evaluate the cell again, or give it the status diverged.",
        )
    return observed


def fit_finished(
    runs: pd.DataFrame,
    form: str,
    *,
    params: str | None = None,
    likelihood: Likelihood | None = None,
    starts: int | None = None,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    warm: Sequence[Mapping[str, float]] = (),
    n_left_out: int = 0,
) -> Fit:
    """`fit_law` on runs that were chosen already; `warm` are further starts, each all parameters of the form."""
    if not len(runs):
        raise InputError("runs table", "0 finished fit cells", "there is nothing to fit", "Finish some fit cells.")
    if starts is not None and starts + len(warm) < 1:
        raise InputError("starts", starts, "must be at least 1", f"{STARTS} for each parameter are usual.")
    likelihood, params = likelihood or Huber(), params or default_convention(runs)
    observed = observed_losses(runs)
    problem = Problem(get_form(form), design_of(runs, params), observed, likelihood, fixed or {})
    spread = problem.starts(STARTS * len(problem.free) if starts is None else starts, seed)
    points = [*(problem.coordinates(theta) for theta in warm), *spread]
    if not np.isfinite(problem.residuals(points[0])).all():
        raise InputError("fixed", dict(fixed or {}), "gives no finite loss for some run", "Hold it at another value.")
    scouted = sorted((problem.minimise(point, tolerance=SCOUT) for point in points), key=lambda each: each[0])
    (objective, x), *rivals = _polished(problem, scouted)
    residuals = problem.residuals(x)
    likelihood = likelihood.tuned(residuals)
    n, k = len(runs), len(problem.free)

    condition, unknown, weak = problem.identification(x, residuals)
    at_bound = problem.at_bound(x)
    theta = {name: float(value) for name, value in problem.theta(x).items()}
    apart = np.max([np.abs(other - x) for _, other in rivals] or [0 * x], axis=0) > APART
    differ = [each.name for each, far in zip(problem.free, apart, strict=True) if far and each.name not in at_bound]
    # A constant at its bound is no estimate, but leaves a law; an exponent there says that the runs settle none.
    unknown += [f"the runs do not settle {name}, which ended at its bound" for name in at_bound if name in EXPONENTS]
    bounds = [f"at the bound of the search: {', '.join(at_bound)}"] if at_bound else []
    doubts = [f"weakly determined: {', '.join(weak)}"] if weak else []
    doubts += [f"different in optima that fit about equally well: {', '.join(differ)}"] if differ else []
    status: Status = (
        "not identifiable" if unknown else "at bound" if bounds else "weakly determined" if doubts else "ok"
    )

    design = problem.design
    measured = {"N": design.N, "U": design.U, "D": design.D, "s": design.s, "epochs": design.D / design.U}
    predicted = np.asarray(problem.form.loss(theta, design), dtype=np.float64)
    log_residuals = np.log(predicted) - np.log(observed)
    return Fit(
        form=form,
        parameters=theta,
        params=params,
        status=status,
        reasons=tuple(unknown + bounds + doubts),
        objective=float(objective),
        n_runs=n,
        likelihood=likelihood.name,
        delta=likelihood.delta if isinstance(likelihood, Huber) else None,
        residuals=likelihood.residuals,
        rmse=float(np.sqrt(np.mean((predicted - observed) ** 2))),
        noise=float(np.sqrt((log_residuals**2).sum() / (n - k))) if n > k else math.nan,
        aicc=likelihood.aicc(float(objective), n, k),
        n_left_out=n_left_out,
        fixed=dict(fixed or {}),
        starts=len(points),
        share_at_best=float(np.mean([value <= objective * (1 + EQUAL) + 1e-12 for value, _ in scouted])),
        condition=condition,
        at_bound=at_bound,
        rivals=tuple(
            {"objective": value, "parameters": {name: float(each) for name, each in problem.theta(other).items()}}
            for value, other in rivals
        ),
        ranges={name: (float(values.min()), float(values.max())) for name, values in measured.items()},
    )


def likelihood_of(fit: Fit) -> Likelihood:
    """The likelihood that a fit was made with."""
    if fit.likelihood == "huber":
        return Huber(fit.delta or 1e-3, residuals=fit.residuals)
    return LIKELIHOODS[fit.likelihood](residuals=fit.residuals)


def _polished(problem: Problem, scouted: list[tuple[float, Floats]]) -> list[tuple[float, Floats]]:
    """The best optimum, then at most two others that the runs do not rule out, apart from it and from one another."""
    n = len(problem.design)
    kept = [problem.minimise(scouted[0][1])]
    rival = RIVAL * problem.likelihood.inflation(problem.residuals(kept[0][1]), len(problem.free))
    for objective, x in scouted[1:]:
        lowest = problem.likelihood.deviance(min(value for value, _ in kept), n)
        if len(kept) == 3 or problem.likelihood.deviance(objective, n) - lowest > rival:
            break
        if _apart(x, kept):
            polished = problem.minimise(x)
            if _apart(polished[1], kept):
                kept.append(polished)
    return sorted(kept, key=lambda each: each[0])


def _apart(x: Floats, others: list[tuple[float, Floats]]) -> bool:
    return min(float(np.abs(x - other).max()) for _, other in others) > APART

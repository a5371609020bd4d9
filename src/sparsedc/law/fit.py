"""Fit a form of the law to a runs table: all parameters jointly, from many starts, with a status.

By default the objective is Σ Huber_δ(ln predicted − ln observed), as in the literature (`sparsedc.law.likelihood`).
A fit is a frozen result, saved as JSON, that knows what it was fitted to, how well the runs determine it, and how to
predict; `sparsedc.law.bootstrap` adds intervals to it.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr, stdtrit

from sparsedc.atomic import write_text
from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.counts import count_params, default_convention
from sparsedc.law.design import Design, Floats
from sparsedc.law.forms import get_form
from sparsedc.law.likelihood import LIKELIHOODS, Huber, Likelihood, Residuals
from sparsedc.law.problem import Problem

#: starts of a fit for each free parameter: the more parameters, the more basins
STARTS = 4
FORMAT = 2
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

#: ok; weakly determined: some parameter's standard error is large, or equally good optima differ in it; at bound: some
#: parameter's value is the edge of the search, not an estimate; not identifiable: the runs cannot tell some parameters
#: apart; published: constants from elsewhere. The worst one holds.
Status = Literal["ok", "weakly determined", "at bound", "not identifiable", "published"]

Interval = tuple[float | None, float | None]  # None: open, the runs do not bound the value on that side


@dataclass(frozen=True)
class Fit:
    """A fitted law and what is known about the quality of the fit."""

    form: str
    parameters: dict[str, float]
    params: str  # counting convention of N
    status: Status
    reasons: tuple[str, ...]  # why the status is not ok, one clause each
    objective: float | None  # the minimised sum, at the optimum; None for published constants
    n_runs: int
    likelihood: str = "huber"
    delta: float | None = None  # of the Huber loss
    residuals: Residuals = "log"
    rmse: float = math.nan  # of the fitted runs, nats
    noise: float = math.nan  # standard deviation of ln loss between a run and the law
    aicc: float = math.inf  # infinite where there are too few runs for it
    n_left_out: int = 0  # runs that diverged
    fixed: dict[str, float] = field(default_factory=dict)  # parameters held at a value
    starts: int = 0
    share_at_best: float = math.nan  # of the starts, those that ended within 0.1 % of the best objective
    condition: float = math.inf  # of the Jacobian at the optimum, columns scaled to unit norm
    at_bound: tuple[str, ...] = ()
    rivals: tuple[dict[str, Any], ...] = ()  # other optima that fit about as well: objective and parameters
    ranges: dict[str, tuple[float, float]] | None = None  # of N, U, D, s and epochs of the fitted runs
    level: float | None = None  # of the intervals
    intervals: dict[str, Interval] | None = None  # parameter → bootstrap interval
    draws: dict[str, tuple[float, ...]] | None = None  # parameter → its value in each bootstrap refit
    profiles: dict[str, dict[str, Any]] | None = None  # quantity → `sparsedc.law.profile.Profile`
    format: int = FORMAT

    @property
    def usable(self) -> bool:
        """Whether predictions follow from the runs."""
        return self.status != "not identifiable"

    def predict(self, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike) -> Floats:
        """Loss in nats per token, shape (n,). N is counted as `params` says."""
        loss = get_form(self.form).loss(self.parameters, Design.of(N, U, D, s))
        return np.asarray(loss, dtype=np.float64)

    def predict_draws(self, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike) -> Floats:
        """Loss under each of the k bootstrap refits, (k, n).

        Raises:
            InputError: the fit has no draws.
        """
        if self.draws is None:
            raise InputError("draws", None, "the fit has no bootstrap", "Fit it with `--bootstrap 1000`.")
        theta = {name: np.array(values)[:, None] for name, values in self.draws.items()}
        return np.asarray(get_form(self.form).loss(theta, Design.of(N, U, D, s)), dtype=np.float64)

    def law_interval(
        self, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike, level: float = 0.95
    ) -> Floats:
        """Where the law is, by its bootstrap, (n, 2): the mean loss of runs there.

        Raises:
            InputError: the fit has no draws.
        """
        return np.asarray(np.quantile(self.predict_draws(N, U, D, s), [(1 - level) / 2, (1 + level) / 2], axis=0).T)

    def run_interval(
        self, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike, level: float = 0.95
    ) -> Floats:
        """Where one new run will fall, (n, 2): runs spread about the law, and the law is itself uncertain.

        Without a bootstrap the second part is left out.
        """
        tails = np.array([(1 - level) / 2, (1 + level) / 2])
        spread = 1e-12 if math.isnan(self.noise) else max(self.noise, 1e-12)
        if self.draws is None:
            freedom = max(self.n_runs - (0 if self.status == "published" else len(self.parameters)), 1)
            return np.asarray(self.predict(N, U, D, s)[:, None] * np.exp(spread * stdtrit(freedom, tails)))
        drawn = np.log(self.predict_draws(N, U, D, s))
        from scipy.optimize.elementwise import find_root

        def excess(x: Floats, tail: Floats, at: Floats) -> Floats:  # of the share of runs below e^x over the tail
            return np.asarray(ndtr((x - drawn[:, at.astype(np.intp)]) / spread).mean(axis=0) - tail)

        reach = 10 * spread
        edges = (np.tile(drawn.min(axis=0) - reach, (2, 1)), np.tile(drawn.max(axis=0) + reach, (2, 1)))
        args = np.meshgrid(np.arange(drawn.shape[1], dtype=np.float64), tails)[::-1]
        return np.asarray(np.exp(find_root(excess, edges, args=tuple(args)).x.T))

    def outside(self, N: float, U: float, D: float, s: float) -> list[str]:
        """What of a run lies beyond the fitted runs, one clause each; empty where nothing does or nothing is known."""
        if self.ranges is None:
            return []
        words = {
            "N": (f"N ({self.params})", N),
            "U": ("unique tokens", U),
            "D": ("tokens", D),
            "s": ("density", s),
            "epochs": ("epochs", D / U),
        }
        found = []
        for key, (low, high) in self.ranges.items():
            name, value = words[key]
            if not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
                found.append(f"{name} {value:.4g} is outside the fitted {low:.4g} to {high:.4g}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which knows neither infinity nor NaN: null stands for them."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str | Path = "fit") -> Self:
        """The inverse of `to_dict`.

        Raises:
            InputError: another format, a missing or unknown key, or parameters that are not the form's.
        """
        remedy = "Fit the law anew with `sparsedc law fit`."
        if values.get("format") != FORMAT:
            raise InputError("format", values.get("format"), f"{source} is not a fit of format {FORMAT}", remedy)
        names = {each.name for each in fields(cls)}
        if names != set(values):
            raise InputError("keys", sorted(names ^ set(values)), f"missing or unknown in {source}", remedy)
        form = get_form(values["form"])
        given = values["parameters"]
        if not isinstance(given, Mapping) or set(given) != set(form.names):
            raise InputError("parameters", given, f"not those of {form.name} in {source}", remedy)
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(name, value, f"must be a number in {source}", remedy)
        if values["status"] not in get_args(Status):
            raise InputError("status", values["status"], f"unknown in {source}", remedy)
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        for each in fields(cls):
            if each.type is float and plain[each.name] is None:
                plain[each.name] = each.default
        for key in ("ranges", "intervals", "draws"):
            if plain[key] is not None:
                plain[key] = {name: tuple(value) for name, value in plain[key].items()}
        return cls(**plain)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or holds no fit.
        """
        return cls.from_dict(read_json(path), path)


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write JSON, whole or not at all; lists of numbers in one line."""
    lines = (
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in values.items()
    )
    write_text("{\n" + ",\n".join(lines) + "\n}\n", path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing or holds something else.
    """
    remedy = "Name a file that `sparsedc law` wrote."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError("law", path, "no such file", remedy) from error
    except ValueError as error:
        raise InputError("law", path, "not JSON", remedy) from error
    if not isinstance(values, dict):
        raise InputError("law", path, "not a JSON object", remedy)
    return values


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

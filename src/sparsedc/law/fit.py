"""Fit a form of the law to a runs table: all parameters jointly, from many starts, with a status.

The objective is Σ Huber_δ(ln predicted − ln observed), as in the literature. Minimised by SciPy's trust-region
least squares on residuals divided by δ, because tolerances of an optimizer mean nothing on an objective of 1e-3.
Jacobians are exact: complex-step derivatives, Im f(x + ih) / h with h = 1e-30, have no truncation and no cancellation.
"""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import least_squares, minimize_scalar
from scipy.special import erf
from scipy.stats import qmc

from sparsedc.atomic import write_text
from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.counts import DEFAULT_CONVENTION, count_params
from sparsedc.law.forms import Design, Floats, Form, Parameter, Values, get_form

DELTA = 1e-3
STARTS = 32
FORMAT = 1
#: scaled Jacobians beyond this condition number leave some combination of parameters undetermined
CONDITION_LIMIT = 1e7
#: a standard error beyond this (in ln θ, or in θ where θ may be negative) makes a parameter weakly determined
WEAK = 1.0

#: ok; weakly determined: some parameter's standard error exceeds `WEAK`; at bound: some parameter's value is the edge
#: of the search, not an estimate; not identifiable: the runs cannot tell some parameters apart. The worst one holds.
Status = Literal["ok", "weakly determined", "at bound", "not identifiable"]


@dataclass(frozen=True)
class Fit:
    """A fitted law and what is known about the quality of the fit."""

    form: str
    parameters: dict[str, float]
    params: str  # counting convention of N
    delta: float  # of the Huber loss
    objective: float  # Σ Huber_δ of log residuals, at the optimum
    rmse: float  # of the fitted runs, nats
    aicc: float  # infinite where there are too few runs for it
    n_runs: int
    n_left_out: int  # runs that diverged
    starts: int
    share_at_best: float  # of the starts, those that ended within 0.1 % of the best objective
    condition: float  # of the Jacobian at the optimum, columns scaled to unit norm
    at_bound: tuple[str, ...]
    status: Status
    reasons: tuple[str, ...]  # why the status is not ok, one clause each
    format: int = FORMAT

    @property
    def usable(self) -> bool:
        """Whether predictions follow from the runs. A constant at its bound is no estimate, but leaves a law; an
        exponent at its bound says that the runs follow no such law at all."""
        return self.status != "not identifiable" and not {"alpha", "beta"} & set(self.at_bound)

    def predict(self, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike) -> Floats:
        """Loss in nats per token, shape (n,). N is counted as `params` says."""
        loss = get_form(self.form).loss(self.parameters, Design.of(N, U, D, s))
        return np.asarray(loss, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which knows no infinity: null stands for one."""
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
        remedy = "Fit the law anew with `sparsedc law`."
        if values.get("format") != FORMAT:
            raise InputError("format", values.get("format"), f"{source} is not a fit of format {FORMAT}", remedy)
        names = {field.name for field in fields(cls)}
        if names != set(values):
            raise InputError("keys", sorted(names ^ set(values)), f"missing or unknown in {source}", remedy)
        if set(values["parameters"]) != set(get_form(values["form"]).names):
            raise InputError("parameters", list(values["parameters"]), f"not those of {values['form']}", remedy)
        if values["status"] not in get_args(Status):
            raise InputError("status", values["status"], f"unknown in {source}", remedy)
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        for key in ("aicc", "condition"):
            plain[key] = math.inf if plain[key] is None else plain[key]
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
    """Write JSON, whole or not at all."""
    write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing or holds something else.
    """
    remedy = "Name a file that `sparsedc law` wrote."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
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
    params: str = DEFAULT_CONVENTION,
    delta: float = DELTA,
    starts: int = STARTS,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
) -> Fit:
    """Fit `form` to the finished fit cells of a runs table; others are left out, with a warning that names them.

    Args:
        params: what N counts, a name from `sparsedc.law.counts.CONVENTIONS`.
        delta: where the Huber loss turns from quadratic to linear, in log loss.
        starts: how many starts, spread over the parameters' ranges by a seeded Sobol sequence.
        fixed: parameters to hold at a value, as stagewise fits do.

    Raises:
        InputError: no finished fit cell, an unusable value in the table, or an unusable argument.
    """
    kept = finished(runs, "fit")
    left_out = int((runs["role"] == "fit").sum()) - len(kept)
    return fit_finished(
        kept, form, params=params, delta=delta, starts=starts, seed=seed, fixed=fixed, n_left_out=left_out
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


def fit_finished(
    runs: pd.DataFrame,
    form: str,
    *,
    params: str = DEFAULT_CONVENTION,
    delta: float = DELTA,
    starts: int = STARTS,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    n_left_out: int = 0,
) -> Fit:
    """`fit_law` on runs that were chosen already."""
    if not len(runs):
        raise InputError("runs table", "0 finished fit cells", "there is nothing to fit", "Finish some fit cells.")
    if not delta > 0:
        raise InputError("delta", delta, "must be above 0", "1e-3 is usual.")
    if starts < 1:
        raise InputError("starts", starts, "must be at least 1", "32 are usual.")
    observed = runs["val_loss"].to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(observed) & (observed > 0))
    if bad.any():
        raise InputError(
            f"val_loss of cell {runs['cell'].to_numpy()[bad][0]}",
            observed[bad][0],
            "a finished cell's loss must be finite and above 0",
            "Evaluate the cell again, or give it the status diverged.",
        )
    problem = _Problem(get_form(form), design_of(runs, params), np.log(observed), dict(fixed or {}))
    optima = [problem.minimise(start, delta) for start in problem.starts(starts, seed)]
    objectives = np.array([objective for objective, _ in optima])
    objective, x = optima[int(np.argmin(objectives))]

    residuals = problem.residuals(x)
    condition, status, reasons, at_bound = problem.judge(x, residuals)
    theta = {name: float(value) for name, value in problem.theta(x).items()}
    return Fit(
        form=form,
        parameters=theta,
        params=params,
        delta=delta,
        objective=float(objective),
        rmse=float(np.sqrt(np.mean((np.exp(residuals + problem.log_loss) - observed) ** 2))),
        aicc=huber_aicc(float(objective), len(runs), len(problem.free), delta),
        n_runs=len(runs),
        n_left_out=n_left_out,
        starts=starts,
        share_at_best=float(np.mean(objectives <= objective * 1.001 + 1e-12)),
        condition=condition,
        at_bound=at_bound,
        status=status,
        reasons=reasons,
    )


def huber_aicc(objective: float, n: int, k: int, delta: float) -> float:
    """AICc of a Huber fit, under the likelihood that the fit maximises.

    Log residuals r are taken to have density exp(−H_δ(r) / τ) / Z(τ), Gaussian where τ^½ ≪ δ and Laplace where it is
    ≫ δ, with Z in closed form. The scale τ is estimated by maximum likelihood and counts as one more parameter.
    At equal k the order by AICc is thus the order by objective, which a Gaussian scale would not ensure.
    """
    if n - k - 2 <= 0:
        return math.inf

    def deviance(log_tau: float) -> float:  # −2 ln likelihood
        tau = math.exp(log_tau)
        gaussian = math.sqrt(2 * math.pi * tau) * float(erf(delta / math.sqrt(2 * tau)))
        tails = 2 * tau / delta * math.exp(-(delta**2) / (2 * tau))
        return 2 * n * math.log(gaussian + tails) + 2 * objective / tau

    # Between its two limits τ is 2 H / n (Gaussian) and H / n (Laplace); the bracket is generous around both.
    centre = math.log(max(objective / n, 1e-30))
    best = minimize_scalar(deviance, bounds=(centre - 5, centre + 5), method="bounded", options={"xatol": 1e-10})
    return float(best.fun) + 2 * (k + 1) + 2 * (k + 1) * (k + 2) / (n - k - 2)


def huber(residuals: Floats, delta: float) -> float:
    """Σ Huber_δ: r² / 2 up to δ, δ (|r| − δ / 2) beyond."""
    size = np.abs(residuals)
    return float(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum())


def _majorised_huber(z: Floats) -> Floats:
    """Huber's loss of z = (r/δ)² with its first derivative, and 0 for its second.

    The second is negative beyond δ and cancels the curvature of every run out there, at the usual δ nearly all runs:
    SciPy's own "huber" then steps almost blindly. Without it each step minimises a quadratic that lies above the loss
    and touches it, so that it descends; objective and gradient, and so the optimum, are the same.
    """
    out = np.zeros((3, z.size))
    inside = z <= 1
    root = np.sqrt(np.where(inside, 1.0, z))
    out[0] = np.where(inside, z, 2 * root - 1)
    out[1] = 1 / root
    return out


class _Problem:
    """The least-squares problem of one form on one design, over the free parameters in search coordinates x."""

    STEP = 1e-30

    def __init__(self, form: Form, design: Design, log_loss: Floats, fixed: dict[str, float]) -> None:
        unknown = set(fixed) - set(form.names)
        if unknown:
            raise InputError("fixed", sorted(unknown), f"no parameter of {form.name}", f"Use {', '.join(form.names)}.")
        self.form, self.design, self.log_loss, self.fixed = form, design, log_loss, fixed
        self.free = [parameter for parameter in form.parameters if parameter.name not in fixed]
        if not self.free:
            raise InputError("fixed", sorted(fixed), "leaves nothing to fit", "Leave some parameter free.")
        #: ln of the geometric mean of the design's columns, where anchored parameters are stated
        self.centre = {name: float(np.log(getattr(design, name)).mean()) for name in ("N", "D")}
        self.low = np.array([_to_search(parameter, parameter.low) for parameter in self.free])
        self.high = np.array([_to_search(parameter, parameter.high) for parameter in self.free])

    def theta(self, x: Values) -> dict[str, Any]:
        """Public parameters at search coordinates x, whose first axis is the free parameters."""
        values: dict[str, Any] = dict(self.fixed)
        for parameter, coordinate in zip(self.free, x, strict=True):
            values[parameter.name] = np.exp(coordinate) if parameter.log else coordinate
        for parameter in self.free:
            if parameter.anchor is not None:
                column, exponent = parameter.anchor
                values[parameter.name] = values[parameter.name] * np.exp(values[exponent] * self.centre[column])
        return {name: values[name] for name in self.form.names}

    def residuals(self, x: Floats) -> Floats:
        """ln predicted − ln observed, (n,)."""
        return np.asarray(np.log(self.form.loss(self.theta(x), self.design)) - self.log_loss, dtype=np.float64)

    def jacobian(self, x: Floats) -> Floats:
        """d residuals / dx, (n, p): row i of the perturbed points moves coordinate i alone, by an imaginary step."""
        points = x[:, None] + 1j * self.STEP * np.eye(x.size)
        theta = self.theta(points[:, :, None])
        log_loss = np.log(self.form.loss(theta, self.design))
        return np.asarray(np.imag(log_loss).T / self.STEP, dtype=np.float64)

    def starts(self, n: int, seed: int) -> Floats:
        """Start points, (n, p)."""
        low = np.array([_to_search(parameter, parameter.starts[0]) for parameter in self.free])
        high = np.array([_to_search(parameter, parameter.starts[1]) for parameter in self.free])
        sobol = qmc.Sobol(len(self.free), scramble=True, seed=np.random.default_rng(seed))
        drawn: Floats = sobol.random_base2(math.ceil(math.log2(n)))[:n]
        return np.asarray(low + drawn * (high - low), dtype=np.float64)

    def minimise(self, start: Floats, delta: float) -> tuple[float, Floats]:
        """The optimum from one start: objective and search coordinates."""

        def scaled_residuals(x: Floats) -> Floats:
            return self.residuals(x) / delta

        def scaled_jacobian(x: Floats) -> Floats:
            return self.jacobian(x) / delta

        found = least_squares(
            scaled_residuals,
            start,
            jac=scaled_jacobian,
            bounds=(self.low, self.high),
            loss=_majorised_huber,  # type: ignore[arg-type]  # the stubs describe SciPy's inner loss, not this one
            x_scale="jac",
            ftol=1e-9,
            xtol=1e-10,
            gtol=1e-10,
            max_nfev=300,
        )
        return huber(self.residuals(found.x), delta), found.x

    def judge(self, x: Floats, residuals: Floats) -> tuple[float, Status, tuple[str, ...], tuple[str, ...]]:
        """Condition number, status, its reasons, and the parameters at a bound, at the optimum x."""
        names = np.array([parameter.name for parameter in self.free])
        n, k = residuals.size, x.size
        margin = 1e-3 * (self.high - self.low)
        at_bound = tuple(str(name) for name in names[(x < self.low + margin) | (x > self.high - margin)])
        unknown: list[str] = []

        if n <= k:
            unknown.append(f"{n} runs cannot determine {k} parameters")
        for column, least in self.form.needs.items():
            levels = len(np.unique(getattr(self.design, column)))
            if levels < least and not self.fixed:
                unknown.append(f"{self.form.name} needs {least} distinct values of {column}, the runs have {levels}")
        jacobian = self.jacobian(x)
        norms = np.linalg.norm(jacobian, axis=0)
        # A change of e (or of 1) in a parameter that moves no run by 1e-9 in all is no effect.
        idle = norms < 1e-9
        if idle.any():
            unknown.append(f"no run depends on {', '.join(names[idle])}")
        scaled = jacobian[:, ~idle] / norms[~idle]
        _, singular, rows = np.linalg.svd(scaled, full_matrices=True)
        smallest = singular[-1] if singular.size == scaled.shape[1] else 0.0
        condition = float(singular[0] / smallest) if smallest > 0 and not idle.any() else math.inf
        if smallest < singular[0] / CONDITION_LIMIT:
            mixed = names[~idle][np.abs(rows[-1]) > 0.2]
            unknown.append(f"the runs cannot tell {', '.join(mixed)} apart")

        weak: list[str] = []
        if not unknown:
            variance = float(residuals @ residuals) / (n - k)
            inverse = (rows.T / singular**2) @ rows
            errors = np.sqrt(variance * np.diag(inverse)) / norms
            weak = [f"{name} is weakly determined" for name in names[errors > WEAK] if name not in at_bound]
        bounds = [f"{name} ended at the bound of its range" for name in at_bound]
        status: Status = (
            "not identifiable" if unknown else "at bound" if bounds else "weakly determined" if weak else "ok"
        )
        return condition, status, tuple(unknown + bounds + weak), at_bound


def _to_search(parameter: Parameter, value: float) -> float:
    return math.log(value) if parameter.log else value

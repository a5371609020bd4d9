"""The least-squares problem of one form on one design, in the coordinates that a fit searches.

Positive parameters are searched in logarithms and anchored ones as their whole term. Minimised by SciPy's trust-region
least squares on scaled residuals, because tolerances of an optimizer mean nothing on an objective of 1e-3. Jacobians
are exact: complex-step derivatives, Im f(x + ih) / h with h = 1e-30, have no truncation and no cancellation.
"""

import math
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Self

import numpy as np
from scipy.optimize import least_squares
from scipy.special import stdtrit

from sparsedc.errors import InputError, one_of
from sparsedc.law.design import Design, Floats
from sparsedc.law.forms import Form
from sparsedc.law.likelihood import Likelihood
from sparsedc.law.parameters import ANCHORS, Parameter, Values

STEP = 1e-30
#: scaled Jacobians beyond this condition number leave some combination of parameters undetermined
CONDITION_LIMIT = 1e7
#: half a 95 % interval beyond twice this (in ln θ, or in θ where θ may be negative) makes a parameter weakly determined
WEAK = 0.3

#: parameters that N and D settle; all others are density's and repetition's
OF_N_AND_D = {"E", "A", "alpha", "B", "beta", "a", "b", "eta", "q"}

#: A residual beside those of the runs, of the public parameters: 0 where a condition on them holds.
Pull = Callable[[dict[str, Any]], Any]


class Problem:
    """One form, the runs' design and losses, a likelihood, and parameters held at a value.

    Raises:
        InputError: `fixed` names no parameter of the form, gives one that is no number or outside its bounds, or
            leaves none free.
    """

    def __init__(
        self, form: Form, design: Design, observed: Floats, likelihood: Likelihood, fixed: Mapping[str, float]
    ) -> None:
        if unknown := sorted(set(fixed) - set(form.names)):
            raise InputError("fixed", unknown, f"no parameter of {form.name}", one_of(unknown[0], form.names))
        for parameter in form.parameters:
            value = fixed.get(parameter.name, 1.0)
            if not math.isfinite(value) or (parameter.log and value <= 0):
                allowed = "a number above 0" if parameter.log else "a number"
                raise InputError(f"fixed {parameter.name}", value, f"must be {allowed}", "Correct it.")
        self.form, self.design, self.likelihood, self.fixed = form, design, likelihood, dict(fixed)
        self.target = np.log(observed) if likelihood.residuals == "log" else observed
        self.free = [parameter for parameter in form.parameters if parameter.name not in fixed]
        if not self.free:
            raise InputError("fixed", sorted(fixed), "leaves nothing to fit", "Leave some parameter free.")
        #: mean logarithms of the runs, where anchored parameters are stated
        self.centre = {
            parameter.anchor[0]: float(ANCHORS[parameter.anchor[0]](design).mean())
            for parameter in self.free
            if parameter.anchor is not None
        }
        self.low = np.array([_to_search(parameter, parameter.low) for parameter in self.free])
        self.high = np.array([_to_search(parameter, parameter.high) for parameter in self.free])

    def subset(self, rows: Any) -> Self:
        """The same problem on some of the runs, in the same coordinates."""
        part = copy(self)
        part.design, part.target = self.design.take(rows), self.target[rows]
        return part

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

    def coordinates(self, theta: Mapping[str, float]) -> Floats:
        """The inverse of `theta`, moved inside the bounds, (p,)."""
        x = []
        for parameter in self.free:
            value = float(theta[parameter.name])
            if parameter.anchor is not None:
                column, exponent = parameter.anchor
                value *= math.exp(-float(theta[exponent]) * self.centre[column])
            x.append(_to_search(parameter, value))
        inside = 1e-9 * (self.high - self.low)
        return np.asarray(np.clip(x, self.low + inside, self.high - inside), dtype=np.float64)

    def starts(self, n: int, seed: int) -> Floats:
        """Start points from a seeded Sobol sequence over the parameters' ranges, (n, p)."""
        low = np.array([_to_search(parameter, parameter.starts[0]) for parameter in self.free])
        high = np.array([_to_search(parameter, parameter.starts[1]) for parameter in self.free])
        if not n:
            return np.empty((0, low.size))
        from scipy.stats import qmc  # here, because predicting with a law need not wait for scipy.stats

        sobol = qmc.Sobol(len(self.free), scramble=True, seed=np.random.default_rng(seed))
        drawn: Floats = sobol.random_base2(math.ceil(math.log2(n)))[:n]
        return np.asarray(low + drawn * (high - low), dtype=np.float64)

    def _measured(self, loss: Values) -> Values:
        return np.log(loss) if self.likelihood.residuals == "log" else loss

    def residuals(self, x: Floats) -> Floats:
        """Predicted − observed, of ln loss or of loss, (n,)."""
        return np.asarray(self._measured(self.form.loss(self.theta(x), self.design)) - self.target, dtype=np.float64)

    def jacobian(self, x: Floats) -> Floats:
        """d residuals / dx, (n, p): row i of the perturbed points moves coordinate i alone, by an imaginary step."""
        theta = self.theta((x[:, None] + 1j * STEP * np.eye(x.size))[:, :, None])
        return np.asarray(np.imag(self._measured(self.form.loss(theta, self.design))).T / STEP, dtype=np.float64)

    def minimise(
        self,
        start: Floats,
        weights: Floats | None = None,
        pull: Pull | None = None,
        *,
        steps: int = 300,
        tolerance: float = 1e-10,
    ) -> tuple[float, Floats]:
        """The optimum from one start: objective and search coordinates.

        Args:
            weights: how often each run counts, (n,); one each if None.
            pull: a condition to keep; its square / 2 is added to what is minimised, but not to the objective.
            steps, tolerance: where to stop: at so many evaluations, or once objective, coordinates and gradient stand
                still to that precision.
        """
        counted = np.ones(len(self.design)) if weights is None else weights
        likelihood = self.likelihood.tuned(self.residuals(start), weights)
        x = start
        for _ in range(20):  # where the likelihood has no scale to tune, the first turn is the last
            x = self._descend(x, counted, pull, likelihood, steps, tolerance)
            tuned = self.likelihood.tuned(self.residuals(x), weights)
            settled = math.isclose(tuned.scale, likelihood.scale, rel_tol=1e-7)
            likelihood = tuned
            if settled:
                break
        return likelihood.objective(self.residuals(x), weights), x

    def _descend(
        self, start: Floats, weights: Floats, pull: Pull | None, likelihood: Likelihood, steps: int, tolerance: float
    ) -> Floats:
        scale = likelihood.scale

        def residuals(x: Floats) -> Floats:
            r = self.residuals(x) / scale
            return r if pull is None else np.append(r, float(pull(self.theta(x))))

        def jacobian(x: Floats) -> Floats:
            rows = self.jacobian(x) / scale
            if pull is None:
                return rows
            theta = self.theta(x[:, None] + 1j * STEP * np.eye(x.size))
            last = np.broadcast_to(np.imag(pull(theta)) / STEP, x.size)
            return np.vstack([rows, last])

        def rho(z: Floats) -> Floats:
            if pull is None:
                return likelihood.rho(z) * weights
            runs = likelihood.rho(z[:-1]) * weights
            return np.hstack([runs, [[z[-1]], [1.0], [0.0]]])

        found = least_squares(
            residuals,
            start,
            jac=jacobian,
            bounds=(self.low, self.high),
            loss=rho,  # type: ignore[arg-type]  # the stubs describe SciPy's inner loss, not this one
            x_scale="jac",
            ftol=10 * tolerance,
            xtol=tolerance,
            gtol=tolerance,
            max_nfev=steps,
        )
        return np.asarray(found.x, dtype=np.float64)

    def at_bound(self, x: Floats) -> tuple[str, ...]:
        """Names of the parameters at the edge of their range."""
        margin = 1e-3 * (self.high - self.low)
        outside = (x < self.low + margin) | (x > self.high - margin)
        return tuple(parameter.name for parameter, out in zip(self.free, outside, strict=True) if out)

    def identification(self, x: Floats, residuals: Floats) -> tuple[float, list[str], list[str]]:
        """Condition number at the optimum x, what the runs cannot determine, and names of the weakly determined."""
        names = np.array([parameter.name for parameter in self.free])
        n, k = residuals.size, x.size
        unknown: list[str] = []
        configurations = self.design.levels("configuration")
        if n <= k:
            unknown.append(f"{n} runs cannot determine {k} parameters")
        elif configurations <= k:
            unknown.append(f"{configurations} configurations cannot determine {k} parameters")
        for column, least in self.form.needs.items():
            levels = self.design.levels(column)
            of_column = set(self.form.names) - OF_N_AND_D if column == "s" else OF_N_AND_D
            if levels < least and not of_column & set(self.fixed):
                unknown.append(f"{self.form.name} needs {least} distinct values of {column}, the runs have {levels}")
        jacobian = self.jacobian(x)
        norms = np.linalg.norm(jacobian, axis=0)
        # A change of e (or of 1) in a parameter that moves no run by 1e-9 in all is no effect.
        idle = norms < 1e-9
        if idle.any():
            unknown.append(f"no run depends on {', '.join(names[idle])}")
        scaled = jacobian[:, ~idle] / norms[~idle]
        _, singular, rows = np.linalg.svd(scaled, full_matrices=n < k)
        smallest = singular[-1] if singular.size == scaled.shape[1] and singular.size else 0.0
        condition = float(singular[0] / smallest) if smallest > 0 and not idle.any() else math.inf
        if singular.size and smallest < singular[0] / CONDITION_LIMIT:
            mixed = names[~idle][np.abs(rows[-1]) > 0.2]
            unknown.append(f"the runs cannot tell {', '.join(mixed)} apart")
        weak: list[str] = []
        if not unknown:
            variance = float(residuals @ residuals) / (n - k)
            inverse = (rows.T / singular**2) @ rows
            errors = np.sqrt(variance * np.diag(inverse)) / norms
            at_bound = self.at_bound(x)
            wide = errors * float(stdtrit(n - k, 0.975)) > 2 * WEAK
            weak = [str(name) for name in names[wide] if name not in at_bound]
        return condition, unknown, weak


def _to_search(parameter: Parameter, value: float) -> float:
    return math.log(value) if parameter.log else value

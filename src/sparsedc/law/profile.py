"""Profile likelihoods: how far one quantity of a law may move before the runs fit it significantly worse.

For each value of the quantity the law is fitted anew with the quantity held there. The deviance of those fits over
that of the best one, divided by the likelihood's inflation, is compared with χ² of one degree of freedom. Where it
never rises above the threshold, the runs do not bound the quantity on that side, and the profile says so: its end is
open.

A quantity need not be a parameter. It is held by one more residual in the least-squares problem, which is 0 where the
quantity has the wanted value. Whatever value is reached, that fit is the best one at that value, so that the profile is
exact even where the residual does not get to 0.
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import stdtrit

from sparsedc.errors import InputError
from sparsedc.law.design import Design
from sparsedc.law.fit import Fit
from sparsedc.law.fitting import design_of, likelihood_of, observed_losses
from sparsedc.law.forms import DataConstrained, Form, get_form
from sparsedc.law.parameters import Theta
from sparsedc.law.problem import Problem

#: How hard a quantity is held: the weight of the residual, so large that no fit trades 1e-4 of it for likelihood.
STIFFNESS = 1e4
#: The densities among which the loss-optimal one is sought.
DENSITIES = np.geomspace(1 / 64, 1.0, 121)


@dataclass(frozen=True)
class Profile:
    """The excess deviance of the best fit at each value of a quantity, over its inflation."""

    quantity: str
    best: float  # its value in the fit
    values: tuple[float, ...]  # ascending
    deviances: tuple[float, ...]
    level: float
    low: float | None  # where the deviance passes the threshold; None: open, the runs do not bound it
    high: float | None

    @property
    def identified(self) -> bool:
        """Whether the runs bound the quantity on both sides."""
        return self.low is not None and self.high is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Quantity:
    """A number that a law implies: its value at θ, how it is held, and where it is scanned, maybe in logarithms."""

    value: Callable[[Theta], Any]
    low: float
    high: float
    log: bool
    #: 0 where the quantity is at a value; by default their difference
    gap: Callable[[Theta, float], Any] | None = None

    def hold(self, theta: Theta, value: float) -> Any:
        """The residual that is 0 where the quantity has that value."""
        if self.gap is not None:
            return STIFFNESS * self.gap(theta, value)
        if self.log:
            return STIFFNESS * (np.log(self.value(theta)) - math.log(value))
        return STIFFNESS * (self.value(theta) - value)


def profile(runs: pd.DataFrame, fit: Fit, quantity: str, *, level: float = 0.95, points: int = 12) -> Profile:
    """The profile likelihood of a quantity of a fitted law.

    Args:
        runs: those that were fitted, after `sparsedc.law.fitting.finished`.
        quantity: a parameter of the form; "R_D_star(s=0.5)" or "R_N_star(s=0.5)" at any density; "beta-alpha";
            "optimal_density", the density of lowest loss at unlimited N and D over given unique tokens.
        points: fits on each side of the optimum at most, ever farther from it, to the end of the range.

    Raises:
        InputError: no such quantity of this form, a fit that the runs do not identify, published constants, or other
            runs than those of the fit.
    """
    if fit.objective is None or len(runs) != fit.n_runs:
        raise InputError("runs table", len(runs), f"not the {fit.n_runs} runs of the fit", "Give the fitted runs.")
    if fit.status == "not identifiable":
        raise InputError("quantity", quantity, f"the fit is {fit.status}: {'; '.join(fit.reasons)}", "Add runs first.")
    form = get_form(fit.form)
    design = design_of(runs, fit.params)
    likelihood = likelihood_of(fit)
    problem = Problem(form, design, observed_losses(runs), likelihood, fit.fixed)
    if quantity in fit.fixed:
        raise InputError("quantity", quantity, "was held at a value", "Profile a parameter that was fitted.")
    target = _quantity(fit, quantity, float(np.exp(np.log(design.U).mean())))
    n, k = fit.n_runs, len(problem.free)
    threshold = float(stdtrit(n - k, (1 + level) / 2)) ** 2  # χ² of one degree of freedom, for few runs F
    inflation = likelihood.inflation(problem.residuals(problem.coordinates(fit.parameters)), k)
    base = likelihood.deviance(fit.objective, n)
    optima = [fit.parameters, *(rival["parameters"] for rival in fit.rivals)]
    best = float(np.real(target.value(fit.parameters)))
    found: dict[float, float] = {best: 0.0}

    def scan(optimum: Theta, end: float) -> float | None:
        """Walk from an optimum to `end`; where the deviance passes the threshold, if it does."""
        starts = [problem.coordinates(optimum), *(problem.coordinates(other) for other in optima if other != optimum)]

        def excess(at: float) -> float:
            value = math.exp(at) if target.log else at
            pull = partial(target.hold, value=value)
            fits = [problem.minimise(start, pull=pull) for start in starts]
            objective, x = min(fits, key=lambda each: each[0])
            starts[0] = x  # each fit starts from the last
            reached = value if target.gap is not None else float(np.real(target.value(problem.theta(x))))
            found[reached] = (likelihood.deviance(objective, n) - base) / inflation
            return found[reached] - threshold

        value = float(np.real(target.value(optimum)))
        here = math.log(value) if target.log else value
        there = math.log(end) if target.log else end
        inside = here
        # Ever wider steps: an interval may be a thousandth of the range.
        for at in here + (there - here) * np.geomspace(1e-3, 1.0, points):
            if excess(at) > 0:
                if inside == here and excess(here) > 0:  # an optimum that is itself outside
                    return best
                edge = float(brentq(excess, inside, at, xtol=1e-3 * abs(at - here)))
                return math.exp(edge) if target.log else edge
            inside = at
        return None

    # From the optimum and from its rivals: between two basins the deviance may pass the threshold and come back.
    lows, highs = ([scan(optimum, end) for optimum in optima] for end in (target.low, target.high))
    low = None if any(each is None for each in lows) else min(each for each in lows if each is not None)
    high = None if any(each is None for each in highs) else max(each for each in highs if each is not None)
    values = sorted(found)
    return Profile(quantity, best, tuple(values), tuple(found[value] for value in values), level, low, high)


def _quantity(fit: Fit, name: str, U: float) -> _Quantity:
    """What a quantity's name means for the form of this fit."""
    form = get_form(fit.form)
    for parameter in form.parameters:
        if parameter.name == name:
            best = fit.parameters[name]
            # The factor of a power term has no range of its own; e^±8 of it is far beyond any that runs allow.
            low, high = (parameter.low, parameter.high) if parameter.anchor is None else (best / 3e3, best * 3e3)
            return _Quantity(lambda theta: theta[name], low, high, parameter.log)
    if name == "beta-alpha" and "beta" in form.names:
        return _Quantity(lambda theta: theta["beta"] - theta["alpha"], -1.5, 1.5, log=False)
    if isinstance(form, DataConstrained):
        at_density = re.fullmatch(r"(R_[ND]_star)\(s=([0-9.eE-]+)\)", name)
        if at_density:
            s = Design.of(1.0, 1.0, 1.0, float(at_density[2])).s
            which = ("R_N_star", "R_D_star").index(at_density[1])
            return _Quantity(lambda theta: np.squeeze(form.stars(theta, s)[which] + 0 * s), 0.01, 1e6, log=True)
        if name == "optimal_density" and "s" in form.needs and form.needs["s"] > 1 and not form.penalty:
            return _optimal_density(form, U)
    known = "a parameter" + (", beta-alpha" if "beta" in form.names else "")
    if isinstance(form, DataConstrained):
        known += ", R_D_star(s=0.5), R_N_star(s=0.5), optimal_density"
    raise InputError(
        "quantity", name, f"is none that form {fit.form} implies", f"Use {known}: {', '.join(form.names)}."
    )


def _optimal_density(form: Form, U: float) -> _Quantity:
    """The density of lowest loss over U unique tokens where N and D cost nothing.

    It is held by its regret, the loss at that density less the lowest one, rather than by its value: an optimum at the
    edge of the densities has no slope there to follow, its regret has one.
    """
    unlimited = Design.of(U * 1e12, U, U * 1e9, DENSITIES)

    def lowest(theta: Theta) -> float:
        loss = np.real(form.loss(theta, unlimited))
        return float(DENSITIES[int(loss.argmin())])

    def regret(theta: Theta, density: float) -> Any:
        columns = {key: np.asarray(value)[..., None] for key, value in theta.items()}
        losses = form.loss(columns, unlimited)
        here = form.loss(columns, Design.of(U * 1e12, U, U * 1e9, density))
        best = np.take_along_axis(losses, np.real(losses).argmin(axis=-1)[..., None], axis=-1)
        return np.squeeze(here - best, axis=-1)

    return _Quantity(lowest, float(DENSITIES[0]), 1.0, log=True, gap=regret)

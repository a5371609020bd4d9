"""R_N*(s) and R_D*(s): how long excess parameters and repeated tokens keep their worth, and what they are worth.

Each pair is its parameters and one formula, in operations that NumPy extends to complex numbers (`sparsedc.law.forms`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sparsedc.law.design import Floats
from sparsedc.law.parameters import Parameter, Theta, Values
from sparsedc.law.positive import positive

#: below this R*(s) / R*(1) bends away from 0
STRETCH_FLOOR = 0.02

_EXCESS = "excess parameters, in multiples of U_N, that are worth having"
_REPEATS = "repeats of the data that are worth having"


def saturating(R: Values, R_star: Values) -> Values:
    """What R repeats are worth in fresh ones: R* (1 − exp(−R / R*)), which is R for small R and at most R*."""
    return -R_star * np.expm1(-R / R_star)


@dataclass(frozen=True)
class Stars:
    """R_N*(s) and R_D*(s): how long excess parameters and repeats keep their worth; these do not depend on s."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("R_N_star", _EXCESS, 0.01, 1e6, (1.0, 30.0)),
        Parameter("R_D_star", _REPEATS, 0.01, 1e6, (1.0, 30.0)),
    )
    formula: ClassVar[str] = ""
    densities: ClassVar[int] = 1

    def __call__(self, theta: Theta, s: Floats) -> tuple[Values, Values]:
        return theta["R_N_star"], theta["R_D_star"]


class Unlimited(Stars):
    """Every repeat and every parameter counts in full; what repetition costs is then the penalty's to say."""

    parameters = ()
    formula = "R_N* = R_D* = ∞"

    def __call__(self, theta: Theta, s: Floats) -> tuple[Values, Values]:
        return np.full_like(s, np.inf), np.full_like(s, np.inf)


class StepStars(Stars):
    """One pair for dense models and one for sparse ones."""

    parameters = (
        *Stars.parameters,
        Parameter("R_N_star_sparse", f"{_EXCESS}, where s < 1", 0.01, 1e6, (1.0, 30.0)),
        Parameter("R_D_star_sparse", f"{_REPEATS}, where s < 1", 0.01, 1e6, (1.0, 30.0)),
    )
    formula = "R_N* and R_D* of their own at s = 1 and at s < 1"
    densities = 2

    def __call__(self, theta: Theta, s: Floats) -> tuple[Values, Values]:
        def star(dense: Any, sparse: Any) -> Values:
            return np.asarray(np.where(s < 1, sparse, dense))

        return (
            star(theta["R_N_star"], theta["R_N_star_sparse"]),
            star(theta["R_D_star"], theta["R_D_star_sparse"]),
        )


class QuadraticStars(Stars):
    """Those of "When Data Is Scarce", quadratic in sparsity."""

    parameters = (
        Parameter("gamma1", "R_N* of the dense model", 0.01, 1e6, (1.0, 30.0)),
        Parameter("gamma2", "R_D* of the dense model", 0.01, 1e6, (1.0, 30.0)),
        Parameter("c11", "R_N*, linear in 1 − s", -20.0, 20.0, (-3.0, 3.0), log=False),
        Parameter("c21", "R_N*, minus quadratic in 1 − s", -20.0, 20.0, (-3.0, 3.0), log=False),
        Parameter("c12", "R_D*, linear in 1 − s", -20.0, 20.0, (-3.0, 3.0), log=False),
        Parameter("c22", "R_D*, minus quadratic in 1 − s", -20.0, 20.0, (-3.0, 3.0), log=False),
    )
    formula = "R_N*(s) = γ1 (1 + c11 (1 − s) − c21 (1 − s)²),  R_D*(s) = γ2 (1 + c12 (1 − s) − c22 (1 − s)²)"
    densities = 3

    def __call__(self, theta: Theta, s: Floats) -> tuple[Values, Values]:
        def star(scale: Any, linear: Any, quadratic: Any) -> Values:
            stretch = 1 + linear * (1 - s) - quadratic * (1 - s) ** 2
            return np.asarray(scale * positive(stretch, STRETCH_FLOOR))

        return (
            star(theta["gamma1"], theta["c11"], theta["c21"]),
            star(theta["gamma2"], theta["c12"], theta["c22"]),
        )

"""Density factors f(s): what of the model-size term a sparse model has, in multiples of the dense one's.

Each is its parameters and one formula, in operations that NumPy extends to complex numbers (`sparsedc.law.forms`).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparsedc.law.design import Floats
from sparsedc.law.parameters import Parameter, Theta, Values
from sparsedc.law.positive import positive

#: below this a density factor bends away from 0
FACTOR_FLOOR = 0.05


@dataclass(frozen=True)
class Factor:
    """The density factor f(s) of the model-size term; this one is 1. f(1) = 1 always, since A scales the dense term."""

    parameters: ClassVar[tuple[Parameter, ...]] = ()
    formula: ClassVar[str] = "1"
    densities: ClassVar[int] = 1  # distinct ones that the parameters need, the dense one among them

    def __call__(self, theta: Theta, s: Floats) -> Values:
        return np.ones_like(s)


class PowerFactor(Factor):
    """A power of density."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("epsilon", "power of s in the density factor", -3.0, 3.0, (-0.5, 0.5), log=False),
    )
    formula = "s^ε"
    densities = 2

    def __call__(self, theta: Theta, s: Floats) -> Values:
        return np.asarray(np.exp(theta["epsilon"] * np.log(s)))


class FrantarFactor(Factor):
    """Frantar et al.'s a (1 − S)^b + c with S the sparsity, divided by its dense value a + c."""

    parameters = (
        Parameter("a_S", "share of the model-size term that depends on density", -5.0, 5.0, (-0.5, 0.5), log=False),
        Parameter("b_S", "power of s in the density factor", 0.02, 20.0, (0.3, 3.0)),
    )
    formula = "1 + a_S (s^b_S − 1)"
    densities = 3

    def __call__(self, theta: Theta, s: Floats) -> Values:
        return positive(1 + theta["a_S"] * np.expm1(theta["b_S"] * np.log(s)), FACTOR_FLOOR)


class PaperFactor(PowerFactor):
    """That of "When Data Is Scarce"."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        *PowerFactor.parameters,
        Parameter("mu", "power of 1 − s in the density factor", 0.02, 20.0, (0.3, 3.0)),
        Parameter("c", "weight of (1 − s)^mu in the density factor", -2.0, 10.0, (-0.5, 0.5), log=False),
    )
    formula = "s^ε + c (1 − s)^μ"
    # Through three values of f beside f(1) go two curves, one with c below and one with c above 0, so that ε, μ and c
    # take four densities beside the dense one.
    densities = 5

    def __call__(self, theta: Theta, s: Floats) -> Values:
        missing = np.where(s < 1, 1 - s, 1.0)  # log 0 is not wanted at s = 1, where the second term is 0
        second = np.where(s < 1, theta["c"] * np.exp(theta["mu"] * np.log(missing)), 0.0)
        return positive(super().__call__(theta, s) + second, FACTOR_FLOOR)

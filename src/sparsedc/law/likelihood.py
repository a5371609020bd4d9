"""How residuals are weighed: the loss function of a fit, and the likelihood that it stands for.

Each likelihood has the objective that a fit minimises, in the form that SciPy's least squares takes it (a function ρ of
squared scaled residuals), and the deviance, −2 ln of the greatest likelihood over its scale, which makes forms
comparable (AICc) and says how far a parameter may move (profiles).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import erf, gammaln

from sparsedc.errors import InputError
from sparsedc.law.design import Floats

Residuals = Literal["log", "loss"]


@dataclass(frozen=True)
class Likelihood(ABC):
    """Base: residuals are of ln loss, or of the loss itself in nats."""

    residuals: Residuals = field(default="log", kw_only=True)
    name: ClassVar[str]

    @property
    @abstractmethod
    def scale(self) -> float:
        """What residuals are divided by before `rho` sees their squares."""

    @abstractmethod
    def rho(self, z: Floats) -> Floats:
        """ρ, ρ' and ρ'' of z = (r / scale)², (3, n)."""

    @abstractmethod
    def objective(self, residuals: Floats, weights: Floats | None = None) -> float:
        """The minimised sum, each residual counted `weights` times."""

    @abstractmethod
    def deviance(self, objective: float, n: int) -> float:
        """−2 ln likelihood of n residuals at its best scale, up to a constant of the likelihood and n."""

    def inflation(self, residuals: Floats, k: int) -> float:
        """How many times χ² the deviance of one of k parameters moves, from the optimum's residuals.

        1 where they follow this likelihood.
        """
        return 1.0

    def tuned(self, residuals: Floats, weights: Floats | None = None) -> Self:
        """This likelihood with its own scale estimated from the residuals, where it has one."""
        return self

    def aicc(self, objective: float, n: int, k: int) -> float:
        """AICc of k parameters and the scale; infinite where there are too few residuals for it."""
        if n - k - 2 <= 0:
            return math.inf
        return self.deviance(objective, n) + 2 * (k + 1) + 2 * (k + 1) * (k + 2) / (n - k - 2)


@dataclass(frozen=True)
class Huber(Likelihood):
    """Σ Huber_δ(r): r² / 2 up to δ, δ (|r| − δ / 2) beyond. On ln loss and with δ = 1e-3 the literature's usual one."""

    delta: float = 1e-3
    name: ClassVar = "huber"

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise InputError("delta", self.delta, "must be above 0", "1e-3 is usual.")

    @property
    def scale(self) -> float:
        return self.delta

    def rho(self, z: Floats) -> Floats:
        """Huber's loss with its first derivative, and 0 for its second.

        The second is negative beyond δ and cancels the curvature of every run out there, at the usual δ nearly all
        runs: SciPy's own "huber" then steps almost blindly. Without it each step minimises a quadratic that lies above
        the loss and touches it, so that it descends; objective and gradient, and so the optimum, are the same.
        """
        out = np.zeros((3, z.size))
        inside = z <= 1
        root = np.sqrt(np.where(inside, 1.0, z))
        out[0] = np.where(inside, z, 2 * root - 1)
        out[1] = 1 / root
        return out

    def objective(self, residuals: Floats, weights: Floats | None = None) -> float:
        size = np.abs(residuals)
        each = np.where(size <= self.delta, size**2 / 2, self.delta * (size - self.delta / 2))
        return float(each.sum() if weights is None else weights @ each)

    def deviance(self, objective: float, n: int) -> float:
        """Under the density exp(−H_δ(r) / τ) / Z(τ): Gaussian where τ^½ ≪ δ and Laplace where it is ≫ δ, with Z in
        closed form and τ at its maximum of likelihood. At equal k the order by AICc is thus the order by objective,
        which a Gaussian scale would not ensure.
        """
        return self._fitted_scale(objective, n)[0]

    def _fitted_scale(self, objective: float, n: int) -> tuple[float, float]:
        """The deviance, and the τ that it is at."""

        def at(log_tau: float) -> float:
            tau = math.exp(log_tau)
            gaussian = math.sqrt(2 * math.pi * tau) * float(erf(self.delta / math.sqrt(2 * tau)))
            tails = 2 * tau / self.delta * math.exp(-(self.delta**2) / (2 * tau))
            return 2 * n * math.log(gaussian + tails) + 2 * objective / tau

        # Between its two limits τ is 2 H / n (Gaussian) and H / n (Laplace); the bracket is generous around both.
        centre = math.log(max(objective / n, 1e-30))
        best = minimize_scalar(at, bounds=(centre - 5, centre + 5), options={"xatol": 1e-10})
        return float(best.fun), math.exp(best.x)

    def inflation(self, residuals: Floats, k: int) -> float:
        """E ψ² / (τ E ψ') with ψ the score and τ the fitted scale (Huber & Ronchetti 2009, Robust Statistics, ch. 13).

        Gaussian noise far beyond δ gives π / 2, and plain χ² would hold the truth in 88 % of 95 % intervals. A fit of k
        parameters passes through nearly k runs: those residuals say nothing of the noise and are left out.
        """
        size = np.sort(np.abs(residuals))
        _, tau = self._fitted_scale(self.objective(residuals), size.size)
        left = size[min(k, size.size - 1) :]
        # ψ' is 1 below δ and 0 beyond. Few residuals may be below δ: their share is taken from a wider window.
        window = max(self.delta, 0.6 * float(np.median(left)))
        slope = max(float(np.mean(left < window)), 1 / left.size) * self.delta / window
        score = float(np.mean(np.minimum(left, self.delta) ** 2))
        return max(score / (slope * tau) * size.size / max(size.size - k, 1), 1.0) if tau > 0 else 1.0


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Least squares, Σ r² / 2."""

    name: ClassVar = "gaussian"
    #: of no consequence for the optimum; it brings the objective near 1, where an optimizer's tolerances mean something
    scale: ClassVar[float] = 1e-2

    def rho(self, z: Floats) -> Floats:
        return np.stack([z, np.ones_like(z), np.zeros_like(z)])

    def objective(self, residuals: Floats, weights: Floats | None = None) -> float:
        return float((residuals**2).sum() if weights is None else weights @ residuals**2) / 2

    def deviance(self, objective: float, n: int) -> float:
        return n * math.log(max(2 * math.pi * 2 * objective / n, 1e-300)) + n


@dataclass(frozen=True)
class StudentT(Likelihood):
    """Student's t of ν degrees of freedom with a scale σ of its own: between Gaussian and Huber in what outliers do.

    The objective is −ln likelihood up to a constant; σ is estimated along with the law, in turns.
    """

    nu: float = 4.0
    sigma: float = 1e-2
    name: ClassVar = "student"

    @property
    def scale(self) -> float:
        return self.sigma

    def rho(self, z: Floats) -> Floats:
        """Majorised as Huber's is."""
        out = np.zeros((3, z.size))
        out[0] = (self.nu + 1) * np.log1p(z / self.nu)
        out[1] = (self.nu + 1) / (self.nu + z)
        return out

    def objective(self, residuals: Floats, weights: Floats | None = None) -> float:
        each = (self.nu + 1) / 2 * np.log1p((residuals / self.sigma) ** 2 / self.nu) + math.log(self.sigma)
        return float(each.sum() if weights is None else weights @ each)

    def tuned(self, residuals: Floats, weights: Floats | None = None) -> Self:
        spread = max(float(np.sqrt(np.mean(residuals**2))), 1e-9)
        bounds = (math.log(spread) - 9, math.log(spread) + 1)
        best = minimize_scalar(
            lambda log_sigma: replace(self, sigma=math.exp(log_sigma)).objective(residuals, weights), bounds=bounds
        )
        return replace(self, sigma=math.exp(best.x))

    def deviance(self, objective: float, n: int) -> float:
        constant = gammaln((self.nu + 1) / 2) - gammaln(self.nu / 2) - 0.5 * math.log(self.nu * math.pi)
        return 2 * objective - 2 * n * float(constant)


LIKELIHOODS: dict[str, type[Likelihood]] = {kind.name: kind for kind in (Huber, Gaussian, StudentT)}

"""Forms of the law: each says what held-out loss to expect of a run from its N, U, D and s.

    N  parameters, under the convention that the fit names (`sparsedc.law.counts`)
    U  unique training tokens
    D  training tokens seen, U × epochs
    s  density of the maskable weights

A form is a small class: its parameters with their bounds, and one formula. Formulas are written in logarithms, so
that no start of a fit overflows, and in operations that NumPy extends to complex numbers, so that the fit takes
exact derivatives of them (`sparsedc.law.fit`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sparsedc.errors import InputError

Floats = npt.NDArray[np.float64]
#: float64, or complex128 while a derivative is taken
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Design:
    """Where a law is evaluated: four float64 arrays of one shape, (n,)."""

    N: Floats
    U: Floats
    D: Floats
    s: Floats

    @classmethod
    def of(cls, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike) -> "Design":
        """Broadcast to one shape, and check.

        Raises:
            InputError: a count that is not positive and finite, or a density outside (0, 1].
        """
        given = (np.asarray(v, dtype=np.float64) for v in (N, U, D, s))
        design = cls(*np.broadcast_arrays(*np.atleast_1d(*given)))
        for name in ("N", "U", "D", "s"):
            values = getattr(design, name)
            bad = ~(np.isfinite(values) & (values > 0))
            if name == "s":
                bad |= values > 1
            if bad.any():
                allowed = "above 0 and at most 1" if name == "s" else "finite and above 0"
                raise InputError(name, values[bad][0], f"must be {allowed}", "Correct the run or the argument.")
        return design

    def __len__(self) -> int:
        return self.N.size


@dataclass(frozen=True)
class Parameter:
    """One parameter of a form: its name, what it means, and where a fit looks for it.

    `low` and `high` bound the search, `starts` is the range its starts are drawn from, `log` says that both are
    searched in logarithms. An anchored parameter is the factor of a power term, A / N^α, and A alone has no scale:
    with anchor ("N", "alpha") its bounds and starts are those of the whole term, in nats, at the geometric mean of
    the runs' N. This also takes away most of the correlation between A and α.
    """

    name: str
    meaning: str
    low: float
    high: float
    starts: tuple[float, float]
    log: bool = True
    anchor: tuple[str, str] | None = None


class Form(ABC):
    """A form of the law. Subclasses say only their parameters and their formula."""

    name: ClassVar[str]
    source: ClassVar[str]
    formula: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    #: how many distinct values of N, D and s the parameters need at the least
    needs: ClassVar[dict[str, int]]

    @abstractmethod
    def loss(self, theta: Mapping[str, Any], design: Design) -> Values:
        """Loss in nats per token at `design`; the values of `theta` broadcast against its arrays."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)


def positive(x: Values, floor: float) -> Values:
    """`x` itself where it is at least `floor`; below, an exponential that meets it with equal value and slope.

    Density factors and R* must stay above 0 for the law to exist. The exponential keeps the search smooth there and
    leaves sensible laws, the published one among them, untouched.
    """
    scaled = x / floor
    scaled = np.where(np.real(scaled) < 1, scaled, 1.0)  # both branches of `where` are computed: neither may overflow
    tail = floor * np.exp(np.where(np.real(scaled) > -50, scaled, -50.0) - 1)
    return np.where(np.real(x) >= floor, x, tail)


def saturating(R: Values, R_star: Values) -> Values:
    """What R repeats are worth in fresh ones: R* (1 − exp(−R / R*)), which is R for small R and at most R*."""
    return -R_star * np.expm1(-R / R_star)


E_ = Parameter("E", "loss that no model and no data can remove, nats", 1e-3, 20.0, (0.3, 4.0))
A_ = Parameter("A", "factor of the model-size term", 1e-5, 1e3, (0.1, 3.0), anchor=("N", "alpha"))
ALPHA = Parameter("alpha", "exponent of the model-size term", 0.01, 3.0, (0.1, 1.0))
B_ = Parameter("B", "factor of the data term", 1e-5, 1e3, (0.1, 3.0), anchor=("D", "beta"))
B_TIED = Parameter("B", "factor of the data term", 1e-5, 1e3, (0.1, 3.0), anchor=("D", "alpha"))


class Chinchilla(Form):
    """Model size and tokens alone: repeated tokens count as fresh ones, and sparsity acts through N only."""

    name = "chinchilla"
    source = "Hoffmann et al. 2022, Training Compute-Optimal Large Language Models (arXiv 2203.15556), approach 3"
    formula = "L = E + A / N^α + B / D^β"
    parameters = (
        E_,
        A_,
        B_,
        ALPHA,
        Parameter("beta", "exponent of the data term", 0.01, 3.0, (0.1, 1.0)),
    )
    needs: ClassVar = {"N": 3, "D": 3}

    def loss(self, theta: Mapping[str, Any], design: Design) -> Values:
        data = np.log(theta["B"]) - theta["beta"] * np.log(design.D)
        model = np.log(theta["A"]) - theta["alpha"] * np.log(design.N)
        return np.asarray(theta["E"] + np.exp(model) + np.exp(data))


class DataConstrained(Form):
    """Base of the laws in which repeats, and parameters beyond what U unique tokens can use, are worth less and less.

    U_N = min(N, N_opt(U)), where N_opt(U) is the compute-optimal N of a model whose compute-optimal D is U.
    Subclasses say how density enters: through a factor f(s) of the model-size term and through R_N*(s), R_D*(s).
    β is tied to α, as both sources fit it.
    """

    def factor(self, theta: Mapping[str, Any], s: Floats) -> Values:
        """f(s), the density factor of A."""
        return np.ones_like(s)

    @abstractmethod
    def stars(self, theta: Mapping[str, Any], s: Floats) -> tuple[Values, Values]:
        """R_N*(s) and R_D*(s)."""

    def loss(self, theta: Mapping[str, Any], design: Design) -> Values:
        alpha = theta["alpha"]
        # A run of less than one epoch has seen D unique tokens, not U.
        log_U = np.log(np.minimum(design.U, design.D))
        log_N = np.log(design.N)
        log_Af = np.log(theta["A"]) + np.log(self.factor(theta, design.s))
        log_B = np.log(theta["B"])
        R_N_star, R_D_star = self.stars(theta, design.s)

        log_N_opt = log_U + (log_Af - log_B) / alpha  # G² U, G = (A f / B)^(1 / 2α)
        log_excess = np.where(np.real(log_N_opt) < log_N, log_N - log_N_opt, 0.0)
        R_N = np.expm1(np.where(np.real(log_excess) < 50, log_excess, 50.0))  # e⁵⁰ saturates any R_N*, e⁷¹⁰ overflows
        R_D = np.expm1(np.log(design.D) - log_U)
        log_N_eff = log_N - log_excess + np.log1p(saturating(R_N, R_N_star))
        log_D_eff = log_U + np.log1p(saturating(R_D, R_D_star))
        return np.asarray(theta["E"] + np.exp(log_Af - alpha * log_N_eff) + np.exp(log_B - alpha * log_D_eff))


class Muennighoff(DataConstrained):
    """Repeats and excess parameters decay exponentially in value; sparsity acts through N only."""

    name = "muennighoff"
    source = "Muennighoff et al. 2023, Scaling Data-Constrained Language Models (arXiv 2305.16264)"
    formula = "L = E + A / N_eff^α + B / D_eff^α,  N_eff = U_N (1 + R_N* (1 − e^(−R_N / R_N*))),  D_eff likewise of U"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        E_,
        A_,
        B_TIED,
        ALPHA,
        Parameter("R_N_star", "excess parameters, in multiples of U_N, that are worth having", 0.01, 1e4, (1.0, 30.0)),
        Parameter("R_D_star", "repeats of the data that are worth having", 0.01, 1e4, (1.0, 30.0)),
    )
    needs: ClassVar = {"N": 2, "D": 3}

    def stars(self, theta: Mapping[str, Any], s: Floats) -> tuple[Values, Values]:
        return theta["R_N_star"], theta["R_D_star"]


class Power(Muennighoff):
    """The smallest law that knows density: a power of it scales the model-size term, and R* stay as they are."""

    name = "power"
    source = "the power-law density factor among those compared here, on Muennighoff et al. 2023"
    formula = "Muennighoff's, with A f(s) for A,  f(s) = s^ε"
    parameters = (
        *Muennighoff.parameters,
        Parameter("epsilon", "power of s in the density factor", -3.0, 3.0, (-0.5, 0.5), log=False),
    )
    needs: ClassVar = {"N": 2, "D": 3, "s": 2}

    def factor(self, theta: Mapping[str, Any], s: Floats) -> Values:
        return np.asarray(np.exp(theta["epsilon"] * np.log(s)))


class Sparse(DataConstrained):
    """Density scales the model-size term and bends how long repeats and excess parameters keep their worth."""

    name = "sparse"
    source = "When Data Is Scarce (ICML 2026, arXiv 2606.01155)"
    formula = (
        "Muennighoff's, with A f(s) for A,  f(s) = s^ε + c (1 − s)^μ,"
        "  R_N*(s) = γ1 (1 + c11 (1 − s) − c21 (1 − s)²),  R_D*(s) = γ2 (1 + c12 (1 − s) − c22 (1 − s)²)"
    )
    parameters = (
        E_,
        A_,
        B_TIED,
        ALPHA,
        Parameter("epsilon", "power of s in the density factor", -3.0, 3.0, (-0.5, 0.5), log=False),
        Parameter("mu", "power of 1 − s in the density factor", 0.02, 20.0, (0.3, 3.0)),
        Parameter("c", "weight of (1 − s)^mu in the density factor", -2.0, 10.0, (-0.5, 0.5), log=False),
        Parameter("gamma1", "R_N* of the dense model", 0.01, 1e4, (1.0, 30.0)),
        Parameter("gamma2", "R_D* of the dense model", 0.01, 1e4, (1.0, 30.0)),
        Parameter("c11", "R_N*, linear in 1 − s", -20.0, 20.0, (-3.0, 3.0), log=False),
        Parameter("c21", "R_N*, minus quadratic in 1 − s", -20.0, 20.0, (-3.0, 3.0), log=False),
        Parameter("c12", "R_D*, linear in 1 − s", -20.0, 20.0, (-3.0, 3.0), log=False),
        Parameter("c22", "R_D*, minus quadratic in 1 − s", -20.0, 20.0, (-3.0, 3.0), log=False),
    )
    # f(1) = 1 whatever the parameters are. Through three further values of f go two curves, one with c below and one
    # with c above 0, so that ε, μ and c take four densities beside the dense one.
    needs: ClassVar = {"N": 2, "D": 3, "s": 5}

    #: below these the density factor and R*(s) / R*(1) bend away from 0; see `positive`
    FACTOR_FLOOR: ClassVar = 0.05
    STRETCH_FLOOR: ClassVar = 0.02

    def factor(self, theta: Mapping[str, Any], s: Floats) -> Values:
        missing = np.where(s < 1, 1 - s, 1.0)  # log 0 is not wanted at s = 1, where the second term is 0
        second = np.where(s < 1, theta["c"] * np.exp(theta["mu"] * np.log(missing)), 0.0)
        return positive(np.exp(theta["epsilon"] * np.log(s)) + second, self.FACTOR_FLOOR)

    def stars(self, theta: Mapping[str, Any], s: Floats) -> tuple[Values, Values]:
        def star(scale: Any, linear: Any, quadratic: Any) -> Values:
            stretch = 1 + linear * (1 - s) - quadratic * (1 - s) ** 2
            return np.asarray(scale * positive(stretch, self.STRETCH_FLOOR))

        return (
            star(theta["gamma1"], theta["c11"], theta["c21"]),
            star(theta["gamma2"], theta["c12"], theta["c22"]),
        )


FORMS: dict[str, Form] = {form.name: form for form in (Chinchilla(), Muennighoff(), Power(), Sparse())}


def get_form(name: str) -> Form:
    """The form of that name.

    Raises:
        InputError: there is none.
    """
    if name not in FORMS:
        raise InputError("form", name, "no such form of the law", f"Use {' | '.join(FORMS)}.")
    return FORMS[name]

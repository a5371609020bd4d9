"""Forms of the law: each says what held-out loss to expect of a run from its N, U, D and s.

    N  parameters, under the convention that the fit names (`sparsedc.law.counts`)
    U  unique training tokens
    D  training tokens seen, U × epochs
    s  density of the maskable weights

A form is a small class: its parameters with their bounds, and one formula. Formulas are written in logarithms, so
that no start of a fit overflows, and in operations that NumPy extends to complex numbers, so that the fit takes
exact derivatives of them (`sparsedc.law.problem`).

The laws that know repetition are one family, composed of a density factor f(s) (`sparsedc.law.density_factor`), of
R_N*(s) and R_D*(s) (`sparsedc.law.repetition`), of β tied to α or free, of how the two terms add up, and perhaps of an
over-fitting penalty. `get_form` reads compositions such as "sparse:power,step,untied".
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsedc.errors import InputError, one_of
from sparsedc.law.density_factor import Factor, FrantarFactor, PaperFactor, PowerFactor
from sparsedc.law.design import Design, Floats
from sparsedc.law.parameters import Parameter, Theta, Values
from sparsedc.law.repetition import QuadraticStars, Stars, StepStars, Unlimited, saturating


class Form(ABC):
    """A form of the law. Subclasses say only their parameters and their formula."""

    name: str
    source: str
    formula: str
    parameters: tuple[Parameter, ...]
    #: how many distinct values of N, D and s the parameters need at the least
    needs: Mapping[str, int]

    @abstractmethod
    def loss(self, theta: Theta, design: Design) -> Values:
        """Loss in nats per token at `design`; the values of `theta` broadcast against its arrays."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)


E_ = Parameter("E", "loss that no model and no data can remove, nats", 1e-3, 20.0, (0.3, 4.0))
A_ = Parameter("A", "factor of the model-size term", 1e-5, 1e3, (0.1, 3.0), anchor=("N", "alpha"))
ALPHA = Parameter("alpha", "exponent of the model-size term", 0.01, 3.0, (0.1, 1.0))
B_ = Parameter("B", "factor of the data term", 1e-5, 1e3, (0.1, 3.0), anchor=("D", "beta"))
B_TIED = Parameter("B", "factor of the data term", 1e-5, 1e3, (0.1, 3.0), anchor=("D", "alpha"))
BETA = Parameter("beta", "exponent of the data term", 0.01, 3.0, (0.1, 1.0))
#: Laws of which one term drowns the other (q = ∞, the larger of the two) are reached at 30 to within 2 % of it.
Q = Parameter("q", "order of the norm by which the two terms add up", 0.5, 30.0, (1.0, 6.0))


class Chinchilla(Form):
    """Model size and tokens alone: repeated tokens count as fresh ones, and sparsity acts through N only."""

    name = "chinchilla"
    source = "Hoffmann et al. 2022, Training Compute-Optimal Large Language Models (arXiv 2203.15556), approach 3"
    formula = "L = E + A / N^α + B / D^β"
    parameters = (E_, A_, B_, ALPHA, BETA)
    needs: Mapping[str, int] = {"N": 3, "D": 3}

    def loss(self, theta: Theta, design: Design) -> Values:
        data = np.log(theta["B"]) - theta["beta"] * design.log_D
        model = np.log(theta["A"]) - theta["alpha"] * design.log_N
        return np.asarray(theta["E"] + np.exp(model) + np.exp(data))


class Gadre(Form):
    """Loss from compute C = 6 N D and over-training M = D / N: Chinchilla's law with one exponent, stated in M."""

    name = "gadre"
    source = "Gadre et al. 2024, Language models scale reliably with over-training (arXiv 2403.08540), equation 4"
    formula = "L = E + (a M^η + b M^−η) C^−η,  C = 6 N D,  M = D / N"
    parameters = (
        E_,
        Parameter("a", "factor of the model-size term, a (6 N²)^−η", 1e-5, 1e3, (0.1, 3.0), anchor=("6N²", "eta")),
        Parameter("b", "factor of the data term, b (6 D²)^−η", 1e-5, 1e3, (0.1, 3.0), anchor=("6D²", "eta")),
        Parameter("eta", "exponent of compute", 0.005, 1.5, (0.05, 0.5)),
    )
    needs: Mapping[str, int] = {"N": 2, "D": 3}

    def loss(self, theta: Theta, design: Design) -> Values:
        log_C = np.log(6) + design.log_N + design.log_D
        log_M = design.log_D - design.log_N
        model = np.log(theta["a"]) + theta["eta"] * (log_M - log_C)
        data = np.log(theta["b"]) - theta["eta"] * (log_M + log_C)
        return np.asarray(theta["E"] + np.exp(model) + np.exp(data))


class Frantar(Form):
    """Sparse models on fresh data: density scales the model-size term, repetition is not known."""

    name = "frantar"
    source = "Frantar et al. 2023, Scaling Laws for Sparsely-Connected Foundation Models (arXiv 2309.08520)"
    formula = "L = E + A f(s) / N^α + B / D^β,  f(s) = 1 + a_S (s^b_S − 1)"
    factor = FrantarFactor()
    parameters = (*Chinchilla.parameters, *FrantarFactor.parameters)
    needs: Mapping[str, int] = {**Chinchilla.needs, "s": FrantarFactor.densities}

    def loss(self, theta: Theta, design: Design) -> Values:
        data = np.log(theta["B"]) - theta["beta"] * design.log_D
        model = np.log(theta["A"]) - theta["alpha"] * design.log_N
        return np.asarray(theta["E"] + self.factor(theta, design.s) * np.exp(model) + np.exp(data))


PENALTY = (
    Parameter("P", "over-fitting at R_D = 1, nats", 1e-7, 10.0, (1e-3, 0.1), anchor=("U/N", "lambda")),
    Parameter("kappa", "power of the repeats in the over-fitting", 0.1, 5.0, (0.5, 2.0)),
    Parameter("lambda", "power of N / U in the over-fitting", 0.02, 3.0, (0.2, 1.0)),
)


class DataConstrained(Form):
    """The laws in which repeats, and parameters beyond what U unique tokens can use, are worth less and less.

    U_N = min(N, N_opt(U)), where N_opt(U) is the compute-optimal N of a model whose compute-optimal D is U.

    Coupled terms add up by a norm of order q: 1 is the plain sum, in which a larger model gains as much on few tokens
    as on many; above it gains grow with what the other term allows, as in Kaplan et al. 2020, Scaling Laws for Neural
    Language Models (arXiv 2001.08361), equation 1.5, which is E = 0 and q = 1 / β.

    Muennighoff et al. and "When Data Is Scarce" tie β to α. The penalty P R_D^κ (N/U)^λ is added to the loss: without
    one no law of this family can turn upward with repetition. That over-fitting adds to the loss is the idea of
    Lovelace et al. 2026, Prescriptive Scaling Laws for Data Constrained Training (arXiv 2605.01640); this formula for
    it is ours.
    """

    def __init__(
        self,
        name: str,
        source: str,
        factor: Factor,
        stars: Stars,
        *,
        tied: bool = True,
        penalty: bool = False,
        coupled: bool = False,
    ) -> None:
        self.name, self.source = name, source
        self.factor, self.stars, self.tied, self.penalty, self.coupled = factor, stars, tied, penalty, coupled
        model, data = "A f(s) / N_eff^α", f"B / D_eff^{'α' if tied else 'β'}"
        self.formula = (
            (f"L = E + (({model})^q + ({data})^q)^(1/q)" if coupled else f"L = E + {model} + {data}")
            + (" + P R_D^κ (N/U)^λ" if penalty else "")
            + ",  N_eff = U_N (1 + R_N* (1 − e^(−R_N / R_N*))),  D_eff likewise of U"
            + f",  f(s) = {factor.formula}"
            + (f",  {stars.formula}" if stars.formula else "")
        )
        self.parameters = (
            *((E_, A_, B_TIED, ALPHA) if tied else Chinchilla.parameters),
            *((Q,) if coupled else ()),
            *factor.parameters,
            *stars.parameters,
            *(PENALTY if penalty else ()),
        )
        self.needs = {"N": 2 if tied else 3, "D": 3, "s": max(factor.densities, stars.densities)}

    def beta(self, theta: Theta) -> Any:
        """The exponent of the data term."""
        return theta["alpha"] if self.tied else theta["beta"]

    def log_N_opt(self, theta: Theta, log_U: Values, s: Floats) -> Values:
        """ln N_opt(U, s): N_opt = G (G U)^(β/α), G = ((α/β)^(1/q) A f / B)^(1/(α+β)), from min over 6 N D = C."""
        return self._log_N_opt(theta, log_U, np.log(theta["A"]) + np.log(self.factor(theta, s)))

    def _log_N_opt(self, theta: Theta, log_U: Values, log_Af: Values) -> Values:
        alpha, beta = theta["alpha"], self.beta(theta)
        if self.tied:
            return np.asarray(log_U + (log_Af - np.log(theta["B"])) / alpha)
        q = theta["q"] if self.coupled else 1.0
        log_G = (log_Af - np.log(theta["B"]) + np.log(alpha / beta) / q) / (alpha + beta)
        return np.asarray(log_G + beta / alpha * (log_G + log_U))

    def loss(self, theta: Theta, design: Design) -> Values:
        log_N, log_U = design.log_N, design.log_U
        one_theta = np.shape(theta["alpha"])[-1:] in ((), (1,))  # for all runs, and so one f for all of a density
        s, of_run = design.densities if one_theta else (design.s, slice(None))
        log_Af = np.log(theta["A"]) + np.log(self.factor(theta, s))[..., of_run]
        if isinstance(self.stars, Unlimited):
            log_N_eff, log_D_eff = log_N, design.log_D
        else:
            R_N_star, R_D_star = (np.asarray(star + 0 * s)[..., of_run] for star in self.stars(theta, s))
            log_N_opt = self._log_N_opt(theta, log_U, log_Af)
            log_excess = np.where(np.real(log_N_opt) < log_N, log_N - log_N_opt, 0.0)
            R_N = np.expm1(np.where(np.real(log_excess) < 50, log_excess, 50.0))  # e⁵⁰ saturates R_N*, e⁷¹⁰ overflows
            log_N_eff = log_N - log_excess + np.log1p(saturating(R_N, R_N_star))
            log_D_eff = log_U + np.log1p(saturating(design.R_D, R_D_star))
        model = log_Af - theta["alpha"] * log_N_eff
        data = np.log(theta["B"]) - self.beta(theta) * log_D_eff
        if self.coupled:
            larger = np.where(np.real(model) > np.real(data), model, data)  # divided out, so that no power overflows
            norm = np.exp(theta["q"] * (model - larger)) + np.exp(theta["q"] * (data - larger))
            loss = theta["E"] + np.exp(larger + np.log(norm) / theta["q"])
        else:
            loss = theta["E"] + np.exp(model) + np.exp(data)
        if self.penalty:
            repeated = design.R_D > 0
            log_R_D = np.log(np.where(repeated, design.R_D, 1.0))
            power = np.log(theta["P"]) + theta["kappa"] * log_R_D + theta["lambda"] * (log_N - log_U)
            loss = loss + np.where(repeated, np.exp(power), 0.0)
        return np.asarray(loss)


_MUENNIGHOFF = "Muennighoff et al. 2023, Scaling Data-Constrained Language Models (arXiv 2305.16264)"
_POWER = f"{_MUENNIGHOFF}, with a power of s for density factor"
_SPARSE = "When Data Is Scarce (ICML 2026, arXiv 2606.01155)"
_OVERFIT = "after the idea of Lovelace et al. 2026, Prescriptive Scaling Laws for Data Constrained Training"
#: kinds of switches → their names, of which one of each kind holds
_FACTORS = {"none": Factor, "power": PowerFactor, "frantar": FrantarFactor, "paper": PaperFactor}
_STARS = {"unlimited": Unlimited, "constant": Stars, "step": StepStars, "quadratic": QuadraticStars}
_BETA = {"tied": True, "untied": False}
_PENALTY = {"plain": False, "overfit": True}
_SUM = {"additive": False, "coupled": True}
_KINDS: tuple[Mapping[str, Any], ...] = (_FACTORS, _STARS, _BETA, _PENALTY, _SUM)
#: base → source, and its switch of each kind
_FAMILY = {
    "muennighoff": (_MUENNIGHOFF, ("none", "constant", "tied", "plain", "additive")),
    "power": (_POWER, ("power", "constant", "tied", "plain", "additive")),
    "sparse": (_SPARSE, ("paper", "quadratic", "tied", "plain", "additive")),
    "overfit": (_OVERFIT, ("none", "unlimited", "untied", "overfit", "additive")),
}


def _compose(name: str, source: str, switches: Sequence[str]) -> DataConstrained:
    factor, stars, beta, penalty, added = switches
    return DataConstrained(
        name, source, _FACTORS[factor](), _STARS[stars](),
        tied=_BETA[beta], penalty=_PENALTY[penalty], coupled=_SUM[added],
    )  # fmt: skip


#: The forms by name; `get_form` knows compositions of the last four as well.
FORMS: dict[str, Form] = {form.name: form for form in (Chinchilla(), Gadre(), Frantar())} | {
    name: _compose(name, source, switches) for name, (source, switches) in _FAMILY.items()
}

#: The forms that are compared unless somebody names others: one for each thing that a law may know.
COMPARED = ("chinchilla", "muennighoff", "power", "power:untied", "power:untied,coupled", "sparse", "overfit:power")


def get_form(name: str) -> Form:
    """The form of that name, such as "chinchilla" or "sparse:power,untied".

    After the colon stand switches for what differs from the form before it, at most one of each kind: the density
    factor none | power | frantar | paper, R* unlimited | constant | step | quadratic, β tied | untied, the penalty
    plain (none) | overfit, and the terms' sum additive | coupled.

    Raises:
        InputError: there is none.
    """
    if name in FORMS:
        return FORMS[name]
    base, _, listed = name.partition(":")
    known = [switch for kind in _KINDS for switch in kind]
    if base not in _FAMILY:
        remedy = f"{one_of(base, FORMS)} Switches, as in sparse:power,untied, are for {', '.join(_FAMILY)}."
        raise InputError("form", name, "no such form of the law", remedy)
    source, defaults = _FAMILY[base]
    given = [switch.strip() for switch in listed.split(",")]
    for switch in given:
        if switch not in known:
            raise InputError("form", name, f"no switch {switch!r}", one_of(switch, known))
    chosen = []
    for kind, default in zip(_KINDS, defaults, strict=True):
        of_kind = [switch for switch in given if switch in kind]
        if len(of_kind) > 1:
            raise InputError("form", name, f"more than one of {' | '.join(kind)}", "Keep one of them.")
        chosen.append(of_kind[0] if of_kind else default)
    return _compose(name, f"{source}; varied: {', '.join(given)}", chosen)

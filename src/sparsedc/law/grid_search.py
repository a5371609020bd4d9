"""Optimal allocations by search on nested grids: densities outside, sizes within, each refined around its best point.

Every grid is evaluated at once for the fit and for its bootstrap draws, each of which has an optimum of its own.
`sparsedc.law.frontier` asks the questions.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sparsedc.errors import InputError
from sparsedc.law.compute import Compute
from sparsedc.law.design import Design, Floats
from sparsedc.law.fit import Fit
from sparsedc.law.forms import DataConstrained, Form, get_form
from sparsedc.law.limits import Limits, check_positive, knows_repetition

#: Optima this near, in nats, are one, and the dense model is then preferred.
SAME = 1e-9

_POINTS = 25  # of a grid; each refinement narrows it twelvefold
_ROUNDS_DENSITY = 4  # to 1e-4 of density
_ROUNDS_SIZE = 5  # to 1e-4 in ln size
_ROUNDS_TOKENS = 4  # to 1e-4 in ln tokens
_REACH = 1e4  # how far from the Chinchilla-like optimum sizes are sought, either way


class Found(NamedTuple):
    """Optima, each an array (k,): of the fit first, then of each draw."""

    size: Floats
    s: Floats
    N: Floats
    tokens: Floats
    flops: Floats
    loss: Floats
    epochs: Floats


class Search:
    """Optimal allocations of given unique tokens under a fit and k − 1 of its draws.

    Arrays of a search have the axes (k, densities, sizes, tokens), as many of them as it has come to.

    Args:
        compute: the accounting; 6 N D with zeros multiplied if None.
        limits: where to look; `Limits.of(fit)` if None.
        draws: at most how many of the fit's bootstrap draws are searched beside it.
        unlimited: whether loss is to be sought that compute does not limit.

    Raises:
        InputError: tokens that are not above 0, a law without repetition where compute does not limit, or no model of
            the accounting's family within the limits.
    """

    def __init__(
        self,
        fit: Fit,
        unique_tokens: float,
        compute: Compute | None,
        limits: Limits | None,
        draws: int,
        *,
        unlimited: bool = False,
    ) -> None:
        if unlimited and not knows_repetition(fit):
            raise InputError(
                "form", fit.form, "takes repeated tokens for fresh ones, so that loss falls for ever with epochs",
                "Give FLOPs, or use a law that knows repetition.",
            )  # fmt: skip
        self.form: Form = get_form(fit.form)
        self.params = fit.params
        self.U = check_positive("unique_tokens", unique_tokens)
        self.compute = compute or Compute()
        self.limits = limits or Limits.of(fit)
        smallest = self.compute.family.sizes(fit.params)[0] if self.compute.family else 0.0
        if self.limits.size < smallest:
            raise InputError("max_params", self.limits.size, f"the smallest model has {smallest:.4g}", "Raise it.")
        self.k = 1 + min(draws, len(next(iter(fit.draws.values()))) if fit.draws else 0)
        self.theta = {
            name: np.array([value, *(fit.draws[name][: self.k - 1] if fit.draws else ())])
            for name, value in fit.parameters.items()
        }
        #: only then can more epochs than compute allows for be too many
        self.turns_upward = isinstance(self.form, DataConstrained) and self.form.penalty

    def loss(self, rows: Any, N: Floats, D: Floats, s: Floats) -> Floats:
        """Loss under the θ of `rows`; the first axis of N, D and s is theirs."""
        theta = {name: values[rows].reshape(-1, *[1] * (N.ndim - 1)) for name, values in self.theta.items()}
        design = Design(N, np.full((1,) * N.ndim, self.U), D, s)
        return np.asarray(self.form.loss(theta, design), dtype=np.float64)

    def tokens(self, rows: Any, N: Floats, most: Floats, s: Floats) -> tuple[Floats, Floats]:
        """The best number of tokens, at most `most` and the limit of epochs, and its loss."""
        most = np.minimum(most, self.U * self.limits.epochs)
        if not self.turns_upward or self.limits.epochs <= 1:
            return most, self.loss(rows, N, most, s)
        log_D, loss = _lowest(  # a first epoch never hurts
            lambda log_D: self.loss(rows, N[..., None], np.exp(log_D), s[..., None]),
            np.log(np.minimum(most, self.U)),
            np.log(most),
            _ROUNDS_TOKENS,
        )
        return np.exp(log_D), loss

    def best(self, flops: Floats, densities: tuple[float, float] | None = None, rows: Any = slice(None)) -> Found:
        """The lowest loss of `flops`, one number for each θ of `rows`."""
        k = flops.size

        def tokens(log_size: Floats, s: Floats) -> tuple[Floats, Floats]:
            size = np.exp(log_size)
            most = flops.reshape(-1, *[1] * (size.ndim - 1)) / self.compute.per_token(size, s, self.params)
            return self.tokens(rows, self.compute.active(size, s, self.params), most, s)

        def sizes(s: Floats) -> tuple[Floats, Floats]:
            """ln size and loss of the best size at each density, (k, n)."""
            low, high = self.sizes(flops[:, None], s)
            return _lowest(lambda log_size: tokens(log_size, s[..., None])[1], np.log(low), np.log(high), _ROUNDS_SIZE)

        s = _density(lambda s: sizes(s)[1], densities or self.limits.densities, k)
        log_size = sizes(s[:, None])[0][:, 0]
        size = np.exp(log_size)
        D, loss = tokens(log_size, s)
        N = self.compute.active(size, s, self.params)
        return Found(size, s, N, D, D * self.compute.per_token(size, s, self.params), loss, D / self.U)

    def sizes(self, flops: Floats, s: Floats) -> tuple[Floats, Floats]:
        """Between which dense-equivalent sizes the best one lies."""
        if self.compute.family is not None:
            low, high = (np.full_like(s + flops, end) for end in self.compute.family.sizes(self.params))
        else:
            # The best N is never far below both √(C/6) and U, nor far above both √(C/6) and C/6 spread over U.
            balanced = np.sqrt(flops / 6)
            share = s if self.compute.zeros_free else np.ones_like(s)
            low = np.minimum(balanced, self.U) / _REACH / share
            high = np.maximum(balanced, flops / 6 / self.U) * _REACH / share
        high = np.minimum(high, self.limits.size)
        return np.minimum(low, high), high

    def floor(self, densities: tuple[float, float]) -> Found:
        """The lowest loss of all, which compute does not limit; here size and N are what the search ended with."""

        def sizes(s: Floats) -> tuple[Floats, Floats]:
            high = np.minimum(self.U * _REACH**4, self.limits.size * s)  # as good as infinite
            low = np.minimum(self.U / _REACH, high)

            def loss(log_N: Floats) -> Floats:
                return self.tokens(slice(None), np.exp(log_N), np.full_like(log_N, np.inf), s[..., None])[1]

            return _lowest(loss, np.log(low), np.log(high), _ROUNDS_SIZE + 1)

        s = _density(lambda s: sizes(s)[1], densities, self.k)
        log_N, loss = sizes(s[:, None])
        N = np.exp(log_N[:, 0])
        D = self.tokens(slice(None), N, np.full(self.k, np.inf), s)[0]
        return Found(N / s, s, N, D, np.full(self.k, np.inf), loss[:, 0], D / self.U)

    def cheapest(self, loss: Floats, densities: tuple[float, float] | None = None) -> Found:
        """The least compute that reaches `loss`, (k,); infinite, and all else NaN, for draws under which none does.

        Raises:
            InputError: the fit itself does not reach it.
        """
        from scipy.optimize.elementwise import find_root

        def excess(log_C: Floats, rows: Floats) -> Floats:
            at = rows.astype(np.intp)
            return np.asarray(np.log(self.best(np.exp(log_C), densities, at).loss / loss[at]), dtype=np.float64)

        # From one token for one parameter to 10¹⁶ times one pass of a model as large as its data.
        low, high = math.log(6), math.log(6 * self.U**2) + 4 * math.log(_REACH)
        rows = np.arange(self.k, dtype=np.float64)
        reached = excess(np.full(self.k, high), rows) <= 0
        if not reached[0] or not excess(np.full(1, low), rows[:1])[0] > 0:
            raise InputError(
                "loss", f"{loss[0]:.4g}", f"no allocation of {self.U:.4g} unique tokens within the limits ends there",
                "Ask for another loss, or widen the limits.",
            )  # fmt: skip
        log_C = np.full(self.k, np.inf)
        at = rows[reached]
        edges = np.full(at.size, low), np.full(at.size, high)
        log_C[reached] = find_root(excess, edges, args=(at,), tolerances={"xatol": 1e-6, "xrtol": 0, "fatol": 0}).x
        found = self.best(np.exp(np.where(reached, log_C, high)), densities)
        lost = {name: np.inf if name == "flops" else np.nan for name in Found._fields}
        return Found(**{name: np.where(reached, values, lost[name]) for name, values in found._asdict().items()})


def _lowest(f: Callable[[Floats], Floats], low: Floats, high: Floats, rounds: int) -> tuple[Floats, Floats]:
    """Where f is lowest between low and high, arrays of one shape, and its value there.

    f maps (*shape, points) to losses. Each round spreads points evenly, the next one between the neighbours of the best
    of them. The first grid finds the right valley; kinks, such as that of one epoch, do not disturb.
    """
    shares = np.linspace(0.0, 1.0, _POINTS)
    left, right = low, high
    for _ in range(rounds):
        x = left[..., None] + (right - left)[..., None] * shares
        values = f(x)
        index = np.argmin(values, axis=-1)[..., None]
        best, value = (np.take_along_axis(each, index, axis=-1)[..., 0] for each in (x, values))
        step = (right - left) / (_POINTS - 1)
        left, right = np.maximum(best - step, low), np.minimum(best + step, high)
    return best, value


def _density(f: Callable[[Floats], Floats], densities: tuple[float, float], k: int) -> Floats:
    """The density of lowest loss, (k,); the highest one where no other is better. f maps (k, n) to losses."""
    low, high = (np.full(k, end) for end in densities)
    if densities[0] == densities[1]:
        return high
    s, loss = _lowest(f, low, high, _ROUNDS_DENSITY)
    return np.where(f(high[:, None])[:, 0] <= loss + SAME, high, s)

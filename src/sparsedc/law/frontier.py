"""The frontier: what a law says is the best use of unique tokens and compute, and what sparsity saves.

    best_allocation      given U and compute: the size, density and epochs of lowest loss (compute-optimal)
    lowest_loss          given U alone: the density of lowest loss when compute does not count, beside dense
    cheapest_allocation  given U and a loss: the size, density and epochs that reach it with least compute
    loss_optimal         given U alone: the cheapest run that comes within a hundredth of the lowest loss
    compute_saved        the least compute at which some density is as good as the best dense model, against its own

All are searched on grids (`sparsedc.law.grid_search`), for the fit and for each of its bootstrap draws; the spread of
those optima gives the intervals.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sparsedc.law.compute import Compute
from sparsedc.law.design import Floats
from sparsedc.law.fit import Fit, Interval
from sparsedc.law.grid_search import Found, Search
from sparsedc.law.limits import Limits, check_positive

#: How near to its lowest loss a model must come, in nats, where the lowest itself takes unlimited compute. Runs that
#: differ in their seed alone differ by about as much.
WITHIN = 0.01
#: Bootstrap draws that are optimised, at most.
DRAWS = 100
LEVEL = 0.95


@dataclass(frozen=True)
class Allocation:
    """One way to spend unique tokens and compute, and what the law expects of it."""

    size: float  # dense-equivalent, N at density 1
    density: float
    N: float  # as the law counts it
    epochs: float
    tokens: float
    flops: float
    loss: float  # nats per token
    #: of each of the above, from the optima under the bootstrap draws; that of the loss is the law's, not a run's
    intervals: dict[str, Interval] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LowestLoss:
    """Where loss ends, for given unique tokens, when neither size nor epochs cost anything."""

    density: float
    loss: float
    dense_loss: float
    intervals: dict[str, Interval] | None = None


@dataclass(frozen=True)
class Saving:
    """What sparsity saves: the same loss from the best dense model and from the cheapest model of any density."""

    loss: float
    dense: Allocation
    cheapest: Allocation
    factor: float  # compute of the one over that of the other
    interval: Interval | None = None  # of the factor


def best_allocation(
    fit: Fit,
    unique_tokens: float,
    flops: float,
    compute: Compute | None = None,
    limits: Limits | None = None,
    *,
    draws: int = DRAWS,
) -> Allocation:
    """The allocation of lowest loss that costs no more than `flops`.

    Args:
        compute: the accounting; 6 N D with zeros multiplied if None.
        limits: where to look; `Limits.of(fit)` if None.
        draws: how many bootstrap draws give the intervals; 0 for none.

    Raises:
        InputError: tokens or FLOPs that are not above 0, or a law that the accounting cannot serve.
    """
    search = Search(fit, unique_tokens, compute, limits, draws)
    return _allocation(search.best(np.full(search.k, check_positive("flops", flops))))


def lowest_loss(fit: Fit, unique_tokens: float, limits: Limits | None = None, *, draws: int = DRAWS) -> LowestLoss:
    """The lowest loss that any compute buys, and the density that it takes.

    Raises:
        InputError: a law without repetition, under which more epochs help for ever.
    """
    search = Search(fit, unique_tokens, Compute(), limits, draws, unlimited=True)
    free, dense = search.floor(search.limits.densities), search.floor((1.0, 1.0))
    intervals = _intervals({"density": free.s, "loss": free.loss, "dense_loss": dense.loss})
    return LowestLoss(float(free.s[0]), float(free.loss[0]), float(dense.loss[0]), intervals)


def cheapest_allocation(
    fit: Fit,
    unique_tokens: float,
    loss: float,
    compute: Compute | None = None,
    limits: Limits | None = None,
    *,
    draws: int = DRAWS,
) -> Allocation:
    """The allocation of least compute that reaches `loss`.

    Raises:
        InputError: none reaches it within the limits.
    """
    search = Search(fit, unique_tokens, compute, limits, draws)
    return _allocation(search.cheapest(np.full(search.k, check_positive("loss", loss))))


def loss_optimal(
    fit: Fit,
    unique_tokens: float,
    compute: Compute | None = None,
    limits: Limits | None = None,
    *,
    within: float = WITHIN,
    draws: int = DRAWS,
) -> Allocation:
    """The cheapest allocation that comes `within` nats of the lowest loss, which itself takes unlimited compute.

    Raises:
        InputError: a law without repetition.
    """
    search = Search(fit, unique_tokens, compute, limits, draws, unlimited=True)
    return _allocation(search.cheapest(search.floor(search.limits.densities).loss + check_positive("within", within)))


def compute_saved(
    fit: Fit,
    unique_tokens: float,
    compute: Compute | None = None,
    limits: Limits | None = None,
    *,
    flops: float | None = None,
    within: float = WITHIN,
    draws: int = DRAWS,
) -> Saving:
    """The compute that sparsity saves at equal loss, and the density that saves most (compute-optimal sparsity).

    The loss is that of the best dense model: with `flops` of compute, or else `within` nats of the lowest loss that a
    dense model can reach from these tokens. The paper takes the lowest dense loss on a grid of FLOPs; as dense loss
    falls for ever, ever more slowly, its gain depends on where that grid ends, and this one on `within`.

    Raises:
        InputError: without `flops`, a law that knows no repetition.
    """
    search = Search(fit, unique_tokens, compute, limits, draws, unlimited=flops is None)
    if flops is None:
        loss = search.floor((1.0, 1.0)).loss + check_positive("within", within)
        dense = search.cheapest(loss, (1.0, 1.0))
    else:
        dense = search.best(np.full(search.k, check_positive("flops", flops)), (1.0, 1.0))
        loss = dense.loss
    found = search.cheapest(loss)
    factor = dense.flops / found.flops
    interval = _interval(factor[1:]) if search.k > 1 else None
    return Saving(float(loss[0]), _allocation(dense), _allocation(found), float(factor[0]), interval)


def _allocation(found: Found) -> Allocation:
    values = found._asdict()
    values["density"] = values.pop("s")
    return Allocation(**{name: float(each[0]) for name, each in values.items()}, intervals=_intervals(values))


def _intervals(values: dict[str, Floats]) -> dict[str, Interval] | None:
    """Of each quantity, (k,); None where there are no draws."""
    if next(iter(values.values())).size == 1:
        return None
    return {name: _interval(each[1:]) for name, each in values.items()}


def _interval(values: Floats) -> Interval:
    """The middle 95 % of the draws; open where an end is infinite."""
    ends = np.quantile(values[~np.isnan(values)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    low, high = (float(end) if math.isfinite(end) else None for end in ends)
    return low, high

"""When the topology changes, by how much, and how dense it is then. This module imports no torch."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import cos, pi
from typing import Literal

from sparsedc.errors import InputError, one_of


@dataclass(frozen=True)
class TopologySchedule:
    """Topology updates in the first part of training: a fixed number, spread evenly, or one every so many steps.

    With a fixed number a study's short and long runs explore as often; with an interval, weights get as long to grow.

    Args:
        steps: optimizer steps of the whole training.
        updates: topology updates; fewer happen if training has too few steps.
        drop_fraction: share of active weights replaced at the start of training, in [0, 1).
        final_drop_fraction: the share at the end of training, in [0, 1); a cosine leads there.
        stop_fraction: part of training, in [0, 1], after which the topology stays.
        interval: steps from one update to the next, and to the first; with it, `updates` does not count.
    """

    steps: int
    updates: int
    drop_fraction: float
    final_drop_fraction: float
    stop_fraction: float
    interval: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError("steps", self.steps, "no training", "Give at least one optimizer step.")
        if self.updates < 0:
            raise InputError("updates", self.updates, "negative", "Give 0 for a topology that stays.")
        for field in ("drop_fraction", "final_drop_fraction"):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(
                    field,
                    getattr(self, field),
                    "not in [0, 1)",
                    "Give a share of active weights, such as 0.3.",
                )
        if not 0 <= self.stop_fraction <= 1:
            raise InputError(
                "stop_fraction", self.stop_fraction, "not in [0, 1]", "Give a part of training, such as 0.75."
            )
        if self.interval is not None and not 1 <= self.interval <= self.last:
            raise InputError(
                "topology_interval",
                self.interval,
                f"no update would happen in the {self.last} of {self.steps} steps in which the topology may change"
                if self.interval > 0
                else "not a number of steps",
                f"Give 1 to {self.last} steps." if self.last else "Train for more steps, or raise topology_stop.",
            )

    @property
    def last(self) -> int:
        """The last step after which the topology may change."""
        return min(round(self.stop_fraction * self.steps), self.steps - 1)

    @cached_property
    def update_steps(self) -> tuple[int, ...]:
        """The optimizer steps, counted from 1, after which the topology changes; never after the last."""
        if self.interval is not None:
            return tuple(range(self.interval, self.last + 1, self.interval))
        evenly = {i * self.last // self.updates for i in range(1, self.updates + 1)}
        return tuple(sorted(evenly - {0}))

    def drop_fraction_at(self, step: int) -> float:
        """Share of active weights that an update at `step` replaces."""
        remaining = (1 + cos(pi * step / self.steps)) / 2
        return self.final_drop_fraction + (self.drop_fraction - self.final_drop_fraction) * remaining


#: Shape of a density schedule -> the part of the way that remains at progress p, from 1 at p = 0 to 0 at p = 1.
REMAINING: dict[str, Callable[[float], float]] = {
    "cubic": lambda p: (1 - p) ** 3,  # Zhu & Gupta 2017, arXiv 1710.01878
    "cosine": lambda p: (1 + cos(pi * p)) / 2,
    "linear": lambda p: 1 - p,
}


@dataclass(frozen=True)
class DensitySchedule:
    """The density at every step: constant, or falling at each topology update, from `initial` to `final` at the last.

    Args:
        final: density after the last update, in (0, 1].
        initial: density before the first update, at least `final`; None is a density that stays `final`.
        shape: how it falls over the updates, a key of REMAINING.
        update_steps: the steps after which the topology changes, ascending.
    """

    final: float
    initial: float | None
    shape: Literal["cubic", "cosine", "linear"]
    update_steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < self.final <= 1:
            raise InputError("density", self.final, "not in (0, 1]", "Give the share of weights to keep, such as 0.25.")
        if self.shape not in REMAINING:
            raise InputError("density_shape", self.shape, "unknown shape", one_of(self.shape, REMAINING))
        if self.initial is None:
            return
        if not self.final <= self.initial <= 1:
            raise InputError(
                "initial_density",
                self.initial,
                f"not from the density {self.final} that training ends at up to 1",
                "Density may only fall in training: raise it, or leave it out.",
            )
        if not self.update_steps:
            raise InputError(
                "initial_density",
                self.initial,
                f"no topology update leads from it to the density {self.final}",
                "Train for more steps, raise topology_stop, or leave it out.",
            )

    @property
    def start(self) -> float:
        """Density before the first update."""
        return self.final if self.initial is None else self.initial

    def density_at(self, update_step: int) -> float:
        """Density after the update at that step, and until the next."""
        done = bisect_right(self.update_steps, update_step)
        if not done:
            return self.start
        remaining = REMAINING[self.shape](done / len(self.update_steps))
        return self.final + (self.start - self.final) * remaining

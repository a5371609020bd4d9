"""When the topology changes, and by how much. This module imports no torch."""

from dataclasses import dataclass
from functools import cached_property
from math import cos, pi

from sparsedc.errors import InputError


@dataclass(frozen=True)
class TopologySchedule:
    """A fixed number of topology updates, spread evenly over the first part of training.

    The number is fixed rather than the interval, so that a study's short and long runs explore as often.

    Args:
        steps: optimizer steps of the whole training.
        updates: topology updates; fewer happen if training has too few steps.
        drop_fraction: share of active weights replaced at the start of training, in [0, 1).
        final_drop_fraction: the share at the end of training, in [0, 1); a cosine leads there.
        stop_fraction: part of training, in [0, 1], after which the topology stays.
    """

    steps: int
    updates: int
    drop_fraction: float
    final_drop_fraction: float
    stop_fraction: float

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

    @cached_property
    def update_steps(self) -> tuple[int, ...]:
        """The optimizer steps, counted from 1, after which the topology changes; never after the last."""
        last = min(round(self.stop_fraction * self.steps), self.steps - 1)
        evenly = {i * last // self.updates for i in range(1, self.updates + 1)}
        return tuple(sorted(evenly - {0}))

    def drop_fraction_at(self, step: int) -> float:
        """Share of active weights that an update at `step` replaces."""
        remaining = (1 + cos(pi * step / self.steps)) / 2
        return self.final_drop_fraction + (self.drop_fraction - self.final_drop_fraction) * remaining

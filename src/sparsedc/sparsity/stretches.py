"""Layers' values one after another in one tensor, a stretch each, so that one operation serves them all.

A topology update takes its layers in one go this way: on a GPU its time would else be that of launching kernels.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Stretches:
    """Stretches of `sizes` elements, on a device.

    Attributes:
        starts: where each stretch starts, int64 [stretches].
        number: which stretch an element is of, int64 [elements].
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.sizes, self.total, self.device = list(sizes), sum(sizes), device

    @cached_property
    def starts(self) -> Tensor:
        return self.of_each([sum(self.sizes[:i]) for i in range(len(self.sizes))])

    @cached_property
    def number(self) -> Tensor:
        numbers = torch.arange(len(self.sizes), device=self.device)
        return numbers.repeat_interleave(self.of_each(self.sizes), output_size=self.total)

    def of_each(self, values: Sequence[int]) -> Tensor:
        """A number a stretch, int64 [stretches]."""
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def rank(self) -> Tensor:
        """An element's place in its stretch, from 0, int64 [elements]."""
        return torch.arange(self.total, device=self.device) - self.starts[self.number]

    def count(self, flags: Tensor) -> Tensor:
        """How many elements of each stretch are true, int64 [stretches]."""
        before = torch.nn.functional.pad(flags.cumsum(0), (1, 0))
        return before[self.starts + self.of_each(self.sizes)] - before[self.starts]

    def highest(self, scores: Tensor, counts: Sequence[int]) -> Tensor:
        """Indices of the counts[i] highest scores of stretch i, stretch by stretch, the highest first; of equal ones
        the first, and NaN counts as lowest."""
        # Zeros of both signs are equal, which not every sort knows.
        scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf) + 0.0
        order = scores.sort(descending=True, stable=True).indices
        if len(self.sizes) == 1:
            return order[: counts[0]]
        order = order[self.number[order].sort(stable=True).indices]
        return order[places(self.rank() < self.of_each(counts)[self.number], sum(counts))]


def places(mask: Tensor, count: int) -> Tensor:
    """Where a mask is true, ascending, int64; `count` says how often, so that the host need not wait for the device."""
    return torch.nonzero_static(mask, size=count).squeeze(1)

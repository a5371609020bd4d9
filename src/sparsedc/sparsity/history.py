"""What topology updates did to the masks, for tables and figures; held by the host, a bit a block."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsedc.sparsity.layer import SparseLayer

Bits = NDArray[np.uint8]


@dataclass(frozen=True)
class TopologyUpdate:
    """What one topology update did; lists are by layer, in the order of their names, and count blocks.

    Attributes:
        step: the optimizer step after which it happened.
        drop_fraction: share of the active blocks that it dropped; a layer's are rounded down.
        active: active blocks after it.
        replaced: blocks that are active now and were not before; a block that was dropped and grown again in the
            same update is none of them.
        ages: of the active weights just before, in steps: minimum, quartiles, maximum.
        overlap: share of the blocks active at the start of training that are active now.
        explored: share of all blocks that have ever been active (in-time over-parameterisation; Liu et al. 2021,
            arXiv 2102.02887).
    """

    step: int
    drop_fraction: float
    active: list[int]
    replaced: list[int]
    ages: list[int]
    overlap: float
    explored: float


class History:
    """The masks at the start of training, and which blocks have ever been active."""

    def __init__(self, layers: Sequence[SparseLayer]) -> None:
        self.layers = layers
        self.initial = host_bits(layers)
        self.explored = self.initial.copy()

    def record(self, step: int, drop_fraction: float, replaced: list[int], ages: Tensor) -> TopologyUpdate:
        """Take note of an update that has just been made.

        Args:
            replaced: by layer, how many blocks became active that were not.
            ages: how many active blocks were of each age before it, int64 [ages].
        """
        now = host_bits(self.layers)
        self.explored |= now
        return TopologyUpdate(
            step=step,
            drop_fraction=drop_fraction,
            active=[layer.active for layer in self.layers],
            replaced=replaced,
            ages=_quartiles(ages),
            overlap=_ones(self.initial & now) / _ones(self.initial),
            explored=_ones(self.explored) / sum(layer.blocks.count for layer in self.layers),
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {"initial": torch.from_numpy(self.initial), "explored": torch.from_numpy(self.explored)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.initial, self.explored = (state[key].cpu().numpy().copy() for key in ("initial", "explored"))


def host_bits(layers: Sequence[SparseLayer]) -> Bits:
    """The layers' masks one after another, eight blocks a byte, each layer's from a new byte on."""
    if not layers:
        return np.empty(0, np.uint8)
    bits: Bits = torch.cat([layer.bits for layer in layers]).cpu().numpy()
    return bits


def _quartiles(counts: Tensor) -> list[int]:
    """Minimum, quartiles and maximum (nearest rank) of what has the value i `counts[i]` times."""
    below = counts.cumsum(0).cpu().numpy()
    ranks = [max(1, -(-quarter * int(below[-1]) // 4)) for quarter in range(5)]
    return [int(value) for value in np.searchsorted(below, ranks)]


def _ones(masks: Bits) -> int:
    return int(np.bitwise_count(masks).sum(dtype=np.int64))

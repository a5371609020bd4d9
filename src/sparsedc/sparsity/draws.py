"""Random numbers that depend on their name alone: the same on every device, rank and machine, in any order.

A counter-based generator: number i of a stream is SplitMix64 (Steele, Lea and Flood 2014, OOPSLA) of its key and i.
It is made of integer operations only, which a GPU and a CPU carry out alike, and it runs where the layer lives:
drawing a topology of 45 million weights on the host would take seconds a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from sparsedc.sparsity.stretches import Stretches

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio


@dataclass(frozen=True)
class Draws:
    """Streams of uniform numbers, one after another.

    Attributes:
        streams: how many numbers to draw of each; a stream is named by whatever it depends on, such as seed, step and
            layer.
    """

    streams: dict[str, int]
    device: torch.device

    @classmethod
    def of(cls, seed: int, purpose: str, step: int, counts: dict[str, int], device: torch.device) -> "Draws":
        """A stream of its own for each purpose, step and layer, so that no draw shifts another; counts by layer."""
        return cls({f"{seed}/{purpose}/{step}/{layer}": count for layer, count in counts.items()}, device)

    def uniform(self) -> Tensor:
        """Numbers in (0, 1), float64."""
        keys = [int.from_bytes(sha256(name.encode()).digest()[:8], "little") for name in self.streams]
        return middles(splitmix64(keys, Stretches(list(self.streams.values()), self.device)))


def splitmix64(seeds: Sequence[int], stretches: Stretches) -> Tensor:
    """The first numbers of SplitMix64 from each seed, a stretch each, as the int64 of the same 64 bits."""
    keys = stretches.of_each([_signed(seed) for seed in seeds])
    state = stretches.rank().add_(1).mul_(_signed(GOLDEN)).add_(keys[stretches.number])
    state = _mix(_mix(state, 30, 0xBF58476D1CE4E5B9), 27, 0x94D049BB133111EB)
    return state ^ _shift_right(state, 31)


def middles(bits: Tensor) -> Tensor:
    """64 bits to (0, 1), float64: the middles of 2^52 equal steps. Those of 2^53 would round up to 1."""
    return (_shift_right(bits, 12).double() + 0.5) * 2.0**-52


def _mix(state: Tensor, shift: int, factor: int) -> Tensor:
    return (state ^ _shift_right(state, shift)).mul_(_signed(factor))


def _shift_right(state: Tensor, bits: int) -> Tensor:
    """Of the 64 bits without a sign; int64's own shift would repeat the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 of the same bits modulo 2^64."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value

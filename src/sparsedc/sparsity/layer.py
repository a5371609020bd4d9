"""A masked layer: a dense weight of which blocks are active, and a mask of one bit a block.

A block is one weight, a run of a row (SMET's 1 × b), or a b × b tile. Everything else that trains a layer is kept
for its active blocks only, in the order of their ids; ids count blocks row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import Parameter

from sparsedc.sparsity.stretches import places


@dataclass(frozen=True)
class Blocks:
    """How a matrix is cut into blocks.

    Attributes:
        rows, columns: of the matrix, each a multiple of the block's.
        block: (rows, columns) of one block.
    """

    rows: int
    columns: int
    block: tuple[int, int]

    @property
    def count(self) -> int:
        return self.rows * self.columns // self.area

    @property
    def area(self) -> int:
        """Weights a block."""
        return self.block[0] * self.block[1]

    def split(self, matrix: Tensor) -> Tensor:
        """The matrix as [blocks, area]; a copy where blocks are tiles."""
        if self.block[0] == 1:
            return matrix.view(self.count, self.area)
        return self._tiles(matrix).reshape(self.count, self.area)

    def gather(self, matrix: Tensor, ids: Tensor) -> Tensor:
        """The blocks `ids` of a matrix, [ids, area]."""
        if self.block[0] == 1:
            return matrix.view(self.count, self.area).index_select(0, ids)
        across = self.columns // self.block[1]
        return self._tiles(matrix)[ids // across, ids % across].flatten(1)

    def scatter(self, matrix: Tensor, ids: Tensor, values: Tensor) -> None:
        """Overwrite the blocks `ids` of a matrix with `values`, [ids, area], rounded to its type."""
        values = values.to(matrix.dtype)
        if self.area == 1:
            matrix.view(-1).index_copy_(0, ids, values.view(-1))
        elif self.block[0] == 1:
            matrix.view(self.count, self.area).index_copy_(0, ids, values)
        else:
            across = self.columns // self.block[1]
            self._tiles(matrix)[ids // across, ids % across] = values.view(-1, *self.block)

    def _tiles(self, matrix: Tensor) -> Tensor:
        """View [block rows, block columns, rows of a block, columns of a block]."""
        high, wide = self.block
        return matrix.view(self.rows // high, high, self.columns // wide, wide).transpose(1, 2)


@dataclass(eq=False)
class SparseLayer:
    """One maskable matrix.

    Attributes:
        weight: [rows, columns], exactly zero in inactive blocks.
        bits: the mask, eight blocks a byte, the lowest bit first; on the weight's device.
        active: number of active blocks.
    """

    name: str
    weight: Parameter
    blocks: Blocks
    bits: Tensor
    active: int

    @classmethod
    def masked(cls, name: str, weight: Parameter, block: tuple[int, int], ids: Tensor) -> SparseLayer:
        """A layer whose blocks `ids`, ascending, are active; zeroes the others."""
        blocks = Blocks(weight.shape[0], weight.shape[1], block)
        layer = cls(name, weight, blocks, torch.empty(0), 0)
        activate([layer], ids, [len(ids)])
        with torch.no_grad():
            kept = blocks.gather(weight.data, ids)
            weight.zero_()
            blocks.scatter(weight.data, ids, kept)
        return layer

    def mask(self) -> Tensor:
        """bool [blocks], made anew."""
        return masks([self])

    def ids(self) -> Tensor:
        """Ids of the active blocks, ascending, int64 [active], made anew."""
        return places(self.mask(), self.active)

    def inactive_ids(self) -> Tensor:
        """Ids of the other blocks, ascending, int64, made anew."""
        return places(~self.mask(), self.blocks.count - self.active)

    def load_bits(self, bits: Tensor) -> None:
        """Take over a mask of another run of the same cell."""
        ids = unpack([bits.to(self.weight.device)], [self.blocks.count]).nonzero().squeeze(1)
        activate([self], ids, [len(ids)])


def masks(layers: Sequence[SparseLayer]) -> Tensor:
    """The layers' masks one after another, bool [blocks]."""
    return unpack([layer.bits for layer in layers], [layer.blocks.count for layer in layers])


def activate(layers: Sequence[SparseLayer], ids: Tensor, counts: Sequence[int]) -> None:
    """Let exactly the blocks `ids` be active, counts[i] of them in layer i.

    Args:
        ids: ascending, int64; layers' ids follow one another, so that a layer's first is the number of all blocks
            before it.
    """
    blocks = [layer.blocks.count for layer in layers]
    mask = torch.zeros(sum(blocks), dtype=torch.bool, device=ids.device)
    mask[ids] = True
    for layer, bits, count in zip(layers, pack(mask, blocks), counts, strict=True):
        layer.bits, layer.active = bits, count


def pack(mask: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Stretches of a bool tensor to bits, uint8 [⌈size / 8⌉] each, the lowest bit first."""
    parts = []
    for stretch in torch.split(mask, list(sizes)):
        parts += [stretch, stretch.new_zeros(-len(stretch) % 8)]
    bits = (torch.cat(parts).view(-1, 8) * _powers(mask.device)).sum(1, dtype=torch.uint8)
    return list(torch.split(bits, [-(-size // 8) for size in sizes]))


def unpack(bits: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The inverse of `pack`."""
    padded = (torch.cat(list(bits)).unsqueeze(1) & _powers(bits[0].device)).ne(0).flatten()
    stretches = torch.split(padded, [8 * len(part) for part in bits])
    return torch.cat([stretch[:size] for stretch, size in zip(stretches, sizes, strict=True)])


@lru_cache
def _powers(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)

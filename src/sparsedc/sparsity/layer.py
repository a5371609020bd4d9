"""A masked layer: a dense weight of which blocks are active, and a mask of one bit a block.

A block is one weight, a run of a row (SMET's 1 × b), or a b × b tile. Everything else that trains a layer is kept
for its active blocks only, in the order of their ids; ids count blocks row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import Parameter

KEPT_INDICES = 2**28  # maskable weights up to which ids are kept, 8 bytes an active block, and not made anew


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

    def gather(self, matrix: Tensor, ids: Tensor, out: Tensor) -> None:
        """Copy the blocks `ids` of a matrix into `out`, [ids, area]."""
        if self.area == 1:
            torch.index_select(matrix.view(-1), 0, ids, out=out.view(-1))
        elif self.block[0] == 1:
            torch.index_select(matrix.view(self.count, self.area), 0, ids, out=out)
        else:
            across = self.columns // self.block[1]
            out.copy_(self._tiles(matrix)[ids // across, ids % across].flatten(1))

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
        keep_ids: hold on to the ids between calls.
    """

    name: str
    weight: Parameter
    blocks: Blocks
    bits: Tensor
    active: int
    keep_ids: bool
    _ids: Tensor | None = field(default=None, repr=False)

    @classmethod
    def masked(cls, name: str, weight: Parameter, block: tuple[int, int], ids: Tensor, keep_ids: bool) -> SparseLayer:
        """A layer whose blocks `ids`, ascending, are active; zeroes the others."""
        blocks = Blocks(weight.shape[0], weight.shape[1], block)
        layer = cls(name, weight, blocks, torch.empty(0), 0, keep_ids)
        layer.activate(ids)
        kept = torch.empty(len(ids), blocks.area, dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            blocks.gather(weight.data, ids, kept)
            weight.zero_()
            blocks.scatter(weight.data, ids, kept)
        return layer

    def activate(self, ids: Tensor) -> None:
        """Let exactly the blocks `ids`, ascending, be active."""
        mask = torch.zeros(self.blocks.count, dtype=torch.bool, device=ids.device)
        mask[ids] = True
        self.bits, self.active = pack(mask), len(ids)
        self._ids = ids if self.keep_ids else None

    def mask(self) -> Tensor:
        """bool [blocks], made anew."""
        return unpack(self.bits, self.blocks.count)

    def ids(self) -> Tensor:
        """Ids of the active blocks, ascending, int64 [active]."""
        if self._ids is not None:
            return self._ids
        # The size is known, so that the host need not wait for the device to count.
        return torch.nonzero_static(self.mask(), size=self.active).squeeze(1)

    def inactive_ids(self) -> Tensor:
        """Ids of the other blocks, ascending, int64."""
        return (~self.mask()).nonzero().squeeze(1)

    def load_bits(self, bits: Tensor) -> None:
        """Take over a mask of another run of the same cell."""
        self.activate(unpack(bits.to(self.weight.device), self.blocks.count).nonzero().squeeze(1))


def pack(mask: Tensor) -> Tensor:
    """bool [n] to uint8 [⌈n / 8⌉], the lowest bit first."""
    padded = torch.nn.functional.pad(mask, (0, -len(mask) % 8)).view(-1, 8)
    return (padded * _powers(mask.device)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, count: int) -> Tensor:
    """The inverse of `pack`."""
    return (bits.unsqueeze(1) & _powers(bits.device)).ne(0).flatten()[:count]


@lru_cache
def _powers(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)

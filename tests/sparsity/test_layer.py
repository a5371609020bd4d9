"""Blocks and masks against numpy."""

import numpy as np
import plain
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedc.sparsity.layer import Blocks, SparseLayer, pack, unpack

BLOCKS = [(1, 1), (1, 4), (2, 2), (3, 2), (2, 1), (1, 3)]


@st.composite
def cut(draw: st.DrawFn) -> tuple[Blocks, torch.Tensor]:
    """Blocks of a random matrix, and some of their ids."""
    block = draw(st.sampled_from(BLOCKS))
    rows, columns = block[0] * draw(st.integers(1, 5)), block[1] * draw(st.integers(1, 5))
    blocks = Blocks(rows, columns, block)
    ids = draw(st.sets(st.integers(0, blocks.count - 1)))
    return blocks, torch.tensor(sorted(ids), dtype=torch.int64)


def numbered(blocks: Blocks) -> torch.Tensor:
    return torch.arange(1.0, blocks.rows * blocks.columns + 1).view(blocks.rows, blocks.columns)


def matrix_mask(blocks: Blocks, ids: torch.Tensor) -> np.ndarray:
    """bool [rows, columns], by which block a weight's row and column fall into."""
    chosen, (high, wide) = set(ids.tolist()), blocks.block
    return np.array(
        [
            [row // high * (blocks.columns // wide) + column // wide in chosen for column in range(blocks.columns)]
            for row in range(blocks.rows)
        ]
    )


@settings(deadline=None)
@given(cut())
def test_blocks_are_cut_as_defined(case: tuple[Blocks, torch.Tensor]) -> None:
    blocks, ids = case
    matrix = numbered(blocks)
    expected = plain.cut(matrix.tolist(), blocks.block)
    assert blocks.count == len(expected)
    assert blocks.area == len(expected[0])
    assert blocks.split(matrix).tolist() == expected
    assert blocks.gather(matrix, ids).tolist() == [expected[i] for i in ids.tolist()]
    assert matrix.equal(numbered(blocks))


@settings(deadline=None)
@given(cut(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_scattered_blocks_land_where_they_were_gathered(case: tuple[Blocks, torch.Tensor], dtype: torch.dtype) -> None:
    blocks, ids = case
    matrix = (numbered(blocks) / 3).to(dtype)
    found = torch.full_like(matrix, -1)
    blocks.scatter(found, ids, blocks.gather(matrix, ids).float())
    on = torch.from_numpy(matrix_mask(blocks, ids))
    assert found.equal(torch.where(on, matrix, torch.tensor(-1, dtype=dtype)))


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=50), min_size=1, max_size=4))
def test_masks_are_packed_as_numpy_packs(masks: list[list[bool]]) -> None:
    sizes = [len(mask) for mask in masks]
    flat = torch.tensor([on for mask in masks for on in mask], dtype=torch.bool)
    packed = pack(flat, sizes)
    for bits, mask in zip(packed, masks, strict=True):
        assert bits.dtype == torch.uint8
        assert bits.tolist() == np.packbits(np.array(mask, dtype=bool), bitorder="little").tolist()
    assert unpack(packed, sizes).equal(flat)


@settings(deadline=None)
@given(cut())
def test_masked_layer(case: tuple[Blocks, torch.Tensor]) -> None:
    blocks, ids = case
    weight = torch.nn.Parameter(numbered(blocks))
    layer = SparseLayer.masked("w", weight, blocks.block, ids)
    on = matrix_mask(blocks, ids)
    assert weight.tolist() == np.where(on, numbered(blocks).numpy(), 0).tolist()
    assert layer.active == len(ids)
    assert layer.ids().equal(ids)
    assert layer.mask().nonzero().squeeze(1).equal(ids)
    assert len(layer.bits) == -(-blocks.count // 8)
    other = SparseLayer.masked("w", torch.nn.Parameter(numbered(blocks)), blocks.block, ids[:0])
    other.load_bits(layer.bits)
    assert other.ids().equal(ids)
    assert other.active == len(ids)


def test_infinite_and_nan_weights_are_zeroed_too() -> None:
    """A product with the mask would leave NaN in their places."""
    weight = torch.nn.Parameter(torch.tensor([[1.0, torch.inf, torch.nan, -2.0]]))
    SparseLayer.masked("w", weight, (1, 1), torch.tensor([0, 3]))
    assert weight.tolist() == [[1.0, 0.0, 0.0, -2.0]]


@pytest.mark.parametrize(("block", "copies"), [((1, 4), False), ((2, 2), True)])
def test_split_copies_only_tiles(block: tuple[int, int], copies: bool) -> None:
    matrix = torch.zeros(4, 8)
    Blocks(4, 8, block).split(matrix)[0] = 1
    assert bool(matrix.any()) != copies

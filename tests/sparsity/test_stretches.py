"""Stretches against Python's own lists and sorting."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedc.sparsity.stretches import Stretches, places

CPU = torch.device("cpu")
SCORES = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1.0, 2.0, math.inf, math.nan]) | st.floats(width=32)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(SCORES, max_size=12), min_size=1, max_size=4), st.data())
def test_highest_are_those_of_sorted(device: str, stretches: list[list[float]], data: st.DataObject) -> None:
    counts = [data.draw(st.integers(0, len(scores))) for scores in stretches]
    expected, start = [], 0
    for scores, count in zip(stretches, counts, strict=True):
        order = sorted(range(len(scores)), key=lambda i: (math.inf if math.isnan(scores[i]) else -scores[i], i))
        expected += [start + i for i in order[:count]]
        start += len(scores)
    flat = torch.tensor([score for scores in stretches for score in scores], device=device)
    sizes = [len(scores) for scores in stretches]
    assert Stretches(sizes, flat.device).highest(flat, counts).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=9), min_size=1, max_size=4))
def test_places_and_counts(flags: list[list[bool]]) -> None:
    stretches = Stretches([len(part) for part in flags], CPU)
    flat = torch.tensor([flag for part in flags for flag in part], dtype=torch.bool)
    assert stretches.number.tolist() == [i for i, part in enumerate(flags) for _ in part]
    assert stretches.rank().tolist() == [i for part in flags for i in range(len(part))]
    assert stretches.count(flat).tolist() == [sum(part) for part in flags]
    assert places(flat, int(flat.sum())).tolist() == [i for i, flag in enumerate(flat.tolist()) if flag]

"""Batches: every token a target once an epoch, in an order that depends on seed and epoch alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedc.train.batches import Batches, on_device, windows


@given(st.integers(0, 200), st.integers(1, 17), st.randoms(use_true_random=False))
def test_windows_predict_each_token_from_the_one_before(count, length, random):
    ids = np.arange(1, count + 1, dtype=np.uint16)
    rows = list(range(count // length))
    random.shuffle(rows)
    inputs, targets = on_device(windows(ids, length, 0, np.array(rows, dtype=np.int64)), torch.device("cpu"))
    assert targets.shape == inputs.shape == (count // length, length)
    for row, before, after in zip(rows, inputs.tolist(), targets.tolist(), strict=True):
        assert before == list(range(row * length, (row + 1) * length))  # 0 before the first
        assert after == list(range(row * length + 1, (row + 1) * length + 1))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_every_sequence_once_an_epoch(sequences, batch, seed):
    batches = Batches(sequences, batch, seed)
    steps = 3 * sequences // batch
    stream = np.concatenate([batches.rows(step) for step in range(1, steps + 1)] or [np.empty(0, dtype=int)])
    for start in range(0, len(stream), sequences):
        epoch = stream[start : start + sequences]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(sequences))


def test_epochs_and_seeds_are_shuffled_differently():
    def epoch(seed, number):
        return Batches(64, 64, seed).rows(number + 1).tolist()

    orders = [epoch(seed, number) for seed in (0, 1) for number in (0, 1)]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len(set(map(tuple, orders))) == 4


@pytest.mark.parametrize("batch", [3, 8, 64])
def test_order_does_not_depend_on_the_batch_size(batch):
    one_by_one = [int(Batches(20, 1, seed=5).rows(step)[0]) for step in range(1, 61)]
    batches = Batches(20, batch, seed=5)
    stream = np.concatenate([batches.rows(step) for step in range(1, 60 // batch + 1)] or [np.empty(0, dtype=int)])
    assert stream.tolist() == one_by_one[: len(stream)]

"""Draws against SplitMix64 in Python's own integers, and what makes them random numbers."""

from hashlib import sha256
from itertools import islice

import numpy as np
import plain
import pytest
import torch
from scipy import stats

from sparsedc.sparsity.draws import Draws, middles, splitmix64
from sparsedc.sparsity.stretches import Stretches

CPU = torch.device("cpu")
#: the first outputs for the seed 1234567 that are published with the generator's reference code
PUBLISHED = [
    6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
]  # fmt: skip


def unsigned(bits: torch.Tensor) -> list[int]:
    return [value % 2**64 for value in bits.tolist()]


def test_published_vector() -> None:
    assert list(islice(plain.splitmix64(1234567), 5)) == PUBLISHED
    assert unsigned(splitmix64([1234567], Stretches([5], CPU))) == PUBLISHED


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0x9E3779B97F4A7C15])
def test_all_seeds_are_the_plain_generator(seed: int) -> None:
    assert unsigned(splitmix64([seed], Stretches([1000], CPU))) == list(islice(plain.splitmix64(seed), 1000))


@pytest.mark.parametrize("name", ["", "0/init/0/layer", "7/grow/100/model.layers.0.mlp.up_proj.weight", "ä"])
def test_streams_are_seeded_by_their_name(name: str) -> None:
    assert Draws({name: 500}, CPU).uniform().tolist() == plain.uniform(name, 500)


def test_numbers_lie_between_0_and_1() -> None:
    """Neither end is reached even by the outermost integers: logarithms of them are taken."""
    ends = torch.tensor([0, -1, 2**63 - 1, -(2**63)])  # as unsigned: least, highest, and the two in the middle
    lowest, highest, below, above = middles(ends).tolist()
    assert lowest == 2.0**-53
    assert highest == 1 - 2.0**-53
    assert below < 0.5 < above
    assert above - below == 2.0**-52
    draws = Draws({"range": 200_000}, CPU).uniform()
    assert draws.dtype == torch.float64
    assert 0 < draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1


def test_a_longer_stream_begins_with_the_shorter() -> None:
    longer, shorter, none = (Draws({"prefix": count}, CPU).uniform() for count in (1000, 10, 0))
    assert longer[:10].equal(shorter)
    assert none.shape == (0,)


def test_streams_drawn_together_are_those_drawn_alone() -> None:
    streams = {"a": 7, "b": 0, "c": 1, "d": 12}
    alone = [Draws({name: count}, CPU).uniform() for name, count in streams.items()]
    assert Draws(streams, CPU).uniform().equal(torch.cat(alone))


@pytest.mark.parametrize("name", ["0/init/0/a", "1/drop/40/b"])
def test_uniform(name: str) -> None:
    numbers = Draws({name: 100_000}, CPU).uniform().numpy()
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-4
    pairs = np.histogram2d(numbers[:-1], numbers[1:], bins=10, range=[(0, 1), (0, 1)])[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-4
    lowest = np.floor(numbers * 2**40) % 16  # bits far down are as even as the first
    assert stats.chisquare(np.bincount(lowest.astype(int), minlength=16)).pvalue > 1e-4


def test_streams_are_independent() -> None:
    names = [f"{seed}/{purpose}/{step}/w" for seed in (0, 1) for purpose in ("drop", "grow") for step in (1, 2, 10)]
    streams = np.stack([Draws({name: 20_000}, CPU).uniform().numpy() for name in names])
    correlation = np.corrcoef(streams) - np.eye(len(names))
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)
    keys = [int.from_bytes(sha256(name.encode()).digest()[:8], "little") for name in names]
    assert len({stream[0] for stream in streams}) == len(set(keys)) == len(names)
    # No stream is another one shifted: none of their numbers are shared.
    assert len(np.unique(streams)) == streams.size


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_draws_are_the_same_on_a_gpu() -> None:
    streams = {"device": 10_000, "another": 333}
    assert Draws(streams, torch.device("cuda")).uniform().cpu().equal(Draws(streams, CPU).uniform())

"""Batches of a budget: every one of the U unique tokens is a target exactly once an epoch; only of the last epoch may
a batch that would not be whole stay out.

The budget is cut into sequences of L targets; the input that precedes a sequence's first target is the token
before it, and before the very first token stands the end-of-document token. Epochs reshuffle the sequences by
(seed, epoch) and follow one another without a gap, so that a batch depends on (seed, step) alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def windows(ids: NDArray[np.integer], length: int, eod: int) -> tuple[Ids, Ids]:
    """Cut tokens into sequences for next-token prediction; a tail shorter than `length` is left out.

    Args:
        ids: token ids, shape (tokens,).
        length: targets a sequence.
        eod: the id that stands before the first token.

    Returns:
        inputs and targets, each of shape (tokens // length, length); the input at a place is the token before
        the target there.
    """
    count = len(ids) // length
    targets = np.asarray(ids[: count * length], dtype=np.int64)
    inputs = np.empty_like(targets)
    if count:
        inputs[0], inputs[1:] = eod, targets[:-1]
    return inputs.reshape(count, length), targets.reshape(count, length)


@dataclass(frozen=True)
class Batches:
    """The batches of a cell, by optimizer step.

    Attributes:
        sequences: sequences in the budget, U // L.
        batch_sequences: sequences a batch.
        seed: of the cell.
    """

    sequences: int
    batch_sequences: int
    seed: int

    def rows(self, step: int) -> Ids:
        """Indices of the sequences of a step (counted from 1), shape (batch_sequences,)."""
        places = np.arange((step - 1) * self.batch_sequences, step * self.batch_sequences)
        epochs, within = np.divmod(places, self.sequences)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = _permutation(self.sequences, self.seed, int(epoch))[within[here]]
        return rows


@lru_cache(maxsize=2)
def _permutation(sequences: int, seed: int, epoch: int) -> Ids:
    return np.random.default_rng([seed, epoch]).permutation(sequences)

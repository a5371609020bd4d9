"""Batches of a budget: every one of the U unique tokens is a target exactly once an epoch; only of the last epoch may
a batch that would not be whole stay out.

The budget is cut into sequences of L targets; the input that precedes a sequence's first target is the token
before it, and before the very first token stands the end-of-document token. Epochs reshuffle the sequences by
(seed, epoch) and follow one another without a gap, so that a batch depends on (seed, step) alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def windows(ids: NDArray[np.integer], length: int, eod: int, rows: Ids) -> Ids:
    """Sequences for next-token prediction, each with the token before its first target.

    Only these tokens are read, so that a budget larger than any memory may lie in a file.

    Args:
        ids: token ids, shape (tokens,), of which whole sequences are cut; the tail belongs to none.
        length: targets a sequence.
        eod: the id that stands before the first token.
        rows: which sequences, each below tokens // length.

    Returns:
        shape (len(rows), length + 1): inputs are all but the last column, targets all but the first.
    """
    places = (rows * length - 1)[:, None] + np.arange(length + 1)
    read: Ids = ids[places].astype(np.int64)  # at place -1 stands what is replaced now
    read[rows == 0, 0] = eod
    return read


def on_device(sequences: Ids, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, each [sequences, length], of windows; a GPU fetches them while the host goes on."""
    read = torch.from_numpy(sequences)
    if device.type == "cuda":
        read = read.pin_memory().to(device, non_blocking=True)
    return read[:, :-1], read[:, 1:]


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

"""Held-out loss: the sum of token losses over the number of tokens, over the whole split.

Not a mean of batch means, and no token left out: the tail shorter than a sequence is filled up, and what fills it is
not counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsedc.train.batches import on_device, windows
from sparsedc.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class HeldOut:
    """Held-out loss in nats per token, its standard error over documents, and the number of tokens."""

    loss: float
    standard_error: float
    tokens: int


def token_losses(
    of_batch: Callable[[Tensor, Tensor], Tensor],
    ids: NDArray[np.unsignedinteger],
    sequence_length: int,
    eod: int,
    batch_sequences: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> NDArray[np.float32]:
    """Loss of every token in turn, in nats, shape (tokens,).

    Each sequence of `sequence_length` targets is predicted on its own, as in training: a token sees at most
    that many tokens before it.

    Args:
        of_batch: loss of every token of inputs and targets, int64 [batch_sequences, sequence_length] always: what is
            missing from the last batch is filled with tokens whose losses are dropped.
        ranks: that share the batches, as many for each, since a sharded model's are the work of all.
    """
    batches = -(-len(ids) // (batch_sequences * sequence_length * ranks.size)) * ranks.size
    filled = np.full(batches * batch_sequences * sequence_length, eod, dtype=np.int32)
    filled[: len(ids)] = ids
    losses = torch.zeros(batches * batch_sequences, sequence_length, device=device)
    for batch in range(ranks.rank, batches, ranks.size):
        rows = np.arange(batch * batch_sequences, (batch + 1) * batch_sequences)
        losses[rows[0] : rows[-1] + 1] = of_batch(*on_device(windows(filled, sequence_length, eod, rows), device))
    ranks.sum(losses)
    return losses.flatten()[: len(ids)].cpu().numpy()


def held_out(losses: NDArray[np.float32], document: NDArray[np.integer]) -> HeldOut:
    """Reduce token losses to the mean over tokens, with its standard error over documents.

    The mean is a ratio of sums over documents, S_j nats in n_j tokens; tokens of one document are not
    independent, so that documents are the sampling unit (ratio estimator, Cochran 1977, §6.4).

    Args:
        losses: nats, shape (tokens,).
        document: index of each token's document, shape (tokens,).
    """
    sums = np.bincount(document, weights=losses.astype(np.float64))
    counts = np.bincount(document)
    tokens, documents = int(counts.sum()), int((counts > 0).sum())
    mean = float(sums.sum() / tokens)
    if documents < 2:
        return HeldOut(mean, math.nan, tokens)
    residuals = sums - mean * counts
    error = math.sqrt(float(residuals @ residuals) * documents / (documents - 1)) / tokens
    return HeldOut(mean, error, tokens)

"""Held-out loss: the sum of token losses over the number of tokens, over the whole split.

Not a mean of batch means, and no token left out: the tail shorter than a sequence is evaluated as a shorter one.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sparsedc.train.batches import windows


@dataclass(frozen=True)
class HeldOut:
    """Held-out loss in nats per token, its standard error over documents, and the number of tokens."""

    loss: float
    standard_error: float
    tokens: int


def token_losses(
    model: torch.nn.Module,
    ids: NDArray[np.unsignedinteger],
    sequence_length: int,
    eod: int,
    batch_sequences: int,
    autocast: torch.dtype | None,
) -> NDArray[np.float32]:
    """Loss of every token in turn, in nats, shape (tokens,).

    Each sequence of `sequence_length` targets is predicted on its own, as in training: a token sees at most
    that many tokens before it. `autocast` is the dtype of the forward pass's matrix products, None for fp32.
    """
    device = next(model.parameters()).device
    inputs, targets = windows(ids, sequence_length, eod)
    pieces = [
        (inputs[i : i + batch_sequences], targets[i : i + batch_sequences])
        for i in range(0, len(inputs), batch_sequences)
    ]
    tail = np.asarray(ids[targets.size :], dtype=np.int64)
    if len(tail):
        before = ids[targets.size - 1] if targets.size else eod
        pieces.append((np.concatenate([[before], tail[:-1]])[None], tail[None]))
    was_training = model.training
    model.eval()
    losses = []
    with torch.inference_mode(), torch.autocast(device.type, autocast, enabled=autocast is not None):
        for x, y in pieces:
            logits = model(torch.from_numpy(x).to(device)).logits
            flat = functional.cross_entropy(
                logits.flatten(0, 1).float(), torch.from_numpy(y).to(device).flatten(), reduction="none"
            )
            losses.append(flat)
    model.train(was_training)
    return torch.cat(losses).cpu().numpy()


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

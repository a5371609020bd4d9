"""Held-out loss against brute force: one token at a time, one document at a time."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from sparsedc.config import Shape
from sparsedc.evaluate import held_out, token_losses
from sparsedc.model import build_model
from sparsedc.train.step import Loss


@pytest.mark.parametrize("count", [1, 5, 16, 33, 70])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_loss_is_the_mean_over_every_token(count, batch):
    """Also at lengths that no sequence divides, where batch means would differ from the token mean."""
    model = build_model(Shape(width=16, depth=2, heads=2, ffn=32), 50, 16, init_std=0.3, seed=0)
    ids = np.random.default_rng(count).integers(1, 50, count).astype(np.uint16)
    shapes = set()

    def of_batch(inputs, targets):
        shapes.add(inputs.shape)
        with torch.no_grad():
            return Loss(model, compiled=False).of_tokens(inputs, targets)

    losses = token_losses(of_batch, ids, 16, eod=0, batch_sequences=batch, device=torch.device("cpu"))
    assert shapes == {(batch, 16)}  # others would be compiled anew

    expected = []
    for place in range(count):
        start = place // 16 * 16  # a token sees its own sequence, and the token before that
        context = [0 if k < 0 else int(ids[k]) for k in range(start - 1, place)]
        with torch.no_grad():
            logits = model(torch.tensor([context])).logits[0, -1]
        expected.append(functional.cross_entropy(logits, torch.tensor(int(ids[place]))).item())
    assert losses.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert held_out(losses, np.arange(count)).loss == pytest.approx(sum(expected) / count, rel=1e-5)


def test_standard_error_is_that_of_a_bootstrap_over_documents():
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 60, 300)
    means = rng.normal(4, 0.5, 300)
    losses = np.concatenate([rng.normal(mean, 1, size) for mean, size in zip(means, sizes, strict=True)])
    document = np.repeat(np.arange(300), sizes)
    result = held_out(losses.astype(np.float32), document)
    assert result.loss == pytest.approx(losses.mean(), rel=1e-6)
    assert result.tokens == sizes.sum()

    sums = np.bincount(document, weights=losses)
    draws = rng.integers(0, 300, (4000, 300))
    bootstrap = (sums[draws].sum(1) / sizes[draws].sum(1)).std()
    assert result.standard_error == pytest.approx(bootstrap, rel=0.08)


def test_one_document_has_no_standard_error():
    assert math.isnan(held_out(np.ones(4, dtype=np.float32), np.zeros(4, dtype=int)).standard_error)

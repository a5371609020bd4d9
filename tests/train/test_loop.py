"""A cell's training against a plain loop written from the definition, and what it must not depend on."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from sparsedc import model as models
from sparsedc.corpus.tokens import open_tokens
from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.train import loop
from sparsedc.train.checkpoint import exclusive
from sparsedc.train.loop import train_cell

CPU = torch.device("cpu")


@pytest.fixture
def train(token_folder, tmp_path):
    def run(spec, report=lambda trainer: None):
        tokens = [open_tokens(token_folder, split) for split in ("train", "validation")]
        return train_cell(spec, *tokens, tmp_path, CPU, report)

    return run


def numbers(metrics):
    """Everything that must not vary between two trainings of one cell."""
    timing = {"seconds", "tokens_per_second", "commit"}
    row = {key: value for key, value in metrics["row"].items() if key not in timing}
    return row, metrics["curve"], metrics["topology"], metrics["mask_hash"]


@pytest.mark.parametrize(("method", "density"), [("dense", 1.0), ("static", 0.25), ("set", 0.25), ("rigl", 0.25)])
def test_same_cell_trained_twice_is_identical(train, make_spec, method, density):
    spec = make_spec(method=method, density=density)
    first, second = train(spec), train(spec)
    assert numbers(first) == numbers(second)
    assert first["row"]["status"] == "ok"
    assert numbers(train(make_spec(method=method, density=density, seed=1))) != numbers(first)


@pytest.mark.parametrize(("method", "density"), [("dense", 1.0), ("static", 0.25), ("set", 0.25), ("rigl", 0.25)])
def test_cells_learn(train, make_spec, method, density):
    row = train(make_spec(method=method, density=density, epochs=6))["row"]
    assert row["train_loss"] < row["val_loss"] < math.log(96) - 0.5


def test_dense_cell_matches_a_plain_loop(train, make_spec, token_folder):
    """An ordinary PyTorch loop: torch's AdamW, batches and learning rates written out again."""
    spec = make_spec(weight_decay=0.1, grad_clip=0.5)
    metrics = train(spec)

    ids = np.fromfile(token_folder / "train.bin", dtype=np.uint16).astype(np.int64)
    sequences = [
        ([0 if k == 0 else ids[k - 1] for k in range(start, start + 32)], list(ids[start : start + 32]))
        for start in range(0, 2048, 32)
    ]
    order = [row for epoch in range(2) for row in np.random.default_rng([0, epoch]).permutation(64)]
    model = models.build_model(spec.shape, 96, 32, 0.02, seed=0)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    losses = []
    for step in range(1, 33):
        rate = step / 3 if step <= 3 else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 3) / 29))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * rate
        x, y = (torch.tensor([sequences[row][side] for row in order[4 * (step - 1) : 4 * step]]) for side in (0, 1))
        loss = functional.cross_entropy(model(x).logits.reshape(-1, 96), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    assert [point["train_loss"] for point in metrics["curve"]] == pytest.approx(losses, rel=1e-5)
    assert metrics["row"]["train_loss"] == pytest.approx(np.mean(losses[-3:]), rel=1e-5)


def test_density_one_through_the_sparse_path_is_dense(train, make_spec):
    """Masks of every weight must leave plain training as it is, to the bit."""
    dense = train(make_spec())
    spec = make_spec().model_copy(update={"method": "rigl"})
    assert spec.density == 1
    assert train(spec)["curve"] == dense["curve"]


@pytest.mark.parametrize("stop", [7, 19])
def test_resumed_cell_equals_an_uninterrupted_one(train, make_spec, tmp_path, monkeypatch, stop):
    spec = make_spec(method="rigl", density=0.5)
    whole = train(spec)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)

    def die(trainer):
        if trainer.step == stop + 1:
            raise KeyboardInterrupt  # as a kill would: the checkpoint of the step before is the last

    with pytest.raises(KeyboardInterrupt):
        train(spec, die)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == stop
    assert numbers(train(spec)) == numbers(whole)


def test_checkpoint_of_other_text_starts_over(train, make_spec, tmp_path, monkeypatch):
    """The spec, and so the folder, is the same where only the text has changed."""
    spec = make_spec()
    whole = train(spec)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)

    def die(trainer):
        if trainer.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, die)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    state["identity"]["train"] = "0" * 64
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.warns(SparsedcWarning, match="other tokens"):
        assert numbers(train(spec)) == numbers(whole)


def test_damaged_checkpoint_starts_over(train, make_spec, tmp_path):
    spec = make_spec()
    whole = train(spec)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK damaged")
    with pytest.warns(SparsedcWarning, match="starts over"):
        assert numbers(train(spec)) == numbers(whole)


def test_one_trainer_a_cell(tmp_path):
    with exclusive(tmp_path), pytest.raises(InputError, match="another process"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


@pytest.mark.parametrize("changes", [{}, {"method": "rigl", "density": 0.5}])
def test_divergence_ends_the_cell_with_a_row(train, make_spec, changes):
    metrics = train(make_spec(lr=1e30, warmup_fraction=0.0, grad_clip=1e30, **changes))
    row = metrics["row"]
    assert row["status"] == "diverged"
    assert row["val_loss"] is None
    assert row["train_loss"] is None
    assert row["steps"] < 32
    json.dumps(metrics, allow_nan=False)


def test_counts_of_the_row_are_those_of_the_model(train, make_spec):
    row = train(make_spec(method="set", density=0.25))["row"]
    model = models.build_model(make_spec().shape, 96, 32, 0.02, seed=0)
    total = sum(p.numel() for p in model.parameters())
    maskable = 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert row["params_total"] == total
    assert row["params_maskable"] == maskable
    assert row["params_active"] == total - maskable + maskable // 4
    assert row["tokens"] == 2 * 2048
    assert row["steps"] == 32


def test_topology_log_counts_what_was_replaced(train, make_spec):
    topology = train(make_spec(method="set", density=0.25))["topology"]
    assert len(topology) == 8
    fractions = [update["drop_fraction"] for update in topology]
    assert fractions == sorted(fractions, reverse=True)
    active = 2 * (4 * 32 * 32 + 3 * 32 * 64) // 4
    for update in topology:
        assert 0 < update["replaced"] <= update["drop_fraction"] * active
    assert train(make_spec(method="static", density=0.25))["topology"] == []


def test_maskable_lr_moves_only_the_maskable_matrices(make_spec):
    trainer = loop.Trainer.start(make_spec(maskable_lr=1e-30, weight_decay=0.0), CPU)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    ids = torch.arange(128).reshape(4, 32) % 96
    trainer.take_step(ids, ids)
    maskable = models.maskable_shapes(trainer.spec.shape)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in maskable)


def test_vocabulary_of_the_tokens_must_fit(train, make_spec):
    with pytest.raises(InputError, match=r"vocab_size = 95.*vocabulary of 96"):
        train(make_spec(vocab_size=95))


def test_budget_must_fit(train, make_spec):
    with pytest.raises(InputError, match=r"4,?096"):
        train(make_spec(unique_tokens=8192))

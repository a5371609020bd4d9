"""A cell's training against a plain loop written from the definition, and what it must not depend on."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from sparsedc import model as models
from sparsedc.corpus.tokens import open_tokens
from sparsedc.errors import InputError
from sparsedc.train import loop
from sparsedc.train.cell import find_device, run_cell
from sparsedc.train.loop import train_cell
from sparsedc.train.trainer import Trainer

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


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
    return row, *(metrics[key] for key in ("curve", "topology", "around_updates", "mask_hash"))


#: What is told of a sparse cell; rigl-acc looks at five steps' gradients, so updates must lie as far apart.
CELLS = {
    "dense": {},
    **{method: {"density": 0.25} for method in ("static", "set", "set-soft", "rigl", "rigl-soft", "momentum", "smet")},
    "rigl-acc": {"density": 0.25, "topology_interval": 6},
    "gmp": {"density": 0.25, "initial_density": 1.0},
}


@pytest.fixture
def cell(make_spec):
    def make(method, **changes):
        spec = make_spec(method=method, **CELLS[method] | changes)
        spec.check()
        return spec

    return make


@pytest.mark.parametrize("method", ["dense", "static", "set-soft", "rigl-acc"])
def test_same_cell_trained_twice_is_identical(train, cell, method):
    first, second = train(cell(method)), train(cell(method))
    assert numbers(first) == numbers(second)
    assert first["row"]["status"] == "ok"
    assert numbers(train(cell(method, seed=1))) != numbers(first)


@pytest.mark.parametrize("method", CELLS)
def test_cells_learn(train, cell, method):
    row = train(cell(method, epochs=6))["row"]
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


@pytest.mark.parametrize(("method", "block"), [("static", (1, 1)), ("rigl", (1, 4)), ("set", (2, 2))])
def test_density_one_through_the_sparse_path_is_dense(train, make_spec, method, block):
    """Masks of every weight leave plain training as it is: but for the norm that gradients are clipped by, which is
    summed in another order, to the bit."""
    dense = train(make_spec(grad_clip=1e9, weight_decay=0.1, block=block))
    spec = make_spec(grad_clip=1e9, weight_decay=0.1, block=block).model_copy(update={"method": method})
    assert spec.density == 1
    assert train(spec)["curve"] == dense["curve"]
    clipped = make_spec(grad_clip=0.1).model_copy(update={"method": method})
    losses = [[point["train_loss"] for point in train(s)["curve"]] for s in (clipped, make_spec(grad_clip=0.1))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("rigl", {}),
        ("rigl-acc", {"newborn": "compounding", "ramp_steps": 5}),
        ("momentum", {"initial_density": 0.75, "block": (1, 4)}),
        ("smet", {"newborn": "linear", "ramp_steps": 5, "block": (2, 2)}),
        ("gmp", {}),
    ],
)
@pytest.mark.parametrize("stop", [10, 18])  # in a window of rigl-acc, whose updates are at 6, 12, …; at an update
def test_resumed_cell_equals_an_uninterrupted_one(train, cell, tmp_path, monkeypatch, method, changes, stop):
    spec = cell(method, **changes)
    whole = train(spec)
    assert len(whole["topology"]["updates"]) > 3
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)

    def die(trainer):
        if trainer.step == stop + 1:
            raise KeyboardInterrupt  # as a kill would: the checkpoint of the step before is the last

    with pytest.raises(KeyboardInterrupt):
        train(spec, die)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"checkpoint-{step:09d}.safetensors" for step in (stop - 1, stop)
    ]
    resumed = train(spec)
    assert numbers(resumed) == numbers(whole)
    assert [point["step"] for point in resumed["pace"]] == list(range(stop + 1, 33))  # of this attempt
    seconds = [point["seconds"] for point in resumed["pace"]]
    assert seconds == sorted(seconds)
    assert seconds[-1] == resumed["row"]["seconds"]


@pytest.mark.parametrize("method", CELLS)
def test_divergence_ends_the_cell_with_a_row(train, cell, method):
    metrics = train(cell(method, lr=1e30, warmup_fraction=0.0, grad_clip=1e30))
    row = metrics["row"]
    assert row["status"] == "diverged"
    assert row["val_loss"] is None
    assert row["train_loss"] is None
    assert row["steps"] < 32
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize(("documents", "enough"), [(2, True), (1, False)])
def test_one_held_out_document_is_refused_before_training(token_folder, tmp_path, cell, documents, enough):
    train, held_out = (open_tokens(token_folder, split) for split in ("train", "validation"))
    few = replace(held_out, ids=held_out.ids[: held_out.document_starts()[documents]])
    if enough:
        json.dumps(train_cell(cell("dense"), train, few, tmp_path, CPU, lambda _: None), allow_nan=False)
    else:
        with pytest.raises(InputError, match="validation = 1 document"):
            train_cell(cell("dense"), train, few, tmp_path, CPU, lambda _: pytest.fail("it has trained"))


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


def test_topology_log_counts_what_was_replaced(train, cell):
    metrics = train(cell("set"))
    topology, names = metrics["topology"], sorted(models.maskable_shapes(cell("set").shape))
    assert topology["layers"] == names
    assert topology["blocks"] == [math.prod(models.maskable_shapes(cell("set").shape)[name]) for name in names]
    updates = topology["updates"]
    assert [update["step"] for update in updates] == [3, 6, 9, 12, 15, 18, 21, 24]
    fractions = [update["drop_fraction"] for update in updates]
    assert fractions == sorted(fractions, reverse=True)
    for update in updates:
        assert update["active"] == [blocks // 4 for blocks in topology["blocks"]]
        assert 0 < sum(update["replaced"]) <= round(update["drop_fraction"] * sum(update["active"]))
        assert update["ages"] == sorted(update["ages"])
        assert update["ages"][-1] == update["step"]  # some have been there from the start
    assert updates[0]["ages"] == [3] * 5
    explored = [update["explored"] for update in updates]
    assert 0.25 < explored[0] < explored[-1] <= 1
    assert explored == sorted(explored)
    assert 1 > updates[0]["overlap"] > updates[-1]["overlap"] > 0
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize("method", ["dense", "static"])
def test_without_updates_there_is_no_topology_log(train, cell, method):
    metrics = train(cell(method))
    assert metrics["topology"] is metrics["around_updates"] is None


@pytest.mark.parametrize(("method", "block"), [("gmp", (1, 1)), ("rigl", (2, 2))])
def test_mean_of_active_parameters_follows_a_falling_density(train, cell, method, block):
    """Summed step by step from the log: what an update leaves is trained from the step after it."""
    metrics = train(cell(method, initial_density=0.75, block=block, topology_stop=0.9))
    row, updates = metrics["row"], metrics["topology"]["updates"]
    shapes = models.maskable_shapes(cell(method).shape)
    area, rest = block[0] * block[1], row["params_total"] - row["params_maskable"]
    first = round(0.75 * sum(rows * columns for rows, columns in shapes.values()) / area)
    active = []
    for step in range(1, row["steps"] + 1):
        past = [sum(update["active"]) for update in updates if update["step"] < step]
        active.append(area * (past[-1] if past else first))
    assert row["params_active_mean"] == pytest.approx(rest + np.mean(active), rel=1e-12)
    assert row["params_active"] == rest + active[-1] == rest + row["params_maskable"] // 4
    assert row["params_active_mean"] > row["params_active"]
    assert active == sorted(active, reverse=True)


def test_losses_around_updates_are_means_over_them(train, cell):
    metrics = train(cell("rigl"))
    losses = [point["train_loss"] for point in metrics["curve"]]  # one a step: the cell has 32
    assert len(losses) == 32
    around, steps = metrics["around_updates"], [update["step"] for update in metrics["topology"]["updates"]]
    assert around["offset"] == list(range(-8, 33))
    for offset, found in zip(around["offset"], around["loss"], strict=True):
        terms = []
        for step in steps:
            if step - 8 >= 1 and step + offset <= 32:  # an update too early has no nine steps before it
                base = sum(losses[step - 1 - back] for back in range(9)) / 9
                terms.append(losses[step - 1 + offset] - base)
        assert found == (pytest.approx(sum(terms) / len(terms), abs=1e-9) if terms else None)
    assert around["loss"][-1] is None
    assert around["ratio_offset"] == list(range(1, 17))


def test_update_ratios_are_those_of_the_weights_themselves(cell):
    """From the master weights before and after each step: of those born at the last update, over the older ones."""
    spec = cell("smet", newborn="linear", ramp_steps=4, weight_decay=0.0, topology_interval=6, topology_stop=0.4)
    trainer = Trainer.start(spec, CPU)
    total, count = np.zeros(16), np.zeros(16)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 33):
        before, age = trainer.engine.optimizer.master.clone().double(), trainer.engine.optimizer.age.clone()
        inputs, targets = (torch.randint(96, (4, 32), generator=generator) for _ in range(2))
        last = trainer.updates[-1].step if trainer.updates else None
        hook = trainer.engine.update_topology
        after = []

        def then(hook=hook, after=after):
            after.append(trainer.engine.optimizer.master.clone().double())
            return hook()

        trainer.engine.update_topology = then
        trainer.take_step(inputs, targets)
        trainer.engine.update_topology = hook
        if last is not None and step - last <= 16:
            moved = (after[0] - before).squeeze(1)
            new, old = moved[age == step - 1 - last], moved[age > step - 1 - last]
            total[step - last - 1] += new.square().mean().sqrt() / old.square().mean().sqrt()
            count[step - last - 1] += 1
    assert [update.step for update in trainer.updates] == [6, 12]
    assert trainer.ratios[1].tolist() == count.tolist() == [2] * 6 + [1] * 10
    assert trainer.ratios[0].tolist() == pytest.approx(total.tolist(), rel=2e-3)


def test_maskable_lr_moves_only_the_maskable_matrices(make_spec):
    trainer = Trainer.start(make_spec(maskable_lr=1e-30, weight_decay=0.0), CPU)
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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu), pytest.param(None, marks=needs_gpu)])
def test_a_cell_from_its_files_to_its_metrics(device, cell, write_spec, token_folder, tmp_path):
    path, out = write_spec(cell("rigl")), tmp_path / "out"
    run_cell(path, out / "metrics.json", tokens=token_folder, work=tmp_path / "work", device=device)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["row"]["status"] == "ok"
    assert metrics["row"]["val_loss"] < math.log(96)
    assert metrics["held_out_tokens"] == 1000
    assert metrics["row"]["device"].startswith("cpu" if device == "cpu" else "NVIDIA")


@pytest.mark.parametrize("visible", ["1", "0,1", "GPU-8f1c"])
def test_a_gpu_that_is_named_and_not_found_is_no_reason_to_train_on_the_cpu(visible, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(InputError, match=f"CUDA_VISIBLE_DEVICES = {visible}: names a GPU.*--device cpu"):
        find_device(None)
    assert find_device("cpu") == CPU
    for none in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert find_device(None) == CPU
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert find_device(None) == CPU

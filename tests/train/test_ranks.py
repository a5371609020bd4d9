"""Several processes, started by a real torchrun, train what one does."""

import json
import re
import subprocess
import sys

import pytest
import torch

from sparsedc.train import memory, shards
from sparsedc.train.cell import run_cell
from sparsedc.train.ranks import Ranks
from sparsedc.train.trainer import Trainer

TRAIN = "from sparsedc.cli import main; main()"
INTERRUPTED = """
import os
from sparsedc.train import loop
from sparsedc.cli import main
loop.CHECKPOINT_SECONDS = 0.0
take = loop.Trainer.take_step
def stop(trainer, *batch):
    if trainer.step == 17:
        os._exit(9)
    take(trainer, *batch)
loop.Trainer.take_step = stop
main()
"""

# What goes before a program, so that its dense cells are sharded, in micro-batches of one sequence; every rank says
# after each step how many bytes of weights and moments it holds.
SHARDED = """
import sys
from sparsedc.train import memory, step, trainer
memory.capacity = lambda device: 0
step.MICRO_BATCH_TOKENS = 32
def held(self, *batch, take=trainer.Trainer.take_step):
    take(self, *batch)
    moments = [one[key] for one in self.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    parts = [tensor.to_local().untyped_storage() for tensor in (*self.model.parameters(), *moments)]
    sys.stderr.write(f"[step {self.step}: {sum(part.nbytes() for part in parts)} bytes]\\n")
trainer.Trainer.take_step = held
"""
# The same with blocks compiled, as on a GPU, where the head has kernels of its own.
COMPILED = f"""
import torch
from functools import partial, partialmethod
from types import SimpleNamespace
{SHARDED}
step.LinearCrossEntropy = SimpleNamespace(apply=step.plain_cross_entropy)
step.linear_cross_entropies = partial(step.plain_cross_entropy, reduction="none")
torch.nn.Module.compile = partialmethod(torch.nn.Module.compile, backend="aot_eager")
trainer.Loss = lambda model, compiled: step.Loss(model, compiled=True)
"""
OUT_OF_MEMORY = f"""
import os, torch
{SHARDED}
def short(layer, *args, forward=torch.nn.Embedding.forward):
    if os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("made up")
    return forward(layer, *args)
torch.nn.Embedding.forward = short
{TRAIN}
"""


@pytest.fixture
def run(write_spec, token_folder, tmp_path):
    """Train a cell by `ranks` processes; returns torchrun's result and the metrics, if there are any."""

    def run(spec, ranks, program=TRAIN, work="work"):
        metrics = tmp_path / f"out{ranks}" / "metrics.json"
        command = [sys.executable, "-c", program]
        if ranks > 1:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            command = [*launcher, "--no-python", *command]
        command += ["train", write_spec(spec), metrics, "--tokens", token_folder, "--work", tmp_path / work]
        ended = subprocess.run([*map(str, command), "--device", "cpu"], capture_output=True, text=True)
        return ended, json.loads(metrics.read_text()) if metrics.exists() else None

    return run


@pytest.fixture
def run_alone(write_spec, token_folder, tmp_path):
    """Train a cell in this process, which has imported torch; returns its metrics."""

    def run(spec, work="alone"):
        metrics = tmp_path / f"out-{work}" / "metrics.json"
        run_cell(write_spec(spec), metrics, tokens=token_folder, work=tmp_path / work, device="cpu")
        return json.loads(metrics.read_text())

    return run


@pytest.mark.parametrize(
    ("method", "changes"),
    [("dense", {}), ("rigl", {"density": 0.25}), ("momentum", {"density": 0.25, "block": (2, 2)})],
)
def test_ranks_train_what_one_process_does(run, run_alone, make_spec, method, changes):
    spec = make_spec(method=method, **changes)
    alone, (ended, together) = run_alone(spec), run(spec, 2)
    assert together is not None, ended.stderr
    assert (alone["ranks"], together["ranks"]) == (1, 2)
    assert together["row"]["val_loss"] == pytest.approx(alone["row"]["val_loss"], rel=1e-4)
    ours, theirs = ([point["train_loss"] for point in metrics["curve"]] for metrics in (together, alone))
    assert ours == pytest.approx(theirs, rel=1e-4)
    if method == "dense":
        assert together["topology"] is None
    else:
        assert [u["active"] for u in together["topology"]["updates"]] == [
            u["active"] for u in alone["topology"]["updates"]
        ]
    assert ended.stderr.count("held-out loss") == 1  # one of them speaks


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("method", ["rigl", "rigl-acc"])
def test_memory_that_ends_on_one_rank_in_the_backward_pass(run, run_alone, make_spec, method, together):
    """At a step whose dense gradients ranks average within that pass."""
    program = f"""
import os, torch
from sparsedc.sparsity import engine
from sparsedc.train import step
engine.TOGETHER = {2**28 if together else 0}
step.MICRO_BATCH_TOKENS = 32
def short(self, number, weight, take=engine.SparseEngine._take):
    if os.environ["RANK"] == "1" and self.looking and self._parts == 1 and number == 3:
        raise torch.OutOfMemoryError("made up")
    take(self, number, weight)
engine.SparseEngine._take = short
{TRAIN}
"""
    spec = make_spec(method=method, density=0.25, topology_updates=4)
    alone, (ended, together_) = run_alone(spec), run(spec, 2, program)
    assert together_ is not None, ended.stderr
    assert together_["micro_batches"] == 2
    assert together_["row"]["val_loss"] == pytest.approx(alone["row"]["val_loss"], rel=1e-4)


def test_ranks_whose_masks_differ_break_off(run, make_spec):
    program = f"""
import os
from sparsedc.sparsity.draws import Draws
of = Draws.of
def other(seed, purpose, step, *rest):
    if purpose == "grow" and step == 12 and os.environ["RANK"] == "1":
        purpose = "made up"
    return of(seed, purpose, step, *rest)
Draws.of = other
{TRAIN}
"""
    ended, metrics = run(make_spec(method="set", density=0.25, topology_interval=4), 2, program)
    assert metrics is None
    assert ended.returncode != 0
    assert "ranks differ in masks" in ended.stderr


def test_a_checkpoint_of_two_ranks_is_resumed_by_one(run, run_alone, make_spec, tmp_path):
    spec = make_spec(method="set", density=0.25)
    ended, metrics = run(spec, 2, INTERRUPTED)
    assert metrics is None
    assert ended.returncode != 0
    assert list((tmp_path / "work").glob("checkpoint-*.sha256"))
    resumed, straight = run_alone(spec, "work"), run_alone(spec)
    assert resumed["row"]["steps"] == straight["row"]["steps"] == 32
    assert resumed["row"]["val_loss"] == pytest.approx(straight["row"]["val_loss"], rel=1e-4)


def test_one_rank_that_is_asked_to_stop_stops_all(run, make_spec, tmp_path):
    """The other one has to hear of it, where both look: every fourth step."""
    program = f"""
import os, signal
from sparsedc.train import trainer
take = trainer.Trainer.take_step
def ask(self, *batch):
    if self.step == 9 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    take(self, *batch)
trainer.Trainer.take_step = ask
{TRAIN}
"""
    spec = make_spec(method="set", density=0.25, epochs=25)
    stopped, metrics = run(spec, 2, program)
    assert metrics is None
    assert stopped.returncode != 0
    assert (tmp_path / "work" / "checkpoint-000000012.sha256").exists()
    resumed, straight = run(spec, 2)[1], run(spec, 2, work="other")[1]
    assert resumed["row"]["val_loss"] == straight["row"]["val_loss"]


def test_a_batch_that_ranks_cannot_share_is_refused(run, make_spec):
    ended, metrics = run(make_spec(), 3)
    assert metrics is None
    assert "batch_tokens = 128: 4 sequences, which 3 ranks cannot share" in ended.stderr


def shares(ended, spec):
    """Of every step of every rank: its number, and the part of all weights and moments that the rank held."""
    found = re.findall(r"\[step (\d+): (\d+) bytes\]", ended.stderr)
    return [(int(step), int(size) / (12 * spec.counts.total)) for step, size in found]


@pytest.mark.parametrize(("ranks", "program"), [(2, SHARDED), (3, SHARDED), (2, COMPILED)])
def test_shards_train_what_one_process_does(run, run_alone, make_spec, ranks, program):
    spec = make_spec(batch_tokens=192)  # at 3 ranks, matrices of 32 rows are not shared evenly
    alone, (ended, together) = run_alone(spec), run(spec, ranks, program + TRAIN)
    assert together is not None, ended.stderr
    assert (alone["sharded"], together["sharded"]) == (False, True)
    assert (together["ranks"], together["micro_batches"]) == (ranks, 6 // ranks)
    assert together["row"]["val_loss"] == pytest.approx(alone["row"]["val_loss"], rel=1e-4)
    ours, theirs = ([point["train_loss"] for point in metrics["curve"]] for metrics in (together, alone))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert sorted(step for step, _ in shares(ended, spec)) == sorted([*range(1, spec.steps + 1)] * ranks)
    assert [share for _, share in shares(ended, spec)] == pytest.approx([1 / ranks] * ranks * spec.steps, rel=0.1)


def test_only_dense_cells_of_several_ranks_without_the_memory_are_sharded(make_spec, monkeypatch):
    device = torch.device("cpu")
    assert shards.fits(10**15, device)
    for bytes_, enough in ((320, True), (319, False)):
        monkeypatch.setattr(memory, "capacity", lambda device, bytes_=bytes_: bytes_)
        assert shards.fits(10, device) is enough
    for method, density, ranks in (("dense", 1.0, 1), ("rigl", 0.25, 2)):
        trainer = Trainer.start(make_spec(method=method, density=density), device, ranks=Ranks(0, ranks))
        assert not trainer.work.sharded


def test_shards_go_on_with_the_largest_parts_that_fit_on_all_ranks(run, run_alone, make_spec):
    spec = make_spec(batch_tokens=384)  # six sequences a rank
    roomy = f"""
import os
{SHARDED}
memory.room = lambda device: 2 + 3 * int(os.environ["RANK"])
"""
    alone, (ended, together) = run_alone(spec), run(spec, 2, roomy + TRAIN)
    assert together is not None, ended.stderr
    assert together["micro_batches"] == 3
    assert together["row"]["val_loss"] == pytest.approx(alone["row"]["val_loss"], rel=1e-4)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_a_checkpoint_fits_any_number_of_shards_and_a_whole_model(run, run_alone, make_spec, before, after):
    spec = make_spec(batch_tokens=192)
    programs = {1: "", 2: SHARDED, 3: SHARDED}
    stopped, _ = run(spec, before, programs[before] + INTERRUPTED)
    assert stopped.returncode != 0
    ended, resumed = run(spec, after, programs[after] + TRAIN)
    assert resumed is not None, ended.stderr
    assert "starts over" not in ended.stderr
    straight = run_alone(spec)
    assert resumed["row"]["val_loss"] == pytest.approx(straight["row"]["val_loss"], rel=1e-4)
    ours, theirs = ([point["train_loss"] for point in metrics["curve"]] for metrics in (resumed, straight))
    assert ours == pytest.approx(theirs, rel=1e-4)
    if after > 1:
        assert {step for step, _ in shares(ended, spec)} == set(range(18, spec.steps + 1))
        assert max(share for _, share in shares(ended, spec)) < 1.1 / after  # whole tensors do not stay


def test_shards_without_memory_end_with_one_error(run, make_spec):
    ended, metrics = run(make_spec(), 2, OUT_OF_MEMORY)
    assert metrics is None
    assert ended.returncode != 0
    assert ended.stderr.count("has not the memory to train one of 2 shards of this model") == 1

"""Several processes, started by a real torchrun, train what one does."""

import json
import subprocess
import sys

import pytest

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


@pytest.fixture
def run(write_spec, token_folder, tmp_path):
    """Train a cell by `ranks` processes; returns torchrun's result and the metrics, if there are any."""

    def run(spec, ranks, program=TRAIN, work="work"):
        path, out = write_spec(spec), tmp_path / f"out{ranks}"
        command = [sys.executable, "-c", program]
        if ranks > 1:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            command = [*launcher, "--no-python", *command]
        command += [
            "train",
            str(path),
            "--tokens",
            str(token_folder),
            "--out",
            str(out),
            "--work",
            str(tmp_path / work),
        ]
        ended = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, check=False, timeout=300)
        metrics = out / "metrics.json"
        return ended, json.loads(metrics.read_text()) if metrics.exists() else None

    return run


@pytest.mark.parametrize(
    ("method", "changes"),
    [("dense", {}), ("rigl", {"density": 0.25}), ("momentum", {"density": 0.25, "block": (2, 2)})],
)
def test_ranks_train_what_one_process_does(run, make_spec, method, changes):
    spec = make_spec(method=method, **changes)
    (_, alone), (ended, together) = run(spec, 1, work="work1"), run(spec, 2)
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


def test_a_checkpoint_of_two_ranks_is_resumed_by_one(run, make_spec, tmp_path):
    spec = make_spec(method="set", density=0.25)
    ended, metrics = run(spec, 2, INTERRUPTED)
    assert metrics is None
    assert ended.returncode != 0
    assert (tmp_path / "work" / "checkpoint.pt").exists()
    resumed, straight = run(spec, 1)[1], run(spec, 2, work="other")[1]
    assert resumed["row"]["steps"] == straight["row"]["steps"] == 32
    assert resumed["row"]["val_loss"] == pytest.approx(straight["row"]["val_loss"], rel=1e-4)


def test_a_batch_that_ranks_cannot_share_is_refused(run, make_spec):
    ended, metrics = run(make_spec(), 3)
    assert metrics is None
    assert "batch_tokens = 128: 4 sequences, which 3 ranks cannot share" in ended.stderr

"""What a killed training leaves, and what the next one makes of it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsedc.corpus.tokens import open_tokens
from sparsedc.errors import SparsedcWarning
from sparsedc.train import loop
from sparsedc.train.checkpoint import delete_checkpoints, load_checkpoint, save_checkpoint
from sparsedc.train.loop import train_cell

CPU = torch.device("cpu")
STATE = {
    "step": 3,
    "model": {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(7, dtype=torch.int64)},
    "engine": {"masks": {}, "bits": torch.tensor([1, 255], dtype=torch.uint8)},
    "losses": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
    "updates": [{"step": 1, "share": 0.1}],
}
IDENTITY = {"train": "abc"}


def files(work: Path) -> list[str]:
    return sorted(path.name for path in work.iterdir())


def assert_same(ours: object, theirs: object) -> None:
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    else:
        assert ours == theirs


@pytest.mark.parametrize("device", [CPU, None])
def test_a_state_comes_back_as_it_was(tmp_path: Path, device: torch.device | None) -> None:
    save_checkpoint(STATE, 3, IDENTITY, tmp_path)
    assert_same(load_checkpoint(tmp_path, device, IDENTITY), STATE)
    assert load_checkpoint(tmp_path / "elsewhere", device, IDENTITY) is None


def test_views_of_one_tensor_are_saved_as_what_they_show(tmp_path: Path) -> None:
    """As layers are, which share their memory, and transposed matrices."""
    whole = torch.arange(12.0)
    state = {"first": whole[:6].view(2, 3), "second": whole[6:].view(3, 2), "turned": whole.view(3, 4).T}
    save_checkpoint(state, 1, IDENTITY, tmp_path)
    assert_same(load_checkpoint(tmp_path, CPU, IDENTITY), state)


def test_the_last_two_generations_stay_with_checksums_that_sha256sum_reads(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-000000002.safetensors.partial").write_text("of a process that was killed")
    (tmp_path / "checkpoint-000000002.safetensors").write_text("of one killed before it had written the checksum")
    for step in (9, 10, 11):
        save_checkpoint({**STATE, "step": step}, step, IDENTITY, tmp_path)
    names = [f"checkpoint-0000000{step}" for step in (10, 11)]
    assert files(tmp_path) == [f"{name}.{suffix}" for name in names for suffix in ("safetensors", "sha256")]
    for name in names:
        subprocess.run(["sha256sum", "--check", "--status", f"{name}.sha256"], cwd=tmp_path, check=True)
    delete_checkpoints(tmp_path)
    assert files(tmp_path) == []


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, Path.unlink])
def test_a_damaged_generation_gives_way_to_the_one_before(tmp_path: Path, damage) -> None:
    for step in (10, 20):
        save_checkpoint({**STATE, "step": step}, step, IDENTITY, tmp_path)
    damage(tmp_path / "checkpoint-000000020.safetensors")
    with pytest.warns(SparsedcWarning, match="20.safetensors cannot be read .* goes on from the checkpoint before it"):
        state = load_checkpoint(tmp_path, CPU, IDENTITY)
    assert state is not None
    assert state["step"] == 10
    save_checkpoint({**STATE, "step": 15}, 15, IDENTITY, tmp_path)  # and the damaged one is no later one any more
    state = load_checkpoint(tmp_path, CPU, IDENTITY)
    assert state is not None
    assert state["step"] == 15
    damage(tmp_path / "checkpoint-000000015.safetensors")
    damage(tmp_path / "checkpoint-000000010.safetensors")
    with pytest.warns(SparsedcWarning) as warned:
        assert load_checkpoint(tmp_path, CPU, IDENTITY) is None
    assert ["starts over" in str(warning.message) for warning in warned] == [False, True]


def test_a_damaged_checksum_counts_as_damage(tmp_path: Path) -> None:
    save_checkpoint(STATE, 3, IDENTITY, tmp_path)
    empty(tmp_path / "checkpoint-000000003.sha256")
    with pytest.warns(SparsedcWarning, match="its checksum is another"):
        assert load_checkpoint(tmp_path, CPU, IDENTITY) is None


def test_what_cannot_be_written_is_told_and_leaves_the_generation_before(tmp_path: Path) -> None:
    save_checkpoint(STATE, 3, IDENTITY, tmp_path)
    (tmp_path / ".checkpoint-000000004.safetensors.partial").mkdir()
    with pytest.warns(SparsedcWarning, match="could not be written .* training goes on without it"):
        save_checkpoint(STATE, 4, IDENTITY, tmp_path)
    assert_same(load_checkpoint(tmp_path, CPU, IDENTITY), STATE)


def test_a_state_of_other_text_is_not_resumed(token_folder, make_spec, tmp_path, monkeypatch) -> None:
    """The spec, and so the folder, is the same where only the text has changed."""
    train, held_out = (open_tokens(token_folder, split) for split in ("train", "validation"))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)

    def die(trainer):
        if trainer.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cell(make_spec(), train, held_out, tmp_path, CPU, die)
    other = replace(train, sha256=hashlib.sha256(b"other text").hexdigest())
    steps = []
    with pytest.warns(SparsedcWarning, match="is of another cell, other tokens"):
        train_cell(make_spec(), other, held_out, tmp_path, CPU, lambda trainer: steps.append(trainer.step))
    assert steps[0] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cell_that_is_asked_to_stop_goes_on_where_it_was(token_folder, make_spec, tmp_path, number) -> None:
    tokens = [open_tokens(token_folder, split) for split in ("train", "validation")]
    spec = make_spec(epochs=25)  # looks every fourth step
    whole = train_cell(spec, *tokens, tmp_path / "straight", CPU, lambda trainer: None)
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]

    def ask(trainer):
        assert trainer.step <= 8, "nobody listens any more"
        if trainer.step == 8:
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as ended:
        train_cell(spec, *tokens, tmp_path / "stopped", CPU, ask)
    assert ended.value.code == 128 + number
    assert "checkpoint-000000009.sha256" in files(tmp_path / "stopped")
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    steps = []
    resumed = train_cell(spec, *tokens, tmp_path / "stopped", CPU, lambda trainer: steps.append(trainer.step))
    assert steps[:2] == [10, 12]
    assert whole is not None
    assert resumed is not None
    assert resumed["curve"] == whole["curve"]
    assert resumed["row"]["val_loss"] == whole["row"]["val_loss"]


# Has each attempt at a cell in a fork, whose start is quick, and kills it at a moment of its own; attempts that get no
# further are let live a little longer. Prints how many were killed, and at how many different steps.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from sparsedc.train import loop
from sparsedc.train.cell import run_cell

spec, tokens, out, work, kills = *map(Path, sys.argv[1:5]), int(sys.argv[5])
loop.CHECKPOINT_SECONDS = -1.0
last, patience, steps = None, 0.05, set()
draw = random.Random(0)
for _ in range(kills):
    child = os.fork()
    if not child:
        run_cell(spec, out / "metrics.json", tokens=tokens, work=work, device="cpu")
        os._exit(0)
    time.sleep(draw.uniform(0, 2 * patience))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (out / "metrics.json").exists(), "finished before its time"
    now = max((path.name for path in work.glob("checkpoint-*.sha256")), default=None)
    patience *= 1.08 if now == last else 0.75
    steps.add(now)
    last = now
print(len(steps))
run_cell(spec, out / "metrics.json", tokens=tokens, work=work, device="cpu")
"""


@pytest.mark.parametrize(
    ("method", "factors"), [("dense", {}), ("rigl-acc", {"density": 0.25, "topology_updates": 40})]
)
def test_a_hundred_kills_change_nothing(method, factors, make_spec, write_spec, token_folder, tmp_path: Path) -> None:
    path = write_spec(make_spec(method=method, epochs=25, **factors))  # 400 steps, a checkpoint every fourth
    results = []
    for name, kills in (("killed", 100), ("straight", 0)):
        out, work = tmp_path / name, tmp_path / f"work-{name}"
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, path, token_folder, out, work, str(kills)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        if kills:
            assert int(ended.stdout) > 10  # steps at which it was, when killed
        assert "cannot be read" not in ended.stderr
        assert files(work) == ["lock", "metrics.json"]
        results.append(json.loads((out / "metrics.json").read_text()))
    for metrics in results:
        del metrics["finished"], metrics["pace"], metrics["row"]["seconds"], metrics["row"]["tokens_per_second"]
    assert results[0] == results[1]


# The same with kills at given steps, where a start takes long.
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from sparsedc.train import cell, loop

spec, tokens, out, work, deterministic, *kills = sys.argv[1:]
loop.CHECKPOINT_SECONDS = -1.0
for kill in (*map(int, kills), None):
    child = os.fork()
    if not child:
        def report(self, trainer):
            if kill is not None and trainer.step >= kill:
                os.kill(os.getpid(), signal.SIGKILL)
        cell._Reporter.__call__ = report
        cell.run_cell(
            Path(spec), Path(out), tokens=Path(tokens), work=Path(work), device="cuda",
            deterministic=bool(int(deterministic)),
        )
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if kill is None else -signal.SIGKILL)
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("method", "factors", "deterministic"),
    [
        ("dense", {}, 0),
        ("rigl-acc", {"density": 0.25, "topology_updates": 40}, 0),
        ("rigl-acc", {"density": 0.25, "topology_updates": 40}, 1),
    ],
)
def test_kills_on_a_gpu_change_nothing(
    method, factors, deterministic, make_spec, write_spec, token_folder, tmp_path: Path
) -> None:
    path = write_spec(make_spec(method=method, epochs=25, **factors))
    results = []
    for name, kills in (("killed", ["90", "230"]), ("straight", [])):
        out = tmp_path / f"{name}.json"
        subprocess.run(
            [sys.executable, "-c", KILLED_AT, path, token_folder, out, tmp_path / name, str(deterministic), *kills],
            check=True,
        )
        results.append(json.loads(out.read_text()))
    killed, straight = results
    assert killed["curve"] == straight["curve"]
    assert killed["mask_hash"] == straight["mask_hash"]
    assert killed["row"]["val_loss"] == straight["row"]["val_loss"]

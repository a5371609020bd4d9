"""A disk that is full or read-only: a clear error or a right result, nothing half-written, and the next run goes on.

The disk is a file system of a few megabytes in a file.
"""

import json
import os
import shutil
import subprocess
from contextlib import suppress

import pytest

from sparsedc.errors import SparsedcWarning
from sparsedc.train import loop
from sparsedc.train.cell import run_cell
from workflows import new_folder, planned, snakemake, write_study

FULL = "No space left on device"
STUDY = {
    "name": "micro",
    "corpus": {"source": "installed", "packages": ["typer"], "validation_fraction": 0.1},
    "tokenizer": {"vocab_size": 400},
    "sequence_length": 64,
    "training": {"batch_tokens": 512},
    "grid": [{"sizes": ["13k"], "densities": [1], "unique_tokens": [4096], "epochs": [1]}],
}


class Disk:
    """A mounted file system, and a file that fills it."""

    def __init__(self, path, image):
        self.path, self.image, self.filler = path, image, path / "filler"

    def mount(self):
        subprocess.run(["truncate", "--size", "8M", self.image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", self.image], check=True)
        return subprocess.run(["mount", "-o", "loop", self.image, self.path], capture_output=True, text=True)

    def fill(self, leave=0):
        """Leave about so many bytes."""
        with self.filler.open("wb", buffering=0) as file:
            with suppress(OSError):
                while True:
                    file.write(b"x" * 1024)
            file.truncate(file.tell() - leave)
            os.fsync(file.fileno())

    def free(self):
        self.filler.unlink()

    def read_only(self):
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)


@pytest.fixture
def disk(tmp_path):
    if os.getuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("mounts a file system, as root")
    disk = Disk(tmp_path / "results", tmp_path / "image")
    disk.path.mkdir()
    mounted = disk.mount()
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr}")
    yield disk
    subprocess.run(["umount", "--lazy", disk.path], check=True)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_workflow_on_a_disk_that_fills(disk, tmp_path):
    """While tokens are written; then there is room, and then it is read-only."""
    folder = new_folder(tmp_path)
    write_study(folder, STUDY)
    table = "results/micro/runs.csv"
    snakemake(folder, table, "--until", "tokenizer")
    before = files(disk.path)
    disk.fill(leave=16 * 1024)
    result = snakemake(folder, table, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    error, again = [line for line in result.stderr.splitlines() if line.startswith("error:")]  # and at the run's end
    assert error == again
    assert error.endswith(f"/tokens: {FULL}")
    assert {name for name in files(disk.path) - before if "/corpus/" in name and not name.endswith(".log")} == set()
    disk.free()
    assert planned(folder, table).items() >= {"tokens": 1, "budget": 1, "train": 1, "runs": 1}.items()
    snakemake(folder, table, "--until", "train")
    disk.read_only()
    result = snakemake(folder, table, check=False)
    assert result.returncode == 1
    assert "Read-only file system" in result.stderr


@pytest.fixture
def spec(disk, write_results):
    return write_results(disk.path)[0]


@pytest.fixture
def right(write_results, tmp_path):
    """The cell's loss where there is room."""
    (tmp_path / "room").mkdir()
    path = write_results(tmp_path / "room")[0]
    return trained(path, tmp_path / "room/out")


def trained(spec, out):
    run_cell(spec, out / "metrics.json", device="cpu")
    return json.loads((out / "metrics.json").read_text())["row"]["val_loss"]


def test_a_cell_whose_checkpoints_do_not_fit_is_right(disk, spec, right, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    out = disk.path / "out"
    disk.fill(leave=64 * 1024)
    with pytest.warns(SparsedcWarning, match=f"could not be written .*{FULL}.*; training goes on without it"):
        assert trained(spec, out) == right
    assert {path.name for path in (disk.path / "work").rglob("*") if path.is_file()} == {"lock", "metrics.json"}


def test_metrics_that_do_not_fit_are_an_error_that_says_where(disk, spec, right):
    out = disk.path / "out"
    out.mkdir()
    (disk.path / "work").mkdir()
    disk.fill(leave=1024)
    with pytest.raises(OSError, match=f"{FULL}: '{disk.path}/.*/metrics.json'"):
        trained(spec, out)
    assert list(out.iterdir()) == []
    disk.free()
    assert trained(spec, out) == right


def test_read_only_results_are_one_error(disk, spec):
    disk.read_only()
    with pytest.raises(OSError, match=f"Read-only file system: '{disk.path}"):
        trained(spec, disk.path / "out")

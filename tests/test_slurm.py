"""Studies on a real Slurm: one node on this machine, with made-up GPUs (tests/slurm/loopback)."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparsedc import slurm
from sparsedc.errors import InputError

ROOT = Path(__file__).parents[1]
LOOPBACK = ROOT / "tests" / "slurm" / "loopback"
needs_slurm = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("apt-get") is None, reason="starts Slurm, as root on Debian or Ubuntu"
)

STUDY: dict[str, Any] = {
    "name": "micro",
    "corpus": {"source": "installed", "packages": ["typer"], "validation_fraction": 0.1},
    "tokenizer": {"vocab_size": 400},
    "sequence_length": 64,
    "training": {"batch_tokens": 512, "lr": 1e-2, "warmup_fraction": 0.2, "topology_updates": 4},
    "grid": [{"sizes": ["13k", "50k"], "densities": [1, 0.5], "unique_tokens": [4096], "epochs": [1, 2]}],
    "law": {"forms": ["chinchilla"], "bootstrap": 0},
}
# `sparsedc` for jobs: GPUs are made up, so that cells train on the CPU; when and on which GPU each did is noted.
WRAPPER = f"""#!{sys.executable}
import os, subprocess, sys, time
cell = sys.argv[1] == "train"
begin = time.time()
command = [{str(Path(sys.executable).parent / "sparsedc")!r}, *sys.argv[1:], *(["--device", "cpu"] if cell else [])]
status = subprocess.run(command).returncode
with open(os.environ["NOTES"], "a") as notes:
    job, gpu = os.environ.get("SLURM_JOB_ID"), os.environ.get("CUDA_VISIBLE_DEVICES")
    print(sys.argv[1], job, gpu, begin, time.time(), file=notes)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    subprocess.run([LOOPBACK, "up", "2"], check=True, capture_output=True, text=True)
    yield
    subprocess.run([LOOPBACK, "down"], check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Snakefile", "workflow", "profiles"):
        os.symlink(ROOT / name, tmp_path / name)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(STUDY))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sparsedc").write_text(WRAPPER)
    (tmp_path / "bin" / "sparsedc").chmod(0o755)
    return tmp_path


def snakemake(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Cells' jobs ask for what a real one needs, more than this machine may have.
    ours = ["--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5"]
    ours += ["--default-resources", "mem_mb=300", "runtime=10", "--set-resources", "train:mem_mb=300", "train:gpu=1"]
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *ours, *arguments], cwd=folder, capture_output=True, text=True, timeout=900,
        env={**os.environ, "PATH": path, "NOTES": str(folder / "notes")}, check=False,
    )  # fmt: skip


@needs_slurm
def test_a_study_from_text_to_law_with_a_cell_a_gpu(cluster: None, folder: Path) -> None:
    ended = snakemake(folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = folder / "results" / "micro"
    with (results / "runs.csv").open(newline="") as lines:
        assert [row["status"] for row in csv.DictReader(lines)] == ["ok"] * 8
    assert json.loads((results / "law" / "law.json").read_text())
    notes = [line.split() for line in (folder / "notes").read_text().splitlines()]
    cells = [
        (gpu, float(begin), float(end)) for what, job, gpu, begin, end in notes if what == "train" and job != "None"
    ]
    assert len(cells) == 8
    assert {gpu for gpu, _, _ in cells} == {"0", "1"}
    for gpu in "01":
        times = sorted((begin, end) for one, begin, end in cells if one == gpu)
        assert all(end < begin for (_, end), (begin, _) in pairwise(times))
    for cell in (results / "cells").iterdir():
        assert (results / "logs" / "attempts" / f"{cell.name}.log").read_text().count("== ") == 1


@needs_slurm
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--default-resources", "slurm_partition=x"], "slurm_partition = x: is no partition of this cluster"),
        (["--slurm-init-seconds-before-status-checks", "300"], "Slurm forgets jobs 600 seconds after their end"),
    ],
)  # fmt: skip
def test_a_run_that_could_not_end_does_not_begin(
    cluster: None, folder: Path, arguments: list[str], message: str
) -> None:
    ended = snakemake(folder, *arguments)
    assert ended.returncode == 1
    assert message in ended.stdout + ended.stderr
    assert not (folder / "results").exists()


CONFIG = "AccountingStorageType   = {storage}\nMinJobAge               = {age} sec\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Slurm of stand-in commands: which storage of accounts it has, how long it remembers jobs, does sacct work."""

    def make(storage: str, age: int, sacct: bool, nodes: str = "gpu* gpu:2\ncpu (null)\n") -> None:
        (tmp_path / "config").write_text(CONFIG.format(storage=storage, age=age))
        (tmp_path / "nodes").write_text(nodes)
        commands = {"scontrol": f"cat {tmp_path}/config", "sinfo": f"cat {tmp_path}/nodes"}
        commands["sacct"] = "true" if sacct else "echo Slurm accounting storage is disabled >&2; false"
        for name, command in commands.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


DATABASE, NOTHING = "accounting_storage/slurmdbd", "accounting_storage/none"


@pytest.mark.parametrize(
    ("storage", "sacct", "age", "asked", "command"),
    [
        (DATABASE, True, 300, "sacct", "sacct"),
        (DATABASE, True, 300, None, "sacct"),
        (DATABASE, True, 300, "squeue", "squeue"),
        (DATABASE, False, 300, "sacct", "squeue"),  # the database does not answer
        (NOTHING, True, 300, "sacct", "squeue"),
        ("(null)", True, 300, "sacct", "squeue"),
        (NOTHING, False, 300, None, "squeue"),
    ],
)
def test_jobs_are_asked_for_by_what_answers(
    site: Any, storage: str, sacct: bool, age: int, asked: str | None, command: str
) -> None:
    site(storage, age, sacct)
    assert slurm.status_command(asked, 40) == command


def test_where_nothing_would_tell_of_jobs_ends(site: Any) -> None:
    site(NOTHING, 100, False)
    with pytest.raises(InputError, match=r"status-checks = 40: .* 100 seconds .* no accounting.* Set it to 33 or less"):
        slurm.status_command(None, 40)
    assert slurm.status_command(None, 33) == "squeue"
    site(DATABASE, 100, True)
    with pytest.raises(InputError, match="Set it to 33 or less in the profile, or slurm-status-command to sacct"):
        slurm.status_command("squeue", 40)


@pytest.mark.parametrize(
    ("partition", "gpus", "nodes", "message"),
    [
        ("gpus", True, "gpu* gpu:2\ncpu (null)\n", "slurm_partition = gpus: is no partition .* Use cpu, gpu."),
        ("cpu", True, "gpu* gpu:2\ncpu (null)\n", "slurm_partition = cpu: has no GPUs, for which cells ask. Use gpu."),
        (None, True, "gpu gpu:2\ncpu* (null)\n", "slurm_partition = cpu: has no GPUs, .* Use gpu."),
        (None, True, "cpu* (null)\n", "Take `gpu` out of the profile"),
        (None, False, "gpu gpu:2\ncpu (null)\n", "there is no default one. Use cpu, gpu."),
    ],
)  # fmt: skip
def test_a_partition_that_would_not_do(site: Any, partition: str | None, gpus: bool, nodes: str, message: str) -> None:
    site(NOTHING, 300, False, nodes)
    with pytest.raises(InputError, match=message):
        slurm.check_partition(partition, gpus)


def test_a_partition_that_does(site: Any) -> None:
    site(NOTHING, 300, False, "gpu* gpu:h100:8(S:0-1)\ngpu* (null)\ncpu (null)\n")
    slurm.check_partition(None, gpus=True)
    slurm.check_partition("cpu", gpus=False)


def test_a_slurm_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="`scontrol show config`: there is no such command"):
        slurm.status_command(None, 40)

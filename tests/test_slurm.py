"""Studies on a real Slurm: two nodes on this machine, with two made-up GPUs and one (tests/slurm/loopback)."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from sparsedc import slurm
from sparsedc.errors import InputError
from sparsedc.study import load_study
from waiting import PATIENCE, wait_for
from workflows import new_folder, steps_traced, traced, tracing, write_study
from workflows import snakemake as at_once

ROOT = Path(__file__).parents[1]
NOT_INSTALLED = 3  # exit status
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
    "grid": [{"sizes": ["13k", "50k"], "densities": [1], "unique_tokens": [4096], "epochs": [1, 2]}],
    "law": {"forms": ["chinchilla"], "bootstrap": 0},
}
# `sparsedc` for jobs. GPUs are made up, so that cells train on the CPU; they wait for a file `go`; when and where each
# trained is noted. A broken one fails as soon as another one is there to be harmed.
WRAPPER = f"""#!{sys.executable}
import os, pathlib, sys, time
import sparsedc.cli
notes = pathlib.Path(os.environ["NOTES"])
def note(what):
    place = os.environ["SLURM_JOB_ID"], os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"]
    with notes.open("a") as file:
        print(what, *place, time.time(), file=file)
if sys.argv[1] == "train":
    note("begin")
    while not (notes.parent / "go").exists():
        time.sleep(0.1)
    if "BROKEN" in os.environ and os.environ["BROKEN"] in sys.argv[2]:
        while len(notes.read_text().splitlines()) < 2:
            time.sleep(0.1)
        sys.exit(1)
    sys.argv += ["--device", "cpu"]
try:
    sparsedc.cli.main()
finally:
    if sys.argv[1] == "train":
        note("end")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    started = subprocess.run([LOOPBACK, "up", "2", "1"], capture_output=True, text=True, check=False)
    if started.returncode == NOT_INSTALLED:
        pytest.skip(f"Slurm cannot be installed: {started.stderr}")
    assert started.returncode == 0, started.stderr
    yield
    subprocess.run([LOOPBACK, "down"], check=True)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study up to its cells, done without Slurm. Tests work on copies."""
    folder = new_folder(tmp_path_factory.mktemp("untrained"))
    write_study(folder, STUDY)
    at_once(folder, "--until", "budget")
    return folder


def for_jobs(folder: Path) -> Path:
    """Prepare a folder for jobs that are to be watched."""
    (traced(folder) / "bin").mkdir()
    (folder / "bin" / "sparsedc").write_text(WRAPPER)
    (folder / "bin" / "sparsedc").chmod(0o755)
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The study alone."""
    write_study(new_folder(tmp_path), STUDY)
    return for_jobs(tmp_path)


@pytest.fixture
def folder(untrained: Path, tmp_path: Path) -> Path:
    """With tokens for its cells."""
    return for_jobs(shutil.copytree(untrained, tmp_path / "study", symlinks=True))


def command(*arguments: str, minutes: str = "10", packed: int = 1) -> list[str]:
    # Cells' jobs ask for what a real one needs, more than this machine may have.
    ours = ["--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5"]
    ours += ["--default-resources", "mem_mb=300", "runtime=10"]
    ours += ["--set-resources", "train:mem_mb=300", f"train:runtime={minutes}"]
    return [sys.executable, "-m", "snakemake", *ours, "--group-components", f"small={packed}", *arguments]


def environment(folder: Path) -> dict[str, str]:
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "NOTES": str(folder / "notes")}


def snakemake(
    folder: Path, *arguments: str, minutes: str = "10", packed: int = 1, **variables: str
) -> "subprocess.CompletedProcess[str]":
    (folder / "go").touch()
    return subprocess.run(
        command(*arguments, minutes=minutes, packed=packed), cwd=folder, env=environment(folder) | variables,
        capture_output=True, text=True, timeout=3 * PATIENCE, check=False,
    )  # fmt: skip


class Note(NamedTuple):
    """`begin` or `end` of a cell, its job, and where that is."""

    what: str
    job: str
    node: str
    gpu: str
    time: float


def noted(folder: Path) -> list[Note]:
    notes = folder / "notes"
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [Note(*line.split()[:-1], float(line.split()[-1])) for line in lines]


def change_study(folder: Path, **training: float) -> None:
    write_study(folder, {**STUDY, "training": {**STUDY["training"], **training}})


def rates(folder: Path) -> dict[str, float]:
    """cell -> the learning rate that it was trained with."""
    found = (folder / "results" / "micro" / "cells").glob("*/metrics.json")
    return {path.parent.name: json.loads(path.read_text())["row"]["lr"] for path in found}


@needs_slurm
def test_a_study_that_is_edited_while_its_cells_wait_and_then_run_to_its_law(cluster: None, bare: Path) -> None:
    with subprocess.Popen(
        command("--retries", "0"), cwd=bare, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(bare),
    ) as driver:  # fmt: skip
        wait_for(lambda: len(noted(bare)) == 3 or driver.poll() is not None)
        change_study(bare, lr=2e-2)
        (bare / "go").touch()
        told = driver.communicate(timeout=PATIENCE)[0]
    first = rates(bare)
    assert set(first.values()) == {1e-2}, told  # three had begun, and the other did not train with values not its own
    assert len(first) == 3
    assert driver.returncode == 1
    logs = [path.read_text() for path in (bare / ".snakemake" / "slurm_logs").rglob("*.log")]
    assert sum("is no cell of the study micro, which may have been edited" in log for log in logs) == 1

    ended = snakemake(bare)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = bare / "results" / "micro"
    with (results / "runs.csv").open(newline="") as lines:
        assert [(row["status"], row["lr"]) for row in csv.DictReader(lines)] == [("ok", "0.02")] * 4
    assert json.loads((results / "law" / "law.json").read_text())
    second = {cell: rate for cell, rate in rates(bare).items() if cell not in first}
    assert list(second.values()) == [2e-2] * 4
    for cell in second:
        assert (results / "logs" / "attempts" / f"{cell}.log").read_text().count("== ") == 1
    notes = noted(bare)
    gpus = {(note.node, note.gpu) for note in notes}
    assert gpus == {("node1", "0"), ("node1", "1"), ("node2", "0")}
    for gpu in gpus:  # a cell ends before the next one begins
        order = sorted((note for note in notes if (note.node, note.gpu) == gpu), key=lambda note: note.time)
        assert [note.what for note in order] == ["begin", "end"] * (len(order) // 2)
        assert all(begin.job == end.job for begin, end in zip(order[::2], order[1::2], strict=True))

    change_study(bare)  # back to what it was: the three that had trained are done
    planned = snakemake(bare, "--dry-run", "--quiet", "rules").stdout
    assert re.search(r"^train +1$", planned, re.MULTILINE), planned


@needs_slurm
def test_a_cell_out_of_time_goes_on_in_the_next_attempt(cluster: None, folder: Path) -> None:
    """It waits half-way for the end of its time, which whoever begins there again would meet in vain. On a busy machine
    an attempt may end before that, or with the cell done but not its job."""
    (cell,) = [cell for cell in load_study(STUDY).cells.values() if cell.spec.size == "13k" and cell.spec.epochs == 2]
    target = f"results/micro/cells/{cell.id}/metrics.json"
    ended = snakemake(folder, "--", target, minutes="attempt", **tracing(folder, wait_at=cell.spec.steps // 2))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    attempts = (folder / "results" / "micro" / "logs" / "attempts" / f"{cell.id}.log").read_text()
    *before, last = attempts.split("== ")[1:]
    assert sum("stopped; run it again to go on from its last checkpoint" in attempt for attempt in before) == 1
    assert "stopped" not in last
    assert [step for _, _, step, _ in steps_traced(folder)] == list(range(1, cell.spec.steps + 1))


@needs_slurm
def test_small_cells_share_a_job_and_one_that_fails_costs_the_others_nothing(cluster: None, folder: Path) -> None:
    broken, *others = load_study(STUDY).cells.values()
    cells = [f"results/micro/cells/{cell.id}/metrics.json" for cell in (broken, *others)]
    ended = snakemake(folder, "--retries", "0", "--", *cells, packed=4, BROKEN=broken.id, **tracing(folder, 0.1))
    assert ended.returncode == 1
    notes = noted(folder)
    assert len({(note.job, note.node, note.gpu) for note in notes}) == 1
    first, second, *_ = sorted(notes, key=lambda note: note.time)
    assert (first.what, second.what) == ("begin", "begin")  # side by side
    assert "end" in [note.what for note in notes]  # what had begun was finished
    ended = snakemake(folder, "--", *cells, packed=4, **tracing(folder, 0))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    taken = Counter(fingerprint for fingerprint, *_ in steps_traced(folder))
    assert taken == {cell.fingerprint: cell.spec.steps for cell in (broken, *others)}


@needs_slurm
def test_a_cell_of_several_nodes_and_one_of_several_gpus(cluster: None, folder: Path) -> None:
    write_study(folder, {**STUDY, "gpus": {"50k": [2, 1], "13k": 2}})
    of_nodes, of_gpus = (
        next(cell for cell in load_study(STUDY).cells.values() if cell.spec.size == size) for size in ("50k", "13k")
    )
    cells = [f"results/micro/cells/{cell.id}/metrics.json" for cell in (of_nodes, of_gpus)]
    ended = snakemake(folder, "--", *cells, **tracing(folder, 0))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [json.loads((folder / path).read_text())["ranks"] for path in cells] == [2, 2]
    assert {(note.node, note.gpu) for note in noted(folder)} == {("node1", "0"), ("node1", "0,1")}
    taken = steps_traced(folder)
    on = {cell: Counter(node for fingerprint, _, _, node in taken if fingerprint == cell.fingerprint)
          for cell in (of_nodes, of_gpus)}  # fmt: skip
    assert on[of_nodes] == {"node1": of_nodes.spec.steps, "node2": of_nodes.spec.steps}
    assert on[of_gpus] == {"node1": 2 * of_gpus.spec.steps}
    first = json.loads((folder / cells[0]).read_text())
    write_study(folder, STUDY)
    alone = snakemake(folder, "--forcerun", "train", "--", cells[0])
    assert alone.returncode == 0
    assert "finished before" in (folder / f"results/micro/logs/train/{of_nodes.id}.log").read_text()
    assert json.loads((folder / cells[0]).read_text()) == first


@needs_slurm
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--default-resources", "slurm_partition=x"], "slurm_partition = x: is no partition of this cluster"),
        (["--slurm-init-seconds-before-status-checks", "300"], "Slurm forgets jobs 600 seconds after their end"),
    ],
)  # fmt: skip
def test_a_run_that_could_not_end_does_not_begin(cluster: None, bare: Path, arguments: list[str], message: str) -> None:
    ended = snakemake(bare, *arguments)
    assert ended.returncode == 1
    assert message in ended.stdout + ended.stderr
    assert not (bare / "results").exists()


NODES = """gpu|up|2-00:00:00|gpu:h100:8(S:0-1)
gpu|up|2-00:00:00|(null)
7|up|infinite|nvme:1,gpu:2
cpu|up|2:00:00|(null)
scratch|up|infinite|gpu_scratch:100G
broken|down|infinite|gpu:4
"""
CONFIG = "AccountingStorageType   = {storage}\nMinJobAge               = {age} sec\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Slurm of stand-in commands: which storage of accounts it has, how long it remembers jobs, does sacct work."""

    def make(storage: str, age: int, sacct: bool, nodes: str = NODES) -> None:
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


@pytest.mark.parametrize(
    ("storage", "age", "seconds", "remedy"),
    [
        (NOTHING, 200, 67, "Set it to 66 or less in the profile"),
        (NOTHING, 179, 10, "Have the cluster's MinJobAge raised to 180 or more"),
        (DATABASE, 100, 40, "Set slurm-status-command to sacct"),
    ],
)
def test_where_nothing_would_tell_of_jobs_ends(site: Any, storage: str, age: int, seconds: int, remedy: str) -> None:
    site(storage, age, storage == DATABASE)
    with pytest.raises(InputError, match=f"status-checks = {seconds}: Slurm forgets jobs {age} seconds .*{remedy}"):
        slurm.status_command("squeue", seconds)


def test_squeue_tells_where_jobs_are_remembered_long_enough(site: Any) -> None:
    for age, seconds in ((200, 66), (180, 60)):
        site(NOTHING, age, False)
        assert slurm.status_command(None, seconds) == "squeue"


@pytest.mark.parametrize(
    ("names", "gpus", "minutes", "message"),
    [
        ("gpus", True, 1, "slurm_partition = gpus: is no partition .* Use 7, broken, cpu, gpu, scratch."),
        ("gpu,gpus", True, 1, "slurm_partition = gpus: is no partition"),
        ("cpu", True, 1, "slurm_partition = cpu: has no GPUs, for which cells ask. Use 7, gpu."),
        ("scratch", True, 1, "slurm_partition = scratch: has no GPUs"),
        ("broken", True, 1, "slurm_partition = broken: is down. Use 7, cpu, gpu, scratch, or wait."),
        (
            "cpu",
            False,
            121,
            "runtime of law = 121: is more than the 120 minutes .* in cpu. .* law: runtime: 120.*retries",
        ),
        ("cpu,broken", False, 121, "more than the 120 minutes that a job may take in cpu,broken"),
        ("gpu", True, 2881, "more than the 2880 minutes"),
    ],
)
def test_a_partition_that_would_not_do(site: Any, names: str, gpus: bool, minutes: int, message: str) -> None:
    site(NOTHING, 300, False)
    with pytest.raises(InputError, match=message):
        slurm.check_partitions(names.split(","), gpus, minutes, "law")


def test_partitions_that_do(site: Any) -> None:
    site(NOTHING, 300, False)
    slurm.check_partitions(["gpu", "cpu"], True, 2880, "train")
    slurm.check_partitions(["cpu", "7"], True, 10**6, "train")
    slurm.check_partitions(["cpu"], False, 120, "law")
    slurm.check_partitions(["scratch", "broken"], False, 10**6, "law")


def test_without_gpus_anywhere_cells_train_on_cpus(site: Any) -> None:
    site(NOTHING, 300, False, "cpu|up|infinite|(null)\n")
    with pytest.raises(InputError, match="set `gres` of train and train_kept to ''"):
        slurm.check_partitions(["cpu"], True, 1, "train")


class Job:
    """As Snakemake's: resources follow the attempt."""

    def __init__(self, partition: str | int | None, minutes: int, gres: str = "gpu:1") -> None:
        self.attempt, self.partition, self.minutes, self.gres = 1, partition, minutes, gres
        self.rule = SimpleNamespace(name="train")

    @property
    def resources(self) -> dict[str, Any]:
        return {"slurm_partition": self.partition, "runtime": self.attempt * self.minutes, "gres": self.gres}


def test_the_longest_attempt_counts(site: Any) -> None:
    site(NOTHING, 300, False)
    settings = SimpleNamespace(status_command=None, init_seconds_before_status_checks=40)
    jobs = [Job("gpu", 960), Job(7, 10**6), Job("cpu", 40, gres=""), Job(None, 10**9)]
    slurm.preflight(settings, jobs, attempts=3)
    assert settings.status_command == "squeue"
    assert [job.attempt for job in jobs] == [1] * 4
    with pytest.raises(InputError, match="runtime of train = 3840: is more than the 2880 minutes"):
        slurm.preflight(settings, jobs, attempts=4)


def test_a_slurm_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="`scontrol show config`: there is no such command"):
        slurm.status_command(None, 40)

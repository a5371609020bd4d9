"""A study whose Snakemake is killed or stopped in the middle: what is whole stays, and the next run goes on from there.

Trainers note every step that they take, so that nothing is done twice, or by two at once, unseen.
"""

import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sparsedc.study import load_study
from waiting import PATIENCE, wait_for
from workflows import COMMAND, ENVIRONMENT, new_folder, planned, snakemake, steps_traced, traced, tracing, write_study

pytestmark = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")

STUDY = {
    "name": "micro",
    "corpus": {"source": "installed", "packages": ["typer"], "validation_fraction": 0.1},
    "tokenizer": {"vocab_size": 400},
    "sequence_length": 64,
    "training": {"batch_tokens": 512, "lr": 1e-3, "warmup_fraction": 0.2, "topology_updates": 4},
    "grid": [{"sizes": ["13k", "50k"], "densities": [1, 0.5], "unique_tokens": [8192], "epochs": [6]}],
}
CELLS = load_study(STUDY).cells
TABLE = "results/micro/runs.csv"


class Run:
    """Snakemake at work in a folder, as the leader of a process group, as from a terminal."""

    def __init__(self, folder, *targets, **how):
        self.folder = folder
        self.log = (folder / "run.log").open("w")
        self.process = subprocess.Popen(
            [*COMMAND, *targets], cwd=folder, stdout=self.log, stderr=self.log, start_new_session=True,
            env={**ENVIRONMENT, **tracing(folder, **how)},
        )  # fmt: skip

    def said(self):
        return (self.folder / "run.log").read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()
        wait_for(lambda: not processes(self.folder))


def steps(folder):
    """Of each cell, in the order in which they were taken: who took it, and its number."""
    taken = {cell.fingerprint: [] for cell in CELLS.values()}
    for fingerprint, pid, step, _ in steps_traced(folder):
        taken[fingerprint].append((pid, step))
    return taken


def assert_none_was_taken_twice(taken, last):
    """A trainer begins where the one before has stopped, which then takes no step any more. Only one that is stopped in
    evaluation, after its last step, leaves nothing to go on from."""
    for before, after in itertools.pairwise(taken):
        assert after[1] == before[1] + 1 or (before[1] == last and after[1] == 1 and after[0] != before[0])
    attempts = [pid for pid, _ in itertools.groupby(pid for pid, _ in taken)]
    assert len(attempts) == len(set(attempts))


def processes(folder):
    """Those that work in a folder: Snakemake, its shells, trainers and their server."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")) == folder:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" "))
        except OSError:
            continue
    return found


def results(folder):
    """cell -> its metrics; of a cell that is trained anew they tell of another time."""
    files = (folder / "results/micro/cells").glob("*/metrics.json")
    return {path.parent.name: path.read_text() for path in files}


def rows(folder):
    """The runs table without what two runs never agree on."""
    with (folder / TABLE).open() as lines:
        table = {row["cell"]: row for row in csv.DictReader(lines)}
    for row in table.values():
        del row["seconds"], row["tokens_per_second"], row["commit"]  # of a checkout that may be edited meanwhile
    return table


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = new_folder(tmp_path_factory.mktemp("undisturbed"))
    write_study(folder, STUDY)
    snakemake(folder, TABLE)
    return folder


@pytest.fixture
def untrained(undisturbed, tmp_path):
    """A copy of that study with everything but its cells."""
    folder = traced(shutil.copytree(undisturbed, tmp_path / "untrained", symlinks=True))
    for name in ("cells", "work", "logs/train", "logs/attempts"):
        shutil.rmtree(folder / "results/micro" / name)
    (folder / TABLE).unlink()
    return folder


def test_kills_at_any_moment_cost_nothing_that_was_done(undisturbed, tmp_path):
    """From text to table. Snakemake is killed, unlocked and begun again at once, until it comes to its end."""
    folder = traced(new_folder(tmp_path))
    write_study(folder, STUDY)
    draw, patience, kills, whole = random.Random(0), 6.0, 0, {}
    while True:
        before = (folder / "trace").stat().st_size
        with Run(folder, TABLE) as run:
            try:
                run.process.wait(draw.uniform(0.5, 1.5) * patience)
            except subprocess.TimeoutExpired:
                run.process.kill()
                run.process.wait()
                kills += 1
            now = results(folder)
            assert all(metrics == whole.get(cell, metrics) for cell, metrics in now.items())
            whole |= now
            if run.process.returncode >= 0:
                break
            snakemake(folder, "--unlock", TABLE)
        if (folder / "trace").stat().st_size == before:
            patience *= 1.2
    assert run.process.returncode == 0, run.said()
    assert kills > 1
    for cell in CELLS.values():
        assert_none_was_taken_twice(steps(folder)[cell.fingerprint], cell.spec.steps)
    assert rows(folder) == rows(undisturbed)
    assert planned(folder, TABLE) == {}


def test_a_cell_that_ended_unseen_is_done(untrained):
    """Snakemake hears nothing of the ends of its jobs, stands still, and is killed."""
    with Run(untrained, TABLE) as run:
        wait_for(lambda: any(steps(untrained).values()))
        run.process.send_signal(signal.SIGSTOP)
        done = wait_for(lambda: len(found := results(untrained)) == 2 and found)
    snakemake(untrained, "--unlock", TABLE)
    taken = steps(untrained)
    snakemake(untrained, TABLE, **tracing(untrained))
    assert done.items() <= results(untrained).items()
    for cell in done:
        assert steps(untrained)[CELLS[cell].fingerprint] == taken[CELLS[cell].fingerprint]
    assert planned(untrained, TABLE) == {}


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_leaves_checkpoints_and_nothing_else(undisturbed, untrained, signals):
    """Whoever presses it again before all has ended loses nothing, either."""
    targets = [f"results/micro/cells/{cell}/metrics.json" for cell in list(CELLS)[:2]]
    with Run(untrained, *targets, wait_at=40) as run:
        wait_for(lambda: sum(len(taken) == 40 for taken in steps(untrained).values()) == 2)
        for _ in range(signals):
            os.killpg(run.process.pid, signal.SIGINT)
            time.sleep(0.1)
        assert run.process.wait(PATIENCE) in {1: [1], 2: [1, -signal.SIGINT]}[signals]
        wait_for(lambda: not processes(untrained))
        assert run.said().count("stopped; run it again to go on from its last checkpoint") == 2
        assert signals == 2 or "Traceback" not in run.said()  # Snakemake's own, then
    assert results(untrained) == {}
    assert planned(untrained, *targets) == {"train": 2}
    if signals == 2:  # Snakemake may have died before it had removed its lock
        snakemake(untrained, "--unlock", *targets)
    snakemake(untrained, *targets, **tracing(untrained))
    for cell in list(CELLS.values())[:2]:
        taken = steps(untrained)[cell.fingerprint]
        assert_none_was_taken_twice(taken, cell.spec.steps)
        assert [step for _, step in taken] == list(range(1, cell.spec.steps + 1))
        assert len({pid for pid, _ in taken}) == 2
        assert metrics(untrained, cell) == metrics(undisturbed, cell)


def metrics(folder, cell):
    """A cell's, without what two runs never agree on."""
    found = json.loads((folder / f"results/micro/cells/{cell.id}/metrics.json").read_text())
    del found["finished"], found["pace"]
    for varies in ("seconds", "tokens_per_second", "commit"):
        del found["row"][varies]
    return found

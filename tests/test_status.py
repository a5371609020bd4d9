"""Where a study stands, and what of its folder is no longer its own: read off files as training leaves them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.status import Standing, render, standings
from sparsedc.study import Cell, Study, load_study
from sparsedc.train import lock
from sparsedc.train.cell import run_cell
from sparsedc.train.lock import exclusive, held

SPARSEDC = [sys.executable, "-c", "from sparsedc.cli import main; main()"]


@pytest.fixture
def study(small: dict[str, Any]) -> Study:
    return load_study(small)


@pytest.fixture
def cells(study: Study) -> list[Cell]:
    return list(study.cells.values())


@pytest.fixture
def folder(
    small: dict[str, Any], write_results: Callable[[Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The study's results, with specs and tokens and nothing trained, below the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(small))
    folder = tmp_path / "results" / "small"
    write_results(folder)
    return folder


def train(cell: Cell, folder: Path) -> Path:
    out = folder / "cells" / cell.id
    run_cell(folder / "specs" / f"{cell.id}.json", out / "metrics.json", device="cpu")
    return out / "metrics.json"


def sparsedc(*arguments: str, answer: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*SPARSEDC, *arguments], input=answer, capture_output=True, text=True, check=False)


def test_every_state_with_its_reason(study: Study, cells: list[Cell], folder: Path) -> None:
    done, diverged, running, failed = cells
    assert {one.state for one in standings(study, folder)} == {"waiting"}
    train(done, folder)
    metrics = train(diverged, folder)
    content = json.loads(metrics.read_text())
    content["row"] |= {"status": "diverged", "val_loss": None, "steps": 7}
    metrics.write_text(json.dumps(content))
    (folder / "logs" / "train").mkdir(parents=True)
    (folder / "logs" / "train" / f"{failed.id}.log").write_text("a line\nerror: no memory\n")
    with exclusive(folder / "work" / failed.fingerprint):
        (folder / "work" / failed.fingerprint / "checkpoint-000000012.sha256").touch()
    with exclusive(folder / "work" / running.fingerprint):
        later = time.time() + 3600  # the clock is set back
        os.utime(folder / "work" / running.fingerprint / "lock", (later, later))
        found = standings(study, folder)
    steps = {cell.id: cell.spec.steps for cell in cells}
    assert [one.state for one in found] == ["done", "diverged", "running", "failed"]
    assert found[1].reason == f"after 7 of {steps[diverged.id]} steps"
    assert found[2].reason == "for 0:00"
    assert found[3].reason == f"error: no memory; checkpoint at step 12 of {steps[failed.id]}"
    assert standings(study, folder)[2] == Standing(running.id, "failed", "ended without a word")
    told = render(found).splitlines()
    assert done.id not in render(found)
    assert render([]) == "0 cells: the study trains none"
    assert told[0] == f"diverged  {diverged.id}  {found[1].reason}"
    assert told[-1] == "4 cells: 1 done, 1 diverged, 1 running, 1 failed"


def test_results_of_other_tokens_or_another_spec_are_stale(
    study: Study, cells: list[Cell], folder: Path, write_tokens: Callable[..., None]
) -> None:
    first, second, third, _ = (train(cell, folder) for cell in cells)
    third.write_text(third.read_text()[:100])
    content = json.loads(second.read_text())
    content["row"]["fingerprint"] = "0" * 64
    second.write_text(json.dumps(content))
    found = standings(study, folder)
    assert [one.state for one in found] == ["done", "stale", "stale", "done"]
    assert found[1].reason == "was trained from another spec"
    assert f"{third} cannot be read" in found[2].reason
    write_tokens(folder / "corpus" / study.data / "tokens", seed=1)
    assert [one.reason for one in standings(study, folder)][0::3] == ["the train tokens have changed since"] * 2
    assert first.exists()


def test_a_cell_whose_model_is_to_be_kept_is_not_done_without_it(
    small: dict[str, Any], cells: list[Cell], folder: Path
) -> None:
    train(cells[0], folder)
    study = load_study({**small, "keep_models": [{}]})
    assert standings(study, folder)[0] == Standing(cells[0].id, "stale", "its model is to be kept, and was not")
    (folder / "models" / cells[0].id).mkdir(parents=True)
    assert standings(study, folder)[0].state == "done"


def test_the_command_line(cells: list[Cell], folder: Path) -> None:
    train(cells[0], folder)
    (folder / "cells" / "of-another-study").mkdir()
    told = sparsedc("study", "status", "study.yaml").stdout
    assert "4 cells: 1 done, 3 waiting" in told
    assert "1 files and folders of other cells or tokens" in told
    found = json.loads(sparsedc("study", "status", "study.yaml", "--json").stdout)
    assert [one["state"] for one in found] == ["done", "waiting", "waiting", "waiting"]


def test_prune_removes_what_the_study_no_longer_has_and_nothing_else(
    small: dict[str, Any], cells: list[Cell], folder: Path
) -> None:
    removed, kept = cells[0], cells[1:]
    for cell in cells:
        train(cell, folder)
        for rule in ("spec", "train", "attempts"):
            (folder / "logs" / rule).mkdir(parents=True, exist_ok=True)
            (folder / "logs" / rule / f"{cell.id}.log").touch()
        for name in (cell.id, f".{cell.id}.partial"):  # of which the second is being written
            (folder / "models" / name).mkdir(parents=True)
            (folder / "models" / name / "model.safetensors").touch()
    (folder / "corpus" / "other-tokens").mkdir()
    (folder / "runs.csv").touch()
    before = {path for path in folder.rglob("*") if path.is_file()}
    exclude = {"density": removed.spec.density, "epochs": removed.spec.epochs}
    Path("study.yaml").write_text(yaml.safe_dump({**small, "exclude": [exclude]}))
    refused = sparsedc("study", "prune", "study.yaml", answer="n\n")
    assert refused.returncode == 0
    assert "9 files and folders, " in refused.stdout
    assert {path for path in folder.rglob("*") if path.is_file()} == before
    with exclusive(folder / "work" / removed.fingerprint):  # it is being trained by an earlier run
        refused = sparsedc("study", "prune", "study.yaml", "--yes")
        assert refused.returncode == 2
        assert f"1 cells that it no longer has are being trained ({removed.fingerprint})" in refused.stderr
    elsewhere = Path("elsewhere").resolve()
    elsewhere.mkdir()
    (folder / "corpus" / "elsewhere").symlink_to(elsewhere)
    assert sparsedc("study", "prune", "study.yaml", "--yes").returncode == 0
    gone = before - {path for path in folder.rglob("*") if path.is_file()}
    assert gone == {path for path in before if removed.id in str(path) or removed.fingerprint in str(path)}
    assert not (folder / "corpus" / "other-tokens").exists()
    assert not (folder / "corpus" / "elsewhere").exists()
    assert elsewhere.exists()
    assert "0 files and folders" in sparsedc("study", "prune", "study.yaml").stdout
    assert all((folder / "cells" / cell.id / "metrics.json").exists() for cell in kept)


def test_one_trainer_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.6)
    work = tmp_path / "work"
    assert not held(work)
    with exclusive(work):
        assert held(work)
        refused = pytest.raises(InputError, match="is being trained by another process")
        with pytest.warns(SparsedcWarning, match="waiting for its end"), refused, exclusive(work):
            pass
    assert not held(work)
    with exclusive(work):
        pass


@pytest.mark.parametrize("finishes", [True, False])
def test_a_trainer_waits_for_another_and_trains_what_that_has_left(
    cells: list[Cell], folder: Path, finishes: bool
) -> None:
    cell = cells[0]
    work, metrics = folder / "work" / cell.fingerprint, train(cell, folder)
    of_the_other = metrics.read_text()
    for path in (metrics, work / "metrics.json"):
        path.unlink()
    with exclusive(work):
        waiting = subprocess.Popen(
            [*SPARSEDC, "train", folder / "specs" / f"{cell.id}.json", metrics], stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        assert "waiting for its end" in waiting.stderr.readline()
        if finishes:
            (work / "metrics.json").write_text(of_the_other)
    assert ("finished before" in waiting.communicate()[1]) == finishes
    assert (metrics.read_text() == of_the_other) == finishes


def test_a_kept_result_is_of_the_same_spec_and_tokens(
    cells: list[Cell], folder: Path, write_tokens: Callable[..., None]
) -> None:
    first, second = cells[:2]
    metrics = train(first, folder)
    before = metrics.read_text()
    metrics.unlink()
    assert train(first, folder).read_text() == before
    other = folder / "work" / second.fingerprint
    other.mkdir()
    (other / "metrics.json").write_text(before)
    assert json.loads(train(second, folder).read_text())["row"]["fingerprint"] == second.fingerprint
    write_tokens(folder / "corpus" / first.spec.data / "tokens", seed=1)
    assert json.loads(train(first, folder).read_text())["train_sha256"] != json.loads(before)["train_sha256"]


def test_looking_at_a_lock_keeps_no_trainer_away(tmp_path: Path) -> None:
    """A look holds the lock for a moment. Here, looks without a pause, by another process."""
    (tmp_path / "lock").touch()
    looks = f"from pathlib import Path; from sparsedc.train.lock import held\nwhile True: held(Path({str(tmp_path)!r}))"
    with subprocess.Popen([sys.executable, "-c", "print(1, flush=True)\n" + looks], stdout=subprocess.PIPE) as looker:
        try:
            assert looker.stdout is not None
            looker.stdout.readline()
            for _ in range(100):
                with exclusive(tmp_path):
                    pass
        finally:
            looker.kill()

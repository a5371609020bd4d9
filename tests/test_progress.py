"""What a study will cost and how far it is, on made-up studies whose answers are known by hand."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from sparsedc.listing import listing, render
from sparsedc.progress import Progress, duration, study_progress
from sparsedc.speed import Speed, stated
from sparsedc.study import Study, load_study
from sparsedc.train.warm import RUN_VARIABLE

# --------------------------------------------------------------------------------------------------------- listing


@pytest.fixture
def study(small: dict[str, Any]) -> Study:
    """Two sizes × two densities × one or two epochs of 4,096 tokens."""
    small["grid"][0]["sizes"] = ["13k", "50k"]
    return load_study(small)


def test_listing_says_what_cells_are_and_cost(study: Study) -> None:
    table = listing(study, stated(2.0))
    assert list(table["cell"]) == list(study.cells)
    assert list(table["hours"]) == pytest.approx([flops / 2e12 / 3600 for flops in table["flops_dense"]])
    by_density = dict(list(table.groupby("density")))
    dense, sparse = by_density[1.0].reset_index(), by_density[0.5].reset_index()
    assert (dense["flops_dense"] == dense["flops_sparse"]).all()
    assert (dense["params_active"] == dense["params_total"]).all()
    assert (sparse["flops_dense"] == dense["flops_dense"]).all()
    assert (sparse["flops_sparse"] < sparse["flops_dense"]).all()
    assert (sparse["params_total"] - sparse["params_active"] == sparse["params_maskable"] / 2).all()


def test_totals_are_sums_and_largest_values_over_cells(study: Study) -> None:
    speed = stated(1e-3)
    table = listing(study, speed)
    total, hours, memory, disk = render(table, speed).splitlines()[-4:]
    # two sizes × two densities × (1 + 2) epochs of 4096 tokens
    assert total.startswith("8 cells, 49,152 tokens, ")
    assert f"{sum(table['flops_dense']):.3g} dense FLOPs" in total
    assert f" {sum(table['flops_dense']) / 1e9 / 3600:.3g} hours " in hours
    assert hours.endswith(" at 0.001 TFLOP/s, as stated")
    assert f" {max(table['device_gb']):.2g} GB of a GPU" in memory
    assert f" {max(table['checkpoints_gb']):.2g} GB of checkpoints for each cell" in disk
    assert f" {sum(table['results_gb']):.2g} GB of results" in disk


def test_what_may_be_thinned_is_summed_by_each_factor_that_varies(study: Study) -> None:
    speed = stated(1e-3)
    table = listing(study, speed)
    _, *summaries, _ = render(table, speed).split("\n\n")
    assert [summary.split()[0] for summary in summaries] == ["size", "density", "epochs", "method"]
    by_epochs = summaries[2].splitlines()
    assert [line.split()[0] for line in by_epochs] == ["epochs", "1", "2"]
    assert [line.split()[1] for line in by_epochs] == ["cells", "4", "4"]
    assert [line.split()[3] for line in by_epochs] == ["share", "33.3%", "66.7%"]
    assert [line.split()[0] for line in summaries[0].splitlines()] == ["size", "50k", "13k"]  # as they are trained


def test_hours_follow_the_size_and_cells_of_other_sizes_are_counted(study: Study) -> None:
    small, large = sorted({cell.spec.counts.total for cell in study.cells.values()})
    speed = Speed("as told", (small, (small * large) ** 0.5), (1.0, 3.0))
    table = listing(study, speed)
    rates = {params: 3.0 if params == large else 1.0 for params in (small, large)}
    expected = table["flops_dense"] / table["params_total"].map(rates) / 1e12 / 3600
    assert list(table["hours"]) == pytest.approx(list(expected))
    assert "; 4 cells are larger or smaller than all of these, and taken as the nearest" in render(table, speed)


# -------------------------------------------------------------------------------------------------------- progress


class Folder:
    """A study's folder with four cells of 100, 200, 300 and 400 FLOPs, ten times as many tokens, and a budget each."""

    def __init__(self, path: Path, now: float) -> None:
        self.path, self.now = path, now
        lines = ["cell\tfingerprint\tflops_dense\ttokens\tunique_tokens"]
        lines += [f"c{i}\tf{i}\t{i * 100.0}\t{i * 1000}\t{i}" for i in range(1, 5)]
        (path / "cells.tsv").write_text("\n".join(lines) + "\n")
        for i in range(1, 5):
            self._touch(self.budget(i), ago=2000)

    def budget(self, unique_tokens: int) -> Path:
        return self.path / "corpus" / "data" / "budgets" / f"{unique_tokens}.json"

    def started(self, cell: int, ago: float) -> None:
        self._touch(self.path / "work" / f"f{cell}" / "lock", ago)

    def finished(self, cell: int, ago: float) -> None:
        self._touch(self.path / "cells" / f"c{cell}" / "metrics.json", ago)

    def _touch(self, path: Path, ago: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (self.now - ago, self.now - ago))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """The clock stands still at `now`, 1,000 seconds after the run's start."""
    now = 1_700_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setenv(RUN_VARIABLE, f"1 {now - 1000}")
    return Folder(tmp_path, now)


def progress(folder: Folder) -> Progress:
    found = study_progress(folder.path, "data")
    assert found is not None
    return found


def test_time_left_is_by_the_flops_that_this_run_has_finished(folder: Folder) -> None:
    folder.started(4, ago=100)
    folder.started(3, ago=90)
    folder.finished(4, ago=50)
    found = progress(folder)
    assert (found.cells, found.done) == (4, 1)
    assert found.seconds_left == pytest.approx(100 * (100 + 200 + 300) / 400)
    assert found.tokens_per_second == pytest.approx(4000 / 100)
    assert str(found) == "1 of 4 cells, 40 tokens/s, about 2:30 left"


def test_cells_whose_budget_the_corpus_cannot_fill_are_not_waited_for(folder: Folder) -> None:
    folder.started(4, ago=100)
    folder.finished(4, ago=50)
    folder.budget(3).unlink()
    assert progress(folder).seconds_left == pytest.approx(100 * (100 + 200) / 400)
    assert str(progress(folder)).startswith("1 of 4 cells")


def test_cells_of_earlier_runs_are_done_but_tell_nothing_of_this_runs_speed(folder: Folder) -> None:
    folder.started(4, ago=5000)
    folder.finished(4, ago=4000)
    folder.started(3, ago=200)
    assert progress(folder) == Progress(4, 1, None, None)
    assert str(progress(folder)) == "1 of 4 cells"
    folder.finished(3, ago=0)
    assert progress(folder).seconds_left == pytest.approx(200 * (100 + 200) / 300)
    assert progress(folder).tokens_per_second == pytest.approx(3000 / 200)


def test_a_finished_study_has_no_time_left(folder: Folder) -> None:
    for cell in range(1, 5):
        folder.started(cell, ago=100)
        folder.finished(cell, ago=10)
    assert progress(folder).seconds_left == 0
    assert str(progress(folder)) == "4 of 4 cells, 100 tokens/s"


def test_without_a_run_only_cells_are_counted(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_VARIABLE)
    folder.started(4, ago=100)
    folder.finished(4, ago=50)
    assert progress(folder) == Progress(4, 1, None, None)


def test_a_cell_trained_by_hand_belongs_to_no_study(tmp_path: Path) -> None:
    assert study_progress(tmp_path, "data") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (247, "4:07"),
        (3599.7, "1:00:00"),
        (7509, "2:05:09"),
        (360000, "100:00:00"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text

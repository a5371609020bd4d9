"""The workflow end to end: a micro study on real text through Snakemake, and what reruns when something changes."""

import csv
import os
import re
import shutil
import time

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsedc.figures import MEASURED, OBSERVED, drawn
from sparsedc.law.fit import Fit
from sparsedc.law.select import Selection
from sparsedc.study import load_study
from workflows import ENVIRONMENT, ROOT, new_folder, planned, snakemake, write_study

STUDY = {
    "name": "micro",
    "corpus": {"source": "installed", "packages": ["pydantic", "typer"], "validation_fraction": 0.1},
    "tokenizer": {"vocab_size": 400},
    "sequence_length": 64,
    "training": {"batch_tokens": 512, "lr": 1e-2, "warmup_fraction": 0.2, "topology_updates": 4},
    "grid": [
        {
            "sizes": ["13k", "50k"],
            "densities": [1, 0.5],
            "unique_tokens": [4096, 8192],
            "epochs": [1, 2],
            "methods": ["rigl"],
        },
        {"role": "extrapolation", "sizes": ["100k"], "densities": [0.5], "unique_tokens": [8192], "epochs": [1]},
    ],
    # A cell that cannot but diverge keeps its row and stays out of the law.
    "cells": [
        {"size": "13k", "density": 0.5, "unique_tokens": 4096, "epochs": 1, "method": "set", "set": {"lr": 1e30}}
    ],
    "law": {"forms": ["chinchilla", "muennighoff"], "bootstrap": 20},
    "figures": {"unique_tokens": ["20k"]},
}

TABLE = "results/micro/runs.csv"  # where a test needs no law and no figures
FIGURES = drawn(cell.spec for cell in load_study(STUDY).cells.values())
#: rules that follow the runs table → how often
FROM_RUNS = {"law": 1, "contrasts": 1, **{f"figure_{name}": 1 for name in FIGURES}, "summary": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The micro study, done once. Tests that change something work on a copy."""
    folder = new_folder(tmp_path_factory.mktemp("study"))
    write_study(folder, STUDY)
    result = snakemake(folder)
    return folder, result


@pytest.fixture
def copy(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder, symlinks=True)
    return folder


def rows(folder):
    with (folder / TABLE).open() as lines:
        return {row["cell"]: row for row in csv.DictReader(lines)}


def test_from_text_to_law(finished):
    folder, result = finished
    results = folder / "results/micro"
    study = load_study(STUDY)
    table = rows(folder)
    assert set(table) == set(study.cells)
    assert sorted(row["status"] for row in table.values()) == ["diverged"] + ["ok"] * 17
    for cell, row in table.items():
        spec = study.cells[cell].spec
        assert row["role"] == study.cells[cell].role
        assert row["fingerprint"] == study.cells[cell].fingerprint
        if row["status"] == "ok":
            assert int(row["tokens"]) == spec.unique_tokens * spec.epochs
            assert 2 < float(row["val_loss"]) < 6.1  # below the log of the vocabulary, 5.99, or nearly
    selection = Selection.load(results / "law/selection.json")
    assert {fit.form: fit.n_runs for fit in selection.fits} == {"chinchilla": 16, "muennighoff": 16}
    law = Fit.load(results / "law/law.json")
    assert law.parameters == selection.best.parameters
    if law.usable:
        assert {len(draws) for draws in law.draws.values()} == {20}
    with (results / "law/predictions.csv").open() as lines:
        assert sum(row["role"] == "extrapolation" for row in csv.DictReader(lines)) == 1
    for figure in FIGURES:
        assert (results / f"figures/{figure}.png").stat().st_size > 5000
        assert (results / f"figures/{figure}.svg").stat().st_size > 5000
    with (results / "contrasts.csv").open() as lines:
        contrasts = list(csv.DictReader(lines))
    # The diverged cell, the only one of its method, is in none; the larger model has no dense one of its size.
    assert {row["method"] for row in contrasts} == {"rigl"}
    assert sum(row["comparison"] == "equal_total" and row["difference"] != "" for row in contrasts) == 8
    assert {row["verdict"] for row in contrasts} == {"undecided"}  # one seed
    assert (results / "optima.csv").read_text().count("density,") > 1
    assert "Sparse against dense, equal total parameters" in (results / "summary.html").read_text()
    assert {"topology", "contrasts"} <= set(FIGURES)
    assert "stability" not in FIGURES  # one policy for newborn weights
    with (results / "topology.csv").open() as lines:
        dynamic = {cell for cell, each in study.cells.items() if each.spec.method in ("rigl", "set")}
        assert {row["cell"] for row in csv.DictReader(lines)} == dynamic
    assert "U = 20k" in (results / "figures/isoflop.svg").read_text()  # a budget that no cell has
    assert "18 of 18 cells" in result.stderr
    assert "tokens/s" in result.stderr
    assert "left" in result.stderr
    log = (results / "logs/law.log").read_text()
    assert "diverged" in log


def test_report(finished):
    folder, _ = finished
    snakemake(folder, "--report", "results/micro/report.html")
    report = (folder / "results/micro/report.html").read_text()
    assert "loss_by_epochs" in report
    assert 'src="http' not in report


def test_law_and_figures_from_the_table_alone(finished, tmp_path):
    """Without text and cells, as a committed table is rebuilt."""
    folder = new_folder(tmp_path)
    write_study(folder, {**STUDY, "corpus": {"source": "folder", "path": "nowhere"}})
    (folder / "results/micro").mkdir(parents=True)
    for name in ("runs.csv", "topology.csv"):
        shutil.copy(finished[0] / "results/micro" / name, folder / "results/micro" / name)
    assert "nowhere: there is no such folder" in snakemake(folder, "--dry-run", check=False).stdout
    from_table = ("--config", "from_table=true")
    assert planned(folder, *from_table) == FROM_RUNS
    snakemake(folder, *from_table)
    for name in ("law/law.json", "law/predictions.csv", "contrasts.csv", "figures/isoloss.png"):
        assert (folder / "results/micro" / name).read_bytes() == (finished[0] / "results/micro" / name).read_bytes()
    assert planned(folder, *from_table) == {}
    table = folder / "results/micro/runs.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    os.utime(table, (0, 0))  # another table, with a date of its own
    assert planned(folder, *from_table)["law"] == 1
    wrong = snakemake(folder, "--config", "from_table=csv", check=False)
    assert "from_table = csv: must be true or false" in wrong.stderr


def test_nothing_to_do_twice(finished):
    folder, _ = finished
    assert planned(folder) == {}


def test_a_table_does_not_stand_for_a_cell_that_is_missing(copy):
    """As where it was merged from elsewhere."""
    cell = next(iter(load_study(STUDY).cells))
    (copy / f"results/micro/cells/{cell}/metrics.json").unlink()
    assert planned(copy)["train"] == 1


def test_changed_hyperparameter_reruns_its_cell_and_what_depends_on_it(copy):
    before = rows(copy)
    picked = {"size": "50k", "density": 1, "unique_tokens": 8192, "epochs": 2}
    write_study(copy, {**STUDY, "overrides": [{**picked, "set": {"weight_decay": 0.5}}]})
    after_law = {"index": 1, "runs": 1, **FROM_RUNS}
    assert planned(copy) == {"study": 1, "spec": 1, "train": 1, **after_law}
    trained = {path: path.stat().st_mtime_ns for path in (copy / "results/micro/cells").glob("*/metrics.json")}
    snakemake(copy, TABLE)
    after = rows(copy)
    new, gone = set(after) - set(before), set(before) - set(after)
    assert len(new) == len(gone) == 1
    assert float(after[new.pop()]["weight_decay"]) == 0.5
    assert {cell: after[cell] for cell in before if cell in after} == {
        cell: row for cell, row in before.items() if cell in after
    }
    assert all(path.stat().st_mtime_ns == moment for path, moment in trained.items())
    # Back to the old study: its cells are all still there.
    write_study(copy, STUDY)
    assert planned(copy) == {"study": 1, **after_law}


def test_added_cell_trains_alone_and_removed_cell_trains_none(copy):
    after_law = {"study": 1, "index": 1, "runs": 1, **FROM_RUNS}
    extra = {"size": "13k", "density": 1, "unique_tokens": 4096, "epochs": 3, "method": "dense"}
    write_study(copy, {**STUDY, "cells": [*STUDY["cells"], extra]})
    assert planned(copy) == {"spec": 1, "train": 1, **after_law}
    write_study(copy, {**STUDY, "cells": []})
    assert planned(copy) == after_law


def test_models_are_kept_where_the_study_says_so(copy):
    before = rows(copy)
    after_law = {"runs": 1, **FROM_RUNS}
    some = {**STUDY, "keep_models": [{"size": "100k"}, {"size": "13k", "density": 0.5, "method": "set"}]}
    write_study(copy, some)
    assert planned(copy) == {"train_kept": 2, **after_law}
    snakemake(copy)
    after = rows(copy)
    assert {cell: row["val_loss"] for cell, row in after.items()} == {
        cell: row["val_loss"] for cell, row in before.items()
    }
    models = sorted((copy / "results/micro/models").iterdir())
    assert {path.name: after[path.name]["status"] for path in models} == {
        next(cell for cell in after if cell.startswith("100k")): "ok",
        next(cell for cell in after if "-set-" in cell): "diverged",
    }
    active = int(after[models[0].name]["params_active"])
    model = AutoModelForCausalLM.from_pretrained(models[0])
    assert active - 10 < sum(int(parameter.count_nonzero()) for parameter in model.parameters()) <= active
    assert AutoTokenizer.from_pretrained(models[0])("text")["input_ids"]
    assert planned(copy) == {}
    write_study(copy, STUDY)  # the metrics of what was trained by one rule are those of the other
    assert planned(copy) == {}
    assert all(path.exists() for path in models)
    write_study(copy, {**STUDY, "keep_models": [{}]})
    assert planned(copy) == {"train_kept": 16, **after_law}
    shutil.rmtree(models[0])
    write_study(copy, some)
    assert planned(copy) == {"train_kept": 1, **after_law}


def test_touched_files_of_the_same_content_rerun_nothing(copy):
    for path in (copy / "results/micro/specs").iterdir():
        path.touch()
    (copy / "config.yaml").touch()
    assert planned(copy) == {}


def test_a_deleted_spec_trains_nothing_again(copy):
    specs = sorted((copy / "results/micro/specs").iterdir())
    specs[0].unlink()
    assert planned(copy) == {}
    extra = {"size": "13k", "density": 1, "unique_tokens": 4096, "epochs": 3, "method": "dense"}
    write_study(copy, {**STUDY, "cells": [*STUDY["cells"], extra]})
    assert planned(copy)["train"] == 1
    snakemake(copy, str(specs[0].relative_to(copy)))  # made anew, later than what was trained from it
    assert specs[0].exists()
    assert planned(copy)["train"] == 1


def test_long_cells_are_trained_first(copy):
    """Up to what cells that begin together do, with a trainer that only notes its cells and fails, and where the
    budget of the longest takes longest to make."""
    for made in ("cells", "specs", "runs.csv"):
        path = copy / "results/micro" / made
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for budget in copy.glob("results/micro/corpus/*/budgets/*.json"):
        budget.unlink()
    trainer = copy / "bin/sparsedc"
    trainer.parent.mkdir()
    trainer.write_text(
        '#!/bin/sh\ncase "$*" in *"--unique-tokens 8192"*) sleep 3 ;; esac\n'
        f'[ "$1" = train ] || exec {shutil.which("sparsedc", path=ENVIRONMENT["PATH"])} "$@"\n'
        f'basename "$2" .json >> {copy / "order"}; exit 1\n'
    )
    trainer.chmod(0o755)
    result = snakemake(copy, check=False, PATH=f"{trainer.parent}:{ENVIRONMENT['PATH']}")
    assert re.search(
        r"18 jobs failed, \d+ not run:\nended without a word\n    18 jobs, such as results/", result.stderr
    )
    wanted, trained = list(load_study(STUDY).cells), (copy / "order").read_text().split()
    assert sorted(trained) == sorted(wanted)
    assert max(abs(place - wanted.index(cell)) for place, cell in enumerate(trained)) < 5


def test_a_clock_that_was_set_back_is_told_before_training(copy):
    """All that is there is from the future: Snakemake would train a new cell, and throw its metrics away."""
    now = time.time()
    for path in (copy / "results").rglob("*"):
        os.utime(path, (now + 86400, now + 86400))
    assert planned(copy) == {}
    extra = {"size": "13k", "density": 1, "unique_tokens": 4096, "epochs": 3, "method": "dense"}
    write_study(copy, {**STUDY, "cells": [extra]})
    result = snakemake(copy, check=False)
    assert result.returncode == 1
    assert "error: clock = " in result.stderr
    assert "held-out loss" not in result.stderr
    for path in (copy / "results").rglob("*"):
        os.utime(path, (now, now))
    assert planned(copy)["train"] == 1
    snakemake(copy, TABLE)
    assert len(rows(copy)) == 18  # one cell more, one less


def other_text(folder):
    text = folder / "text"
    text.mkdir(exist_ok=True)
    for number in range(60):
        (text / f"{number}.txt").write_text(" ".join(f"{word} {number * word}" for word in range(300)))
    return {"source": "folder", "path": str(text), "validation_fraction": 0.1}


ALL_CELLS = {"documents": 1, "tokenizer": 1, "tokens": 1, "train": 18}


def test_changed_text_retrains_all_also_where_the_study_changes_with_it(copy):
    """Snakemake spares jobs downstream of a planned one their own checks: the study must not be upstream of tokens."""
    write_study(copy, {**STUDY, "corpus": other_text(copy)})
    assert ALL_CELLS.items() <= planned(copy).items()
    snakemake(copy, TABLE)
    before = rows(copy)
    (copy / "text/0.txt").write_text("now it says something else " * 400)
    assert ALL_CELLS.items() <= planned(copy).items()
    extra = {"size": "13k", "density": 1, "unique_tokens": 4096, "epochs": 3, "method": "dense"}
    grown = {**STUDY, "corpus": other_text(copy), "cells": [*STUDY["cells"], extra]}
    (copy / "text/1.txt").write_text("and this says something else, too " * 400)
    write_study(copy, grown)
    assert {**ALL_CELLS, "train": 19}.items() <= planned(copy).items()
    elsewhere = copy / "elsewhere"
    shutil.copytree(copy / "text", elsewhere)
    write_study(copy, {**grown, "corpus": {**grown["corpus"], "path": str(elsewhere)}})
    assert {**ALL_CELLS, "train": 19}.items() <= planned(copy).items()
    assert rows(copy) == before


def test_edited_spec_is_refused(copy):
    spec = next((copy / "results/micro/specs").glob("50k-d1-*"))
    spec.write_text(spec.read_text().replace('"lr":0.01', '"lr":0.02'))
    result = snakemake(copy, check=False)
    assert result.returncode != 0
    assert "does not match its hash" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (copy / f"results/micro/cells/{spec.stem}/metrics.json").exists()


def test_corrupt_tokens_are_refused(copy):
    tokens = next((copy / "results/micro/corpus").glob("*/tokens/train.bin"))
    with tokens.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\xff")
    shutil.rmtree(next((copy / "results/micro/cells").glob("13k-d1-*")))
    (copy / TABLE).unlink()
    result = snakemake(copy, check=False)
    assert result.returncode != 0
    assert f"{tokens.relative_to(copy)}: its sha256 is not the one in its manifest. Delete it" in result.stderr
    tokens.unlink()
    assert planned(copy)["tokens"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": [{**STUDY["grid"][0], "unique_tokens": ["1B"]}]}, "unique_tokens = 1000000000: the train split has"),
        ({"corpus": {"source": "installed", "packages": ["no_such_package"]}}, "corpus.packages = no_such_package"),
    ],
)
def test_study_that_the_corpus_cannot_fill_stops_before_training(copy, change, message):
    write_study(copy, {**STUDY, **change, "name": "micro"})
    before = set((copy / "results/micro/cells").iterdir())
    result = snakemake(copy, check=False)
    assert result.returncode != 0
    failed, error, log = result.stderr[result.stderr.index("1 job failed, ") :].splitlines()[:3]  # again, at the end
    assert failed.endswith(" not run:")
    assert error.startswith(f"error: {message}")
    assert error in (copy / log.removeprefix("    1 job, ")).read_text()
    assert result.stderr.count(error) == 2
    assert set((copy / "results/micro/cells").iterdir()) == before


def test_bad_study_is_one_message(tmp_path):
    folder = new_folder(tmp_path)
    write_study(folder, {**STUDY, "sequence_lenght": 64})
    result = snakemake(folder, check=False)
    assert result.returncode != 0
    assert "sequence_lenght" in result.stderr
    assert "Did you mean sequence_length?" in result.stderr
    assert not (folder / "results").exists()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The study of published constants, done once."""
    folder = new_folder(tmp_path_factory.mktemp("published"))
    snakemake(folder, "--configfile", str(ROOT / "studies/published.yaml"))
    return folder


def test_published_study_needs_no_cells(published):
    results = published / "results/published"
    figures = {path.stem for path in (results / "figures").glob("*.svg")}
    assert figures == set(FIGURES) - MEASURED - OBSERVED
    assert figures == {path.stem for path in (results / "figures").glob("*.png")}
    law = Fit.load(results / "law/law.json")
    assert law.status == "published"
    assert Selection.load(results / "law/selection.json").best == law
    with (results / "runs.csv").open() as lines:
        assert [row["role"] for row in csv.DictReader(lines)] == ["extrapolation"] * 11
    figure = (results / "figures/optimal_density.svg").read_text()
    assert all(f"U = {budget} unique tokens" in figure for budget in ("1.3B", "13B", "130B"))
    assert "R² 0.9136" in (results / "summary.html").read_text()
    assert not (results / "specs").exists()
    assert not (results / "contrasts.csv").exists()
    study = ("--configfile", str(ROOT / "studies/published.yaml"))
    assert planned(published, *study) == {}
    assert planned(published, *study, "--config", "from_table=true") == {}  # the same: it has no table to begin with


def test_report_of_the_published_study_says_what_was_drawn_otherwise(published):
    study = ("--configfile", str(ROOT / "studies/published.yaml"))
    snakemake(published, *study, "--report", "results/published/report.html")
    report = (published / "results/published/report.html").read_text()
    assert report.count("Drawn otherwise than in the released notebook") == 3
    assert "Many small models were trained" not in report
    assert "{%" not in report

"""The command line: exit statuses, what goes to which stream, and which imports a command does without."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from measured import noisy, table
from measured import run as measured
from sparsedc.cli import app, main
from sparsedc.contrasts import read_contrasts
from sparsedc.errors import InputError
from sparsedc.runs import read_runs, write_runs
from sparsedc.spec import read_spec
from sparsedc.study import load_study

STUDY: dict[str, Any] = {
    "name": "small",
    "corpus": {"source": "installed"},
    "tokenizer": {"vocab_size": 512},
    "sequence_length": 64,
    "sustained_tflops": 0.5,
    "training": {"batch_tokens": 256},
    "grid": [{"sizes": ["13k"], "densities": [1, 0.5], "unique_tokens": [4096], "epochs": [1, 2]}],
    "cells": [
        {"size": "50k", "density": 0.5, "unique_tokens": 8192, "epochs": 1, "role": "extrapolation", "method": "set"}
    ],
}


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def run(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of `sparsedc ARGUMENTS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["sparsedc", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_check_counts_roles(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("study", "check", study_file, monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == f"{study_file}: 5 cells (4 fit, 1 extrapolation)\n"


def test_a_study_of_published_constants_has_no_cells_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Path(__file__).parents[1] / "studies" / "published.yaml"
    assert run("study", "check", study, "--runs", tmp_path / "none.csv", monkeypatch=monkeypatch) == 0  # as `make law`
    assert capsys.readouterr().out == f"{study}: the published law, no cells\n"


def test_show_as_json_and_as_text(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = load_study(study_file).cells
    assert run("study", "show", study_file, "--json", monkeypatch=monkeypatch) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["cell"] for row in rows] == list(cells)
    assert rows[0]["hours"] == pytest.approx(rows[0]["flops_dense"] / 0.5e12 / 3600)
    assert run("study", "show", study_file, "--json", "--tflops", 50, monkeypatch=monkeypatch) == 0
    faster = json.loads(capsys.readouterr().out)
    assert faster[0]["hours"] == pytest.approx(rows[0]["hours"] / 100)
    assert run("study", "show", study_file, monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().out
    assert all(cell in text for cell in cells)
    assert "5 cells" in text


def test_show_takes_its_speed_from_one_source(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Path(__file__).parents[1] / "results" / "stability" / "runs.csv"  # of one size
    runs = read_runs(table)
    assert run("study", "show", study_file, "--json", "--measured", table, monkeypatch=monkeypatch) == 0
    row = json.loads(capsys.readouterr().out)[0]
    rate = (runs["flops_dense"] / runs["seconds"]).median()
    assert row["hours"] == pytest.approx(row["flops_dense"] / rate / 3600)
    both = ("--measured", table, "--tflops", 50)
    assert run("study", "show", study_file, *both, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "error: tflops = 50.0: --measured says it already. Give one of the two.\n"
    for wrong in ("-1.0", "inf", "nan"):
        assert run("study", "show", study_file, "--tflops", wrong, monkeypatch=monkeypatch) == 2
        assert f"error: tflops = {wrong}: is not a number above 0. " in capsys.readouterr().err


def test_specs_are_what_the_trainer_reads(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("study", "specs", study_file, "--out", tmp_path / "specs", monkeypatch=monkeypatch) == 0
    cells = load_study(study_file).cells
    assert {path.stem for path in (tmp_path / "specs").iterdir()} == cells.keys()
    for name, cell in cells.items():
        assert read_spec(tmp_path / "specs" / f"{name}.json").content() == cell.spec.content()


def test_index_lists_the_cells(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("study", "index", study_file, tmp_path / "new" / "cells.tsv", monkeypatch=monkeypatch) == 0
    lines = (tmp_path / "new" / "cells.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["cell", *load_study(study_file).cells]


def test_results_is_where_the_workflow_puts_them(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("study", "results", study_file, monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == "results/small\n"


BAD = {
    "unknown key": ({"sequence_lenght": 64}, "sequence_lenght = 64: unknown key. Did you mean sequence_length?"),
    "density": ({"grid": [{**STUDY["grid"][0], "densities": [1.1]}]}, "grid[0].densities[0] = 1.1: "),
    "size": ({"grid": [{**STUDY["grid"][0], "sizes": ["9k"]}]}, "grid[0].sizes[0] = 9k: no such size. Use 13k, "),
    "method": ({"grid": [{**STUDY["grid"][0], "methods": ["rig"]}]}, "grid[0].methods[0] = rig: "),
    "batch": ({"training": {"batch_tokens": 100}}, "batch_tokens = 100: "),
    "exclusion": ({"exclude": [{"size": "9k"}]}, "exclude[0] = {'size': ['9k']}: picks no cell of the study. "),
    "sweep": ({"grid": [{**STUDY["grid"][0], "sweep": {"lr": ["x"]}}]}, "lr = x: "),
    "no cells": ({"grid": [], "cells": []}, "grid = empty: the study has no cells. "),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("command", ["check", "show"])
def test_bad_input_is_one_message_and_status_2(
    command: str,
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    assert run("study", command, path, monkeypatch=monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_other_commands_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    none = tmp_path / "none"
    for arguments in (
        ["study", "specs", none, "--out", none],
        ["runs", "collect", none, none],
        ["runs", "merge", none, "--out", none],
        ["law", "fit", none, "--out", none, "--form", "chinchilla"],
    ):
        assert run(*arguments, monkeypatch=monkeypatch) == 2
        assert str(none) in capsys.readouterr().err


def test_contrast_tells_and_writes_who_was_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    single, several, out = tmp_path / "single.csv", tmp_path / "several.csv", tmp_path / "new" / "contrasts.csv"
    write_runs(table(measured(4.0), measured(3.9, density=0.5)), single)
    write_runs(table(*noisy(4)), several)
    assert run("runs", "contrast", single, "--out", out, monkeypatch=monkeypatch) == 0
    said, err = capsys.readouterr()
    assert err == ""
    assert said.startswith("No verdicts: no configuration was run with several seeds")
    assert "equal total parameters         1M             1 of 1\n" in said
    assert "Density of the lowest loss" in said
    assert set(read_contrasts(out)["verdict"]) == {"undecided"}
    assert (out.parent / "optima.csv").read_text().count("\n") == 2
    assert run("runs", "contrast", single, "--noise-of", several, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert said.startswith("Noise between seeds: sparse 0.0100 nats (SD, 4 degrees of freedom), taken for both sides")
    assert "equal total parameters         1M             1 / 0 / 0\n" in said


def test_contrast_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    single, none = tmp_path / "single.csv", tmp_path / "none.csv"
    write_runs(table(measured(4.0), measured(3.9, density=0.5)), single)
    for arguments, message in (
        ([none], f"runs table = {none}: no such file. "),
        ([single, "--noise-of", none], f"runs table = {none}: no such file. "),
        ([single, "--columns", "val_loss=x"], "columns = val_loss=x: "),
        (
            [single, "--noise-of", single],
            f"noise-of = {single}: no configuration was run with several seeds. Name a table with several seeds",
        ),
    ):
        assert run("runs", "contrast", *arguments, "--out", tmp_path / "out.csv", monkeypatch=monkeypatch) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1
        assert not (tmp_path / "out.csv").exists()


def test_what_cannot_be_written_is_told_by_its_own_name(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run("study", "index", study_file, tmp_path / "file" / "cells.tsv", monkeypatch=monkeypatch) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'file'}: File exists\n"


def test_a_folder_where_a_file_is_to_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sparsedc.law.table.read_table", lambda *_: pytest.fail("it has begun"))
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    assert run("law", "fit", "runs.csv", "--form", "chinchilla", "--out", "folder", monkeypatch=monkeypatch) == 2
    assert "is a directory" in capsys.readouterr().err
    assert run("law", "compare", "runs.csv", "--out", "file", monkeypatch=monkeypatch) == 2
    assert "is a file" in capsys.readouterr().err


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version", monkeypatch=monkeypatch) == 0
    citation = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text())
    assert capsys.readouterr().out == f"sparsedc {citation['version']}\n"


def test_usage_errors_have_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("study", "chekc", monkeypatch=monkeypatch) == 2
    assert "chekc" in capsys.readouterr().err
    assert run("study", "check", monkeypatch=monkeypatch) == 2


def test_without_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparsedc", "study", "check", "none.yaml"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == "error: study file = none.yaml: No such file or directory. Name a study file.\n"


def test_long_values_are_cut_in_messages() -> None:
    message = str(InputError("field", "x" * 1000, "is too long", "Shorten it."))
    assert len(message) < 300
    assert message.endswith("...: is too long. Shorten it.")


@pytest.mark.parametrize(
    "modules",
    [
        "sparsedc.cli, sparsedc.study, sparsedc.law.select, sparsedc.collect, sparsedc.listing, sparsedc.optima, "
        "sparsedc.figures"
    ],
)
def test_what_needs_no_torch_imports_none(modules: str) -> None:
    program = f"import sys, {modules}; print(sorted({{'torch', 'transformers', 'datasets'}} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_checking_a_study_of_any_method_imports_no_torch(study_file: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sparsedc.study import load_study; "
        f"load_study(Path({str(study_file)!r})); print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


@pytest.mark.parametrize("content", [None, "{"])
def test_what_is_no_spec_is_refused_without_waiting_for_torch(content: str | None, tmp_path: Path) -> None:
    spec = tmp_path / "cell.json"
    if content is not None:
        spec.write_text(content)
    program = (
        "import sys; from sparsedc.cli import main\n"
        f"sys.argv = ['sparsedc', 'train', {str(spec)!r}, 'metrics.json']\n"
        "try: main()\n"
        "except SystemExit as ended: print(ended.code, 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "2 False\n"
    assert ended.stderr.startswith(f"error: spec = {spec}: ")


def test_every_argument_and_option_has_its_help() -> None:
    def silent(command: Any, name: str) -> list[str]:
        own = [f"{name} {each.name}" for each in command.params if not getattr(each, "help", None)]
        return own + [
            each for sub, inner in getattr(command, "commands", {}).items() for each in silent(inner, f"{name} {sub}")
        ]

    assert silent(get_command(app), "sparsedc") == []


def test_every_dependency_has_its_reason() -> None:
    repository = Path(__file__).parents[1]
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    required = {re.split("[<>=]", requirement)[0] for requirement in project["dependencies"]}
    lines = (repository / "docs" / "dependencies.md").read_text().splitlines()
    rows = {line.split("|")[1].strip() for line in lines if line.startswith("| ")} - {"package"}
    assert rows == required

"""`sparsedc law …` and `sparsedc plan`: other people's tables from CSV to numbers, files, streams and messages."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sparsedc.cli import main

DATA = Path(__file__).parent / "law" / "data"
GEMSTONES = "params_active=params_active_precise,val_loss=final_loss"
#: what Muennighoff et al. froze when they fitted R_N* and R_D*
FROZEN = f"E={math.exp(0.6254804)},A={math.exp(6.255414)},B={math.exp(7.3049974)},alpha=0.3526596"

pytestmark = pytest.mark.filterwarnings("always::sparsedc.errors.SparsedcWarning")  # as on a command line


class Sparsedc:
    """Runs `sparsedc` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object, status: int = 0) -> tuple[str, str]:
        """What it says on its two streams; its exit status has to be `status`."""
        self.monkeypatch.setattr(sys, "argv", ["sparsedc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capsys.readouterr()
        assert int(ended.value.code or 0) == status, err
        return out, err

    def refuses(self, *arguments: object) -> str:
        """Its one message about a bad input."""
        out, err = self(*arguments, status=2)
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err


@pytest.fixture
def sparsedc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sparsedc:
    return Sparsedc(monkeypatch, capsys)


def written(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


@pytest.mark.parametrize(
    ("table", "objective", "alpha", "beta", "e"),
    [
        ("gemstones_hot", 0.0019816129, 0.2928686863, 0.712872206, 0.7622636901),
        ("gemstones_cool_end", 0.0019640865, 0.3002728205, 0.580241077, 0.7297863295),
    ],
)
def test_fit_meets_published_coefficients(
    table: str, objective: float, alpha: float, beta: float, e: float, sparsedc: Sparsedc, tmp_path: Path
) -> None:
    out, err = sparsedc(
        "law", "fit", DATA / f"{table}.csv", "--form", "chinchilla", "--columns", GEMSTONES,
        "--out", tmp_path / "f.json",
    )  # fmt: skip
    fit = written(tmp_path / "f.json")
    assert fit["objective"] == pytest.approx(objective, rel=1e-4)
    assert fit["parameters"]["alpha"] == pytest.approx(alpha, abs=5e-4)
    assert fit["parameters"]["beta"] == pytest.approx(beta, abs=2e-3)
    assert math.log(fit["parameters"]["E"]) == pytest.approx(e, abs=1e-3)
    assert (fit["form"], fit["status"], fit["params"]) == ("chinchilla", "ok", "active")
    assert fit["n_runs"] == len(pd.read_csv(DATA / f"{table}.csv"))
    assert out.startswith("chinchilla: ok\n")
    assert f"{fit['parameters']['alpha']:.6g}" in out
    assert err == ""


def test_fit_flags_one_width(sparsedc: Sparsedc, tmp_path: Path) -> None:
    table = DATA / "gemstones_hot_100bplus_512x.csv"
    out, _ = sparsedc(
        "law", "fit", table, "--form", "chinchilla", "--columns", GEMSTONES, "--starts", 8, "--bootstrap", 10,
        "--out", tmp_path / "f.json",
    )  # fmt: skip
    fit = written(tmp_path / "f.json")
    assert fit["status"] != "ok"
    assert "alpha" in " ".join(fit["reasons"])
    assert out.startswith(f"chinchilla: {fit['status']}\n")
    point = ("--params-active", "94776832", "--unique-tokens", "100B")
    said, refused = sparsedc("law", "predict", tmp_path / "f.json", *point, status=2)
    assert not said
    assert "is not identifiable" in refused


def test_fit_finds_the_lower_minimum_and_says_that_it_is_flat(sparsedc: Sparsedc, tmp_path: Path) -> None:
    out, err = sparsedc(
        "law", "fit", DATA / "datablations_c4_fit182.csv", "--form", "muennighoff", "--columns", "params_active=params",
        "--fix", FROZEN, "--bootstrap", 20, "--profile", "R_D_star", "--out", tmp_path / "f.json",
    )  # fmt: skip
    fit = written(tmp_path / "f.json")
    assert fit["objective"] <= 0.0158047
    assert fit["profiles"]["R_D_star"]["high"] is None
    assert fit["intervals"].keys() == {"R_D_star", "R_N_star"}
    assert "profile of R_D_star" in out
    assert "the runs do not bound it above" in out
    assert out.count(" held") == 4
    assert "20 resamplings" in err


def test_predict_published_on_its_eleven_points(sparsedc: Sparsedc) -> None:
    from sparsedc.law.published import validation_runs

    for run in validation_runs().to_dict("records"):
        given = [
            *("--params-active", run["params_active"], "--unique-tokens", run["unique_tokens"]),
            *("--density", run["density"]),
        ]
        out, _ = sparsedc("law", "predict", "published", *given, "--tokens", run["tokens"])
        assert round(float(out), 4) == run["published_pred"]
        out, err = sparsedc("law", "predict", "published", *given, "--epochs", run["epochs"], "--json")
        answer = json.loads(out)
        assert round(answer["loss"], 4) == run["published_pred"]
        assert answer["interval"][0] < answer["loss"] < answer["interval"][1]
        assert len(answer["warnings"]) == err.count("warning: ")


def test_predict_takes_one_epoch_of_a_dense_model_unless_told_otherwise(sparsedc: Sparsedc) -> None:
    given = ["law", "predict", "published", "--params-active", "0.1B"]
    short, err = sparsedc(*given, "--unique-tokens", "1,300M")
    long, _ = sparsedc(*given, "--unique-tokens", 1.3e9, "--tokens", 1.3e9, "--density", 1)
    assert short == long
    assert err == ""
    _, err = sparsedc("law", "predict", "published", "--params-active", "100B", "--unique-tokens", "1B")
    assert err.startswith("warning: N (paper) 1e+11 is outside the fitted ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--tokens": "-5"}, "tokens = -5: is not a number above 0"),
        ({"--tokens": "abc"}, "tokens = abc: is not a number above 0"),
        ({"--unique-tokens": "0"}, "unique-tokens = 0: "),
        ({"--density": "0"}, "density = 0: "),
        ({"--density": "1.2"}, "density = 1.2: must be at most 1"),
        ({"--params-active": "nan"}, "params-active = nan: "),
        ({"--epochs": "-1"}, "epochs = -1: "),
        ({"--epochs": "2", "--tokens": "2e9"}, "epochs = 2: --tokens says it already"),
    ],
)
def test_predict_refuses_what_is_no_run(changes: dict[str, str], message: str, sparsedc: Sparsedc) -> None:
    options = {"--params-active": "1e8", "--unique-tokens": "1B"} | changes
    assert message in sparsedc.refuses(
        "law", "predict", "published", *(word for pair in options.items() for word in pair)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "params_active=N"], "has no column N. It has params_active_precise, width, depth, tokens, "),
        ([], "lacks the column(s) params_active, val_loss"),
        (["--columns", GEMSTONES, "--params", "body"], "params = body: needs the column params_embedding"),
        (["--columns", GEMSTONES, "--delta", "0"], "delta = 0: is not a number above 0"),
        (["--columns", GEMSTONES, "--starts", "0"], "starts = 0: "),
        (["--columns", GEMSTONES, "--bootstrap", "1"], "bootstrap = 1: must be 0, or at least 2"),
        (["--columns", GEMSTONES, "--fix", "alpha"], "fix = alpha: "),
        (["--columns", GEMSTONES, "--fix", "alpha=x"], "fix alpha = x: is not a number"),
        (["--columns", GEMSTONES, "--fix", "gamma=1"], "fixed = ['gamma']: "),
        (["--columns", GEMSTONES, "--likelihood", "cauchy"], "likelihood = cauchy: "),
        (["--columns", GEMSTONES, "--residuals", "square"], "residuals = square: "),
        (["--columns", GEMSTONES, "--form", "kaplan"], "form = kaplan: "),
    ],
)
def test_fit_refuses(options: list[str], message: str, sparsedc: Sparsedc, tmp_path: Path) -> None:
    table = DATA / "gemstones_hot.csv"
    form = [] if "--form" in options else ["--form", "chinchilla"]
    assert message in sparsedc.refuses("law", "fit", table, *form, *options, "--out", tmp_path / "f.json")
    assert not (tmp_path / "f.json").exists()


def test_a_folder_for_a_file_and_a_file_for_a_folder(sparsedc: Sparsedc, tmp_path: Path) -> None:
    law = tmp_path / "law.json"
    law.write_text("{}")
    for command in (["law", "predict", tmp_path, "--params-active", 1e8], ["plan", "--flops", 1e18, "--law", tmp_path]):
        told = sparsedc.refuses(*command, "--unique-tokens", "1B")
        assert told == f"error: law = {tmp_path}: is a folder. Name the file law.json in it.\n"
    table = Path(__file__).parents[1] / "results" / "stability" / "runs.csv"
    for command in (["figure", "isoloss"], ["summary"]):
        told = sparsedc.refuses(*command, "--runs", table, "--law", law, "--out", tmp_path / "out")
        assert told.startswith(f"error: law = {law}: is no folder. ")


def test_compare_refuses_a_bootstrap_before_it_fits(sparsedc: Sparsedc) -> None:
    given = ["law", "compare", DATA / "gemstones_hot.csv", "--columns", GEMSTONES]
    assert "bootstrap = -1: must be 0, or at least 2" in sparsedc.refuses(*given, "--bootstrap", -1)


def test_a_fit_file_of_another_version(sparsedc: Sparsedc, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"format": 1}')
    for command in (["law", "predict"], ["plan", "--flops", 1e18, "--law"]):
        given = [*command, tmp_path / "old.json", "--unique-tokens", "1B"]
        given += ["--params-active", 1e8] if command[0] == "law" else []
        assert "is not a fit of format" in sparsedc.refuses(*given)


def test_compare_writes_what_the_workflow_reads(sparsedc: Sparsedc, tmp_path: Path) -> None:
    out, _ = sparsedc(
        "law", "compare", DATA / "gemstones_hot.csv", "--columns", GEMSTONES, "--form", "chinchilla", "--form", "gadre",
        "--bootstrap", 10, "--out", tmp_path,
    )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {
        "comparison.csv", "law.json", "predictions.csv", "selection.json",
    }  # fmt: skip
    table = pd.read_csv(tmp_path / "comparison.csv")
    assert set(table["name"]) == {"chinchilla", "gadre", "mean", "dense law", "nearest run"}
    law = written(tmp_path / "law.json")
    assert law["form"] == table["name"][0] == "chinchilla"
    assert len(law["draws"]["alpha"]) == 10
    cells = pd.read_csv(tmp_path / "predictions.csv")
    assert (cells["low"] < cells["high"]).all()
    assert all(name in out for name in table["name"])
    loss, _ = sparsedc(
        "law", "predict", tmp_path / "law.json", "--params-active", cells["N"][0], "--unique-tokens", cells["tokens"][0]
    )  # fmt: skip
    assert float(loss) == pytest.approx(cells["predicted"][0], abs=1e-6)


def test_published_writes_a_study_of_its_own(sparsedc: Sparsedc, tmp_path: Path) -> None:
    sparsedc("law", "published", "--runs", tmp_path / "runs.csv", "--out", tmp_path / "law")
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 11
    assert written(tmp_path / "law" / "law.json")["status"] == "published"


def test_plan_in_words_and_as_json(sparsedc: Sparsedc) -> None:
    given = ["plan", "--unique-tokens", "300M", "--flops", "1e20"]
    text, _ = sparsedc(*given)
    plan = json.loads(sparsedc(*given, "--json")[0])
    assert plan["unique_tokens"] == 3e8
    assert f"{plan['recommended']['allocation']['loss']:.3f}" in text
    free = json.loads(sparsedc(*given, "--json", "--sparsity-is-free", "--max-params", "1B")[0])
    assert free["max_params"] == 1e9
    assert free["recommended"]["allocation"]["size"] <= 1e9 * (1 + 1e-9)
    assert json.loads(sparsedc(*given, "--json", "--dense-hardware")[0]) == plan
    for bad, message in (("--flops", "flops = -1: "), ("--max-params", "max-params = -1: ")):
        assert message in sparsedc.refuses(*given, bad, "-1")


def test_budgets_of_the_corpus_take_suffixes_too(sparsedc: Sparsedc, tmp_path: Path) -> None:
    given = ["corpus", "budget", "--tokens", tmp_path / "none", "--out", tmp_path / "b.json", "--unique-tokens"]
    assert "unique-tokens = 1.5: is not a whole number" in sparsedc.refuses(*given, "1.5")
    assert str(tmp_path / "none") in sparsedc.refuses(*given, "64k")


@pytest.mark.parametrize(
    "command", [["law", "predict", "published", "--params-active", "1e8"], ["plan", "--flops", "1e18"]]
)
def test_answers_without_what_makes_a_start_slow(command: list[str]) -> None:
    """Study files need pydantic, fits need scipy.stats, and neither is needed to ask a law."""
    program = (
        "import sys; from sparsedc.cli import main\n"
        f"sys.argv = ['sparsedc', *{command!r}, '--unique-tokens', '1B']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'sparsedc.config', 'matplotlib', 'scipy.stats', 'snakemake'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_public_names_of_the_law() -> None:
    """All load, and none before it is asked for."""
    program = (
        "import sys, sparsedc.law as law\n"
        "early = [name for name in sys.modules if name.split('.')[0] in ('numpy', 'pandas', 'scipy')]\n"
        "print(early, [name for name in law.__all__ if not hasattr(law, name)], hasattr(law, 'nothing'))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[] [] False\n"


def test_three_runs_give_no_confident_number(sparsedc: Sparsedc, tmp_path: Path) -> None:
    lines = (DATA / "gemstones_hot.csv").read_text().splitlines()[:4]
    (tmp_path / "few.csv").write_text("\n".join(lines))
    out, err = sparsedc(
        "law", "fit", tmp_path / "few.csv", "--form", "chinchilla", "--columns", GEMSTONES, "--starts", 4,
        "--bootstrap", 10, "--profile", "alpha", "--out", tmp_path / "f.json",
    )  # fmt: skip
    fit = written(tmp_path / "f.json")
    assert (fit["status"], fit["intervals"], fit["profiles"]) == ("not identifiable", None, None)
    assert "3 runs cannot determine 5 parameters" in out
    assert "no value is an estimate" in out
    assert "no bootstrap" in err
    assert "no profiles" in err

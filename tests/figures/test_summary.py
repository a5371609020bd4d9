from xml.etree import ElementTree

import pytest

from sparsedc.figures.summary import summary_table, verdict
from sparsedc.law.select import SELECTION, Selection, published_study, save_selection
from sparsedc.law.validate import Error, Fold, SeedNoise
from sparsedc.runs import read_runs


def rows_of(html):
    table = ElementTree.fromstring(html)
    return {row.find("th").text: row.find("td").text for row in table.iter("tr")}


def test_summary_says_what_was_run_and_how_good_the_law_is(tiny):
    runs = read_runs(tiny / "runs.csv")
    rows = rows_of(summary_table(runs, tiny / "law"))
    assert rows["Cells"] == "75: 72 to fit, 3 held out to test the law"
    assert rows["Densities"] == "1 (dense), 1/2, 1/4"
    assert rows["Model sizes"] == "0.05M, 0.13M, 0.4M, 0.9M"
    assert "sparse" in rows["Form of the law that fits best"]
    assert "RMSE over 3 cells" in rows["Typical error on cells it never saw"]
    assert "nearest run" in rows["Typical error on cells it never saw"]
    lowest = runs.loc[runs["val_loss"].idxmin()]
    assert rows["Lowest held-out loss"] == f"{lowest['cell']}, {lowest['val_loss']:.3f} nats per token"
    assert next(iter(rows)) == "Verdict"
    assert "Spread between seeds" not in rows
    assert rows["Sparse against dense, equal total parameters"].endswith(
        "; no verdicts, as no configuration was run with several seeds"
    )


def test_summary_counts_who_was_ahead(tiny, simulate):
    rows = rows_of(summary_table(simulate(seeds=2, noise=1e-4), tiny / "law"))
    counts = rows["Sparse against dense, equal total parameters"].split(", ")
    assert [text.rsplit(" ", 1)[0] for text in counts] == ["sparse ahead in", "dense in", "undecided in"]
    assert sum(int(text.rsplit(" ", 1)[1]) for text in counts) == 3 * 2 * 2 * 4  # sizes, densities, budgets, epochs
    assert not counts[0].endswith(" 0") or not counts[1].endswith(" 0")


def test_summary_says_what_refits_and_seeds_say(tiny, tmp_path):
    selection = Selection.load(tiny / "law" / SELECTION)
    folds = {
        "size": (Fold("size 0.05M", 3, 0.03, "ok"), Fold("size 0.4M", 1, 0.07, "ok")),
        "density": (Fold("density 1/4", 2, None, "not identifiable"),),
    }
    noisy = Selection(selection.fits, selection.extrapolation, {selection.best.form: folds}, SeedNoise(0.0123, 4, 4))
    runs = read_runs(tiny / "runs.csv")
    save_selection(noisy, runs, tmp_path)
    rows = rows_of(summary_table(runs, tmp_path))
    # √((3 × 0.03² + 0.07²) / 4) = 0.0436; a kind with a fold that has no law has no error to name.
    assert rows["Typical error on runs that a refit did not see"].startswith("0.044 without one size (")
    assert rows["Spread between seeds"] == "0.012 nats per token, over 4 configurations"


def test_summary_of_published_constants(tmp_path):
    selection, runs = published_study()
    save_selection(selection, runs, tmp_path)
    rows = rows_of(summary_table(runs, tmp_path))
    assert rows["Verdict"] == (
        "Published constants, and nothing was fitted here: error 0.021 nats per token, R² 0.9136 on 11 runs"
    )
    assert rows["Cells"] == "11: 0 to fit, 11 held out to test the law"
    assert not any("fits best" in name or "against" in name for name in rows)


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (
            Error(4, 0.062, 0.058, 0.058),
            ["does not beat the nearest run", "0.062 against 0.050", "all of them too high"],
        ),
        (
            Error(4, 0.030, 0.028, -0.028),
            ["beats the nearest run", "0.030 against 0.050", "all of them too low", "so few cells do not decide"],
        ),
        (Error(1, 0.030, 0.030, 0.030), ["beats", "on the one cell", "it predicts it too high"]),
        (None, ["not tested"]),
    ],
)
def test_verdict_compares_the_law_with_the_best_baseline(law, words, tiny):
    fits = Selection.load(tiny / "law" / SELECTION).fits
    others = {"mean": Error(4, 0.36, 0.3, 0.3), "nearest run": Error(4, 0.050, 0.044, 0.044)}
    text = verdict(Selection(fits, {fits[0].form: law} | others))
    assert all(word in text for word in words)


def test_verdict_names_a_bias_only_where_all_errors_have_one_sign(tiny):
    fits = Selection.load(tiny / "law" / SELECTION).fits
    errors = {fits[0].form: Error(4, 0.03, 0.028, 0.010), "mean": Error(4, 0.3, 0.3, 0.3)}
    assert "too" not in verdict(Selection(fits, errors))


def test_verdict_of_six_cells_stands(tiny):
    fits = Selection.load(tiny / "law" / SELECTION).fits
    errors = {fits[0].form: Error(6, 0.03, 0.028, 0.010), "mean": Error(6, 0.3, 0.3, 0.3)}
    assert "so few" not in verdict(Selection(fits, errors))

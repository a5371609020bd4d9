"""Choosing a form, and the files that say why."""

import json

import numpy as np
import pandas as pd
import pytest

from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.counts import count_params
from sparsedc.law.fit import Fit
from sparsedc.law.fitting import fit_law
from sparsedc.law.published import WHEN_DATA_IS_SCARCE, published_fit
from sparsedc.law.select import Selection, best_first, comparison, published_study, save_selection, select_law
from sparsedc.law.simulate import simulate_runs
from sparsedc.law.table import read_table
from sparsedc.law.validate import pooled_rmse
from sparsedc.runs import write_runs

from .conftest import GRID, LAWS

BIGGER = [4_000_000_000]


#: enough runs for every form, and few enough to fit them all in seconds
FORMS = ("chinchilla", "muennighoff", "power", "sparse")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study on disk, as the workflow has it: runs of Muennighoff's law with two seeds, three of which diverged."""
    folder = tmp_path_factory.mktemp("study")
    law = LAWS["muennighoff"]
    design = GRID | {"densities": [1.0, 0.25], "epochs": [1, 16], "extrapolation_body": BIGGER}
    runs = simulate_runs("muennighoff", law, noise=0.003, embedding=30_000_000, seeds=2, **design)
    runs.loc[[2, 5, len(runs) - 1], "status"] = "diverged"
    write_runs(runs, folder / "runs.csv")
    table = read_table(folder / "runs.csv")
    with pytest.warns(SparsedcWarning, match="diverged"):
        selection = select_law(table, ["chinchilla", "muennighoff"], draws=25, workers=1)
    save_selection(selection, table, folder / "law")
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_aicc_picks_the_form_that_made_the_runs(form, simulate):
    runs = simulate(form, noise=0.004, epochs=[1, 16])
    assert best_first([fit_law(runs, other, starts=8) for other in FORMS])[0].form == form


def test_a_form_that_is_not_identifiable_is_not_preferred(simulate):
    """Three densities settle the losses of the sparse law but not its parameters."""
    runs = simulate("sparse", noise=0.002, densities=[1.0, 0.5, 0.25])
    power, sparse = best_first([fit_law(runs, form, starts=8) for form in ("sparse", "power")])
    assert (power.form, sparse.form) == ("power", "sparse")
    assert sparse.aicc < power.aicc
    assert power.usable


def test_several_sparse_methods_in_one_fit_are_said_aloud(simulate):
    runs = simulate("chinchilla", densities=[1.0, 0.5])
    runs["method"] = np.where(runs["density"] == 1, "dense", "rigl")
    select_law(runs, ["chinchilla"])
    runs.loc[runs.index[runs["density"] < 1][0], "method"] = "static"
    with pytest.warns(SparsedcWarning, match=r"method \(rigl, static\)"):
        select_law(runs, ["chinchilla"])


@pytest.mark.parametrize("column", ["lr", "weight_decay", "held_out"])
def test_cells_that_trained_otherwise_are_said_aloud(column, simulate):
    runs = simulate("chinchilla", densities=[1.0])
    runs.loc[runs.index[0], column] = "other" if column == "held_out" else 0.5
    with pytest.warns(SparsedcWarning, match=f"differ in {column}"):
        select_law(runs, ["chinchilla"])


def test_an_exponent_at_its_bound_is_no_law(simulate):
    runs = simulate("chinchilla")
    runs["val_loss"] = 3.0 + 1e-6 * np.arange(len(runs))  # nothing depends on N
    fit = fit_law(runs, "chinchilla", starts=8)
    assert {"alpha", "beta"} & set(fit.at_bound) or fit.status == "not identifiable"
    assert not fit.usable


def test_files_agree_with_each_other_and_with_a_fit_done_anew(study):
    runs = read_table(study / "runs.csv")
    finished = runs[runs["status"] == "ok"]
    chosen = Fit.load(study / "law" / "law.json")
    with pytest.warns(SparsedcWarning):
        anew = fit_law(runs, "muennighoff")
    assert chosen.parameters == anew.parameters
    assert (chosen.n_left_out, len(chosen.draws["E"])) == (2, 25)

    cells = pd.read_csv(study / "law" / "predictions.csv")
    assert cells["cell"].tolist() == finished["cell"].tolist()
    assert cells["role"].tolist() == finished["role"].tolist()
    N = count_params(finished, "body")
    expected = anew.predict(N, finished["unique_tokens"], finished["tokens"], finished["density"])
    np.testing.assert_allclose(cells["predicted"], expected, rtol=1e-12)
    np.testing.assert_allclose(cells["observed"], finished["val_loss"], rtol=1e-12)

    selection = Selection.load(study / "law" / "selection.json")
    assert selection.best.parameters == chosen.parameters
    assert selection.best.intervals == chosen.intervals
    table = pd.read_csv(study / "law" / "comparison.csv").set_index("name")
    assert table.index.tolist() == ["muennighoff", "chinchilla", "mean", "nearest run", "dense law", "seed noise"]
    assert table["kind"].tolist() == ["form"] * 2 + ["baseline"] * 3 + ["noise"]
    assert table.loc["muennighoff", "delta_aicc"] == 0
    held_out = cells[cells["role"] == "extrapolation"]
    rmse = np.sqrt((held_out["error"] ** 2).mean())
    assert table.loc["muennighoff", "rmse_extrapolation"] == pytest.approx(rmse)
    assert table.loc["muennighoff", "n_extrapolation"] == len(held_out) == 3
    assert rmse < table.loc["nearest run", "rmse_extrapolation"] < table.loc["mean", "rmse_extrapolation"]
    for kind, some in selection.cross_validation["muennighoff"].items():
        assert table.loc["muennighoff", f"cv_{kind}"] == pytest.approx(pooled_rmse(some))
        noise = table.loc["seed noise", f"cv_{kind}"]
        assert noise == selection.noise.sd
        assert noise / 2 < table.loc["muennighoff", f"cv_{kind}"] < table.loc["nearest run", f"cv_{kind}"]
    written = sorted(path.name for path in (study / "law").iterdir())
    assert written == ["comparison.csv", "law.json", "predictions.csv", "selection.json"]


def test_selection_survives_its_json(study):
    selection = Selection.load(study / "law" / "selection.json")
    selection.save(study / "again.json")
    assert Selection.load(study / "again.json") == selection
    for change in ({"format": 1}, {"noise": ...}):
        values = {key: value for key, value in (selection.to_dict() | change).items() if value is not ...}
        (study / "again.json").write_text(json.dumps(values))
        with pytest.raises(InputError):
            Selection.load(study / "again.json")


def test_without_extrapolation_cells(simulate):
    selection = select_law(simulate("chinchilla", noise=0.003, densities=[1.0]), ["chinchilla"], starts=4)
    table = comparison(selection)
    assert table["rmse_extrapolation"].isna().all()
    assert (table["n_extrapolation"] == 0).all()
    assert selection.noise is None
    assert "seed noise" not in set(table["name"])


def test_nothing_usable_still_gives_a_law_that_says_so(simulate):
    """And no draws, which would be confident about nothing."""
    selection = select_law(simulate("sparse", noise=0.003).iloc[[0, 40, 80]], FORMS, starts=2, draws=10)
    assert not selection.best.usable
    assert selection.best.draws is None
    assert not selection.to_dict()["usable"]
    assert comparison(selection).set_index("name").loc[list(FORMS), "status"].eq("not identifiable").all()


def test_n_is_counted_as_the_table_allows(simulate):
    runs = simulate("chinchilla", densities=[1.0], noise=0.003)
    assert select_law(runs, ["chinchilla"], starts=2).best.params == "body"
    foreign = runs.drop(columns=["params_embedding", "params_head"])
    assert select_law(foreign, ["chinchilla"], starts=2).best.params == "active"
    assert select_law(runs, ["chinchilla"], starts=2, params="active").best.params == "active"


def test_the_published_study(tmp_path):
    selection, runs = published_study()
    save_selection(selection, runs, tmp_path)
    assert Fit.load(tmp_path / "law.json") == published_fit()
    assert selection.best.parameters == WHEN_DATA_IS_SCARCE
    row = pd.read_csv(tmp_path / "comparison.csv").iloc[0]
    assert round(row["r2_extrapolation"], 4) == 0.9136
    assert round(row["rmse_extrapolation"], 5) == 0.02098
    assert (row["n_extrapolation"], row["status"]) == (11, "published")
    assert row[["n", "objective", "aicc", "rmse_fit", "cv_size"]].isna().all()
    runs.to_csv(tmp_path / "runs.csv", index=False)
    again = read_table(tmp_path / "runs.csv")
    np.testing.assert_array_equal(count_params(again, "paper"), runs["params_active"])


@pytest.mark.parametrize(("forms", "field"), [([], "forms"), (["kaplan"], "form")])
def test_bad_forms(forms, field, simulate):
    with pytest.raises(InputError) as caught:
        select_law(simulate("chinchilla"), forms)
    assert caught.value.field == field

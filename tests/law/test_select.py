import numpy as np
import pandas as pd
import pytest

from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.counts import count_params
from sparsedc.law.fit import fit_law
from sparsedc.law.forms import FORMS
from sparsedc.law.select import Selection, comparison, fit_laws, select_law
from sparsedc.law.validate import Error, baselines
from sparsedc.runs import read_runs, write_runs

BIGGER = [4_000_000_000]


@pytest.fixture
def study(simulate, tmp_path):
    """A study on disk, as the workflow has it: runs of Muennighoff's law, three of which diverged."""
    runs = simulate("muennighoff", noise=0.003, extrapolation_body=BIGGER)
    runs.loc[[2, 5, len(runs) - 1], "status"] = "diverged"
    write_runs(runs, tmp_path / "runs.csv")
    with pytest.warns(SparsedcWarning, match="diverged"):
        fit_laws(tmp_path / "runs.csv", tmp_path / "law", ["chinchilla", "muennighoff"], "body", 1e-3)
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_aicc_picks_the_form_that_made_the_runs(form, simulate):
    selection = select_law(simulate(form, noise=0.004, epochs=[1, 16]))
    assert selection.best.form == form
    assert len(selection.fits) == len(FORMS)


def test_a_form_that_is_not_identifiable_is_not_preferred(simulate):
    """Three densities settle the losses of the sparse law but not its parameters."""
    selection = select_law(simulate("sparse", noise=0.002, densities=[1.0, 0.5, 0.25]))
    by_form = {fit.form: fit for fit in selection.fits}
    assert by_form["sparse"].aicc < selection.best.aicc
    assert selection.best.usable
    assert selection.fits[-1].form == "sparse"


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
    runs = read_runs(study / "runs.csv")
    finished = runs[runs["status"] == "ok"]
    selection = Selection.load(study / "law" / "law.json")
    with pytest.warns(SparsedcWarning):
        anew = fit_law(runs, "muennighoff")
    assert selection.best == anew
    assert selection.best.n_left_out == 2

    cells = pd.read_csv(study / "law" / "predictions.csv")
    assert cells["cell"].tolist() == finished["cell"].tolist()
    assert cells["role"].tolist() == finished["role"].tolist()
    N = count_params(finished, "body")
    expected = anew.predict(N, finished["unique_tokens"], finished["tokens"], finished["density"])
    np.testing.assert_allclose(cells["predicted"], expected, rtol=1e-12)
    np.testing.assert_allclose(cells["observed"], finished["val_loss"], rtol=1e-12)
    np.testing.assert_allclose(cells["error"], cells["predicted"] - cells["observed"], atol=1e-12)

    table = pd.read_csv(study / "law" / "comparison.csv").set_index("name")
    assert table.index[0] == "muennighoff"
    assert table.loc["muennighoff", "delta_aicc"] == 0
    held_out = cells[cells["role"] == "extrapolation"]
    rmse = np.sqrt((held_out["error"] ** 2).mean())
    assert table.loc["muennighoff", "rmse_extrapolation"] == pytest.approx(rmse)
    assert table.loc["muennighoff", "n_extrapolation"] == len(held_out) == 4
    assert rmse < table.loc["nearest run", "rmse_extrapolation"] < table.loc["mean", "rmse_extrapolation"]
    assert table.loc["mean", "kind"] == "baseline"
    assert sorted(path.name for path in (study / "law").iterdir()) == ["comparison.csv", "law.json", "predictions.csv"]


def test_selection_survives_its_json(study):
    selection = Selection.load(study / "law" / "law.json")
    selection.save(study / "again.json")
    assert Selection.load(study / "again.json") == selection


def test_without_extrapolation_cells(simulate, tmp_path):
    write_runs(simulate("chinchilla", noise=0.003), tmp_path / "runs.csv")
    fit_laws(tmp_path / "runs.csv", tmp_path / "law", ["chinchilla"], "body", 1e-3)
    assert set(pd.read_csv(tmp_path / "law" / "predictions.csv")["role"]) == {"fit"}
    table = pd.read_csv(tmp_path / "law" / "comparison.csv")
    assert table["rmse_extrapolation"].isna().all()
    assert (table["n_extrapolation"] == 0).all()


def nearest_loss(run, fitted):
    """By hand: squared distances in ln N, ln U, ln D and s, in units of the fitted runs' spread."""
    distance = 0.0
    for take in (
        lambda t: np.log(t["params_active"] - t["params_embedding"] - t["params_head"]),
        lambda t: np.log(t["unique_tokens"]),
        lambda t: np.log(t["tokens"]),
        lambda t: t["density"],
    ):
        distance += (take(fitted) - take(run)) ** 2 / np.var(take(fitted))
    return fitted.loc[distance.idxmin(), "val_loss"]


def test_baselines(simulate, laws):
    runs = simulate("chinchilla", extrapolation_body=BIGGER)
    fitted, others = runs[runs["role"] == "fit"], runs[runs["role"] == "extrapolation"]
    known = baselines(fitted, others, "body", 1e-3)
    assert known["mean"] == pytest.approx(np.full(len(others), fitted["val_loss"].mean()))
    nearest = [nearest_loss(run, fitted) for _, run in others.iterrows()]
    np.testing.assert_array_equal(known["nearest run"], nearest)
    np.testing.assert_allclose(known["dense law"], others["val_loss"], rtol=1e-5)
    sparse_only = fitted[fitted["density"] < 1]
    assert set(baselines(sparse_only, others, "body", 1e-3)) == {"mean", "nearest run"}
    one_size = fitted[fitted["size"] == "1900M"]
    assert "dense law" not in baselines(one_size, others, "body", 1e-3)


def test_error():
    error = Error.of(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert error == Error(n=2, rmse=pytest.approx(0.5**0.5), mean_abs=0.5, mean=-0.5)
    assert Error.of(np.empty(0), np.empty(0)) is None


def test_nothing_usable_still_gives_a_law_that_says_so(simulate):
    selection = select_law(simulate("sparse", noise=0.003).iloc[[0, 40, 80]])
    assert not selection.best.usable
    assert not selection.to_dict()["usable"]
    assert comparison(selection)["status"].dropna().eq("not identifiable").all()


@pytest.mark.parametrize(("forms", "field"), [([], "forms"), (["kaplan"], "form")])
def test_bad_forms(forms, field, simulate):
    with pytest.raises(InputError) as caught:
        select_law(simulate("chinchilla"), forms)
    assert caught.value.field == field

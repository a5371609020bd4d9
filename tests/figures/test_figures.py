import shutil
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from sparsedc.errors import InputError
from sparsedc.figures import FIGURES, get_figure, style
from sparsedc.figures.isoloss import densities_shown
from sparsedc.figures.loss_by_epochs import dodge
from sparsedc.figures.summary import summary_table, verdict
from sparsedc.figures.words import count_label, density_label
from sparsedc.law.published import WHEN_DATA_IS_SCARCE
from sparsedc.law.select import LAW as LAW_FILE
from sparsedc.law.select import Selection, fit_laws
from sparsedc.law.simulate import simulate_runs
from sparsedc.law.validate import Error
from sparsedc.runs import read_runs, write_runs

LAW = WHEN_DATA_IS_SCARCE | {"E": 3.2, "A": 9.0, "B": 60.0, "gamma2": 3.0}
TINY = {
    "body": [50_000, 130_000, 400_000],
    "densities": [1.0, 0.5, 0.25],
    "unique_tokens": [32_768, 262_144],
    "epochs": [1, 2, 4, 8],
    "embedding": 131_072,
}


def write_table(folder, keep=slice(None), **changes):
    runs = simulate_runs("sparse", LAW, noise=0.005, **(TINY | changes))
    write_runs(runs[keep], folder / "runs.csv")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_table(folder, extrapolation_body=[900_000])
    fit_laws(folder / "runs.csv", folder / "law", ["muennighoff"], "body", 1e-3)
    return folder


def draw(figure, study, stem="figure"):
    get_figure(figure)(study / "runs.csv", study / "law", study / "figures" / stem)
    return study / "figures" / f"{stem}.svg", study / "figures" / f"{stem}.png"


def assert_drawn(svg, png):
    root = ElementTree.parse(svg).getroot()
    assert root.tag.endswith("svg")
    assert len(list(root.iter())) > 100
    pixels = matplotlib.image.imread(png)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels[:, :, 0])) > 10
    assert not list(svg.parent.glob("*.partial"))


@pytest.mark.parametrize("figure", FIGURES)
def test_figure_of_a_tiny_study(figure, tiny):
    svg, png = draw(figure, tiny, figure)
    assert_drawn(svg, png)
    again, _ = draw(figure, tiny, f"{figure}-again")
    assert svg.read_bytes() == again.read_bytes()
    assert b"<dc:date>" not in svg.read_bytes()


UNUSUAL = {
    "one size, dense only": ({"body": [50_000], "densities": [1.0]}, FIGURES),
    "sparse only, one budget, one epoch": ({"densities": [0.25], "unique_tokens": [32_768], "epochs": [1]}, FIGURES),
    "one cell": ({"keep": slice(0, 1)}, FIGURES),
    "many densities, two seeds": (
        {"densities": list(np.linspace(0.1, 1, 10)), "seeds": 2, "body": [50_000], "unique_tokens": [32_768]},
        FIGURES,
    ),
    "more sizes and budgets than panels": (
        {
            "body": [10_000 * 2**i for i in range(7)],
            "unique_tokens": [32_768 * 2**i for i in range(6)],
            "epochs": [1, 8],
            "densities": [1.0],
        },
        ["loss_by_epochs"],
    ),
}


@pytest.mark.parametrize(("changes", "figures"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_studies_are_drawn(changes, figures, tiny, tmp_path):
    write_table(tmp_path, **changes)
    shutil.copytree(tiny / "law", tmp_path / "law")
    for figure in figures:
        assert_drawn(*draw(figure, tmp_path, figure))


def test_density_that_the_shown_budget_lacks_gets_no_panel(tiny, tmp_path):
    runs = simulate_runs("sparse", LAW, noise=0.005, **TINY)
    runs = runs[(runs["density"] != 0.5) | (runs["unique_tokens"] == 32_768)]
    small = runs[(runs["unique_tokens"] == 262_144) | (runs["density"] == 0.5)]
    write_runs(small, tmp_path / "runs.csv")
    shutil.copytree(tiny / "law", tmp_path / "law")
    assert_drawn(*draw("isoloss", tmp_path))


@pytest.mark.parametrize("figure", FIGURES)
def test_study_without_a_finished_cell(figure, tiny, tmp_path):
    shutil.copytree(tiny / "law", tmp_path / "law")
    write_runs(read_runs(tiny / "runs.csv").assign(status="diverged"), tmp_path / "runs.csv")
    with pytest.raises(InputError, match="no finished cell"):
        draw(figure, tmp_path)


def test_several_methods_at_one_density_get_markers_of_their_own(tiny, tmp_path):
    runs = read_runs(tiny / "runs.csv")
    static = runs[runs["density"] == 0.5].assign(method="static", cell=lambda t: t["cell"] + "-static")
    both = pd.concat([runs, static], ignore_index=True)
    write_runs(both, tmp_path / "runs.csv")
    shutil.copytree(tiny / "law", tmp_path / "law")
    assert_drawn(*draw("loss_by_epochs", tmp_path))


def test_unknown_figure_and_missing_law(tiny, tmp_path):
    with pytest.raises(InputError, match="isoloss"):
        get_figure("pie")
    shutil.copy(tiny / "runs.csv", tmp_path / "runs.csv")
    with pytest.raises(InputError, match="no such file"):
        draw("isoloss", tmp_path)


def test_summary_says_what_was_run_and_how_good_the_law_is(tiny):
    html = summary_table(read_runs(tiny / "runs.csv"), tiny / "law")
    table = ElementTree.fromstring(html)
    rows = {row.find("th").text: row.find("td").text for row in table.iter("tr")}
    assert rows["Cells"] == "75: 72 to fit, 3 held out to test the law"
    assert rows["Densities"] == "1 (dense), 1/2, 1/4"
    assert rows["Model sizes"] == "0.05M, 0.13M, 0.4M, 0.9M"
    assert "muennighoff" in rows["Form of the law that fits best"]
    assert "RMSE over 3 cells" in rows["Typical error on cells it never saw"]
    assert "nearest run" in rows["Typical error on cells it never saw"]
    runs = read_runs(tiny / "runs.csv")
    lowest = runs.loc[runs["val_loss"].idxmin()]
    assert rows["Lowest held-out loss"] == f"{lowest['cell']}, {lowest['val_loss']:.3f} nats per token"
    assert next(iter(rows)) == "Verdict"


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (
            Error(4, 0.062, 0.058, 0.058),
            ["does not beat the nearest run", "0.062 against 0.050", "all of them too high"],
        ),
        (Error(4, 0.030, 0.028, -0.028), ["beats the nearest run", "0.030 against 0.050", "all of them too low"]),
        (Error(1, 0.030, 0.030, 0.030), ["beats", "on the one cell", "it predicts it too high"]),
        (None, ["not tested"]),
    ],
)
def test_verdict_compares_the_law_with_the_best_baseline(law, words, tiny):
    fits = Selection.load(tiny / "law" / LAW_FILE).fits
    others = {"mean": Error(4, 0.36, 0.3, 0.3), "nearest run": Error(4, 0.050, 0.044, 0.044)}
    text = verdict(Selection(fits, {fits[0].form: law} | others))
    assert all(word in text for word in words)


def test_verdict_names_a_bias_only_where_all_errors_have_one_sign(tiny):
    fits = Selection.load(tiny / "law" / LAW_FILE).fits
    errors = {fits[0].form: Error(4, 0.03, 0.028, 0.010), "mean": Error(4, 0.3, 0.3, 0.3)}
    assert "too" not in verdict(Selection(fits, errors))


def test_dodged_points_stay_centred_and_nearer_to_their_own_epochs_than_to_others():
    shifts = np.log2(list(dodge([1.0, 0.5, 0.25, 0.125], np.array([1, 1.5, 4, 64])).values()))
    assert np.isclose(shifts.sum(), 0)
    assert (np.diff(shifts) > 0).all()
    assert np.ptp(shifts) < np.log2(1.5)
    assert dodge([1.0], np.array([1, 2])) == {1.0: 1.0}


def test_isoloss_shows_the_density_that_was_tested_on_larger_models(tiny):
    runs = read_runs(tiny / "runs.csv")
    assert densities_shown(runs) == [1.0, 0.5]
    assert densities_shown(runs[(runs["role"] == "fit") | (runs["density"] == 0.25)]) == [1.0, 0.25]
    assert densities_shown(runs[(runs["role"] == "fit") | (runs["density"] == 1)]) == [1.0, 0.5]
    assert densities_shown(runs[runs["density"] == 0.25]) == [0.25]


def test_legend_names_extrapolation_cells_only_where_there_are_some(tiny, tmp_path, monkeypatch):
    legends = []

    def keep(figure, _):
        legends.append([text.get_text() for legend in figure.legends for text in legend.get_texts()])

    monkeypatch.setattr(style, "save", keep)
    runs = read_runs(tiny / "runs.csv")
    write_runs(runs[runs["role"] == "fit"], tmp_path / "runs.csv")
    for table in (tiny / "runs.csv", tmp_path / "runs.csv"):
        get_figure("prediction_vs_truth")(table, tiny / "law", tmp_path / "figure")
    assert ["extrapolation cells" in legend for legend in legends] == [True, False]


def test_law_is_dashed_beyond_the_measured_epochs_of_a_panel(tiny, tmp_path, monkeypatch):
    runs = read_runs(tiny / "runs.csv")
    write_runs(runs[(runs["unique_tokens"] == 32_768) | (runs["epochs"] <= 2)], tmp_path / "runs.csv")
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, _: figures.append(figure))
    get_figure("loss_by_epochs")(tmp_path / "runs.csv", tiny / "law", tmp_path / "figure")
    reach = [{"-": 0.0, "--": 0.0}, {"-": 0.0, "--": 0.0}]
    for axes, ends in zip(figures[0].axes[:2], reach, strict=True):
        for line in axes.lines:
            if line.get_linestyle() in ends:
                ends[line.get_linestyle()] = max(ends[line.get_linestyle()], max(line.get_xdata()))
    assert reach[0]["-"] == 8
    assert reach[1] == {"-": 2, "--": 8}


def test_frame_of_the_measured_range_leaves_out_extrapolation_cells(tiny, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, _: figures.append(figure))
    get_figure("isoloss")(tiny / "runs.csv", tiny / "law", tmp_path / "figure")
    dense, sparse = figures[0].axes[:2]
    frame = next(patch for patch in dense.patches if isinstance(patch, Rectangle))
    assert frame.get_x() + frame.get_width() == 400_000
    assert dense.get_xlim() == sparse.get_xlim()


def test_labels():
    labels = [density_label(s) for s in (1.0, 0.5, 0.0625, 0.3, 1 / 3)]
    assert labels == ["1 (dense)", "1/2", "1/16", "0.3", "1/3"]
    assert [count_label(n) for n in (950, 999_900, 32_768, 1.3e9, 2e12)] == ["950", "1M", "32.8k", "1.3B", "2T"]


def test_spread_keeps_both_ends():
    assert style.spread_over([1, 2, 3, 4, 5, 6, 7], 3) == [1, 4, 7]
    assert style.spread_over([1, 2], 4) == [1, 2]

"""Every figure is drawn, for ordinary studies and odd ones, and shows what it says."""

import shutil
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from sparsedc.errors import InputError
from sparsedc.figures import COMPARING, FIGURES, OBSERVED, get_figure, isoflop, isoloss, optimal_density, style
from sparsedc.figures.isoloss import densities_shown
from sparsedc.law.published import published_fit
from sparsedc.law.select import published_study
from sparsedc.runs import read_runs, write_runs
from sparsedc.words import count_label, density_label, flops_label

from .studies import LAWS, known_fit, write_study


def draw(figure, study, stem="figure", budgets=()):
    get_figure(figure)(study / "runs.csv", study / "law", study / "figures" / stem, budgets)
    return study / "figures" / f"{stem}.svg", study / "figures" / f"{stem}.png"


def assert_drawn(svg, png):
    root = ElementTree.parse(svg).getroot()
    assert root.tag.endswith("svg")
    assert len(list(root.iter())) > 60  # one that says why there is nothing to draw has fewest
    pixels = matplotlib.image.imread(png)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels[:, :, 0])) > 10
    assert not list(svg.parent.glob("*.partial"))


def plotted(name, runs, fit, budgets=()):
    """The figure itself."""
    module = __import__(f"sparsedc.figures.{name}", fromlist=["plot"])
    style.apply_style()
    return module.plot(runs, fit, budgets)


def words(figure):
    """All that a figure says, in one string."""
    figure.draw_without_rendering()
    style.plt.close(figure)
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.fixture
def quick(monkeypatch):
    """Fewer curves and densities, where a test does not look at them."""
    monkeypatch.setattr(optimal_density, "CURVES", 2)
    monkeypatch.setattr(optimal_density, "DENSITIES", 5)
    monkeypatch.setattr(optimal_density, "SAVINGS", np.array([0.1, 1.0]))
    monkeypatch.setattr(optimal_density, "DRAWS", 5)
    monkeypatch.setattr(optimal_density, "POINTS", 8)
    monkeypatch.setattr(isoloss, "POINTS", 9)
    monkeypatch.setattr(isoflop, "CURVES", 3)
    monkeypatch.setattr(isoflop, "MOST_DENSITIES", 2)


@pytest.mark.parametrize("figure", FIGURES)
def test_figure_of_a_tiny_study(figure, tiny, quick):
    svg, png = draw(figure, tiny, figure)
    assert_drawn(svg, png)
    again, _ = draw(figure, tiny, f"{figure}-again")
    assert svg.read_bytes() == again.read_bytes()
    assert b"<dc:date>" not in svg.read_bytes()


@pytest.mark.parametrize("form", LAWS)
def test_what_the_law_says_is_drawn_for_every_form(form, simulate, quick):
    runs = simulate(form, unique_tokens=[262_144])
    fit = known_fit(form, runs)
    names = ("isoloss", "isoflop", "optimal_density", "density_factor")
    said = {name: words(plotted(name, runs, fit)) for name in names}
    assert all(form in text for text in said.values())
    knows_density = form not in ("chinchilla", "gadre", "muennighoff", "overfit")
    assert ("no density is best" in said["optimal_density"]) == (not knows_density)
    assert ("has no f(s)" in said["density_factor"]) == (form in ("chinchilla", "gadre"))
    fresh = form in ("chinchilla", "gadre", "frantar")
    assert ("takes repeated tokens for fresh ones" in said["isoflop"]) == fresh
    assert ("★" in said["isoloss"]) == (not fresh)


UNUSUAL = {
    "one size, dense only": ({"body": [50_000], "densities": [1.0], "unique_tokens": [32_768]}, FIGURES),
    "sparse only, one budget, one epoch": (
        {"densities": [0.25], "unique_tokens": [32_768], "epochs": [1]},
        FIGURES,
    ),
    "many densities, two seeds": (
        {"densities": list(np.linspace(0.1, 1, 10)), "seeds": 2, "body": [50_000], "unique_tokens": [32_768]},
        ["loss_by_epochs", "prediction_vs_truth", "density_factor"],
    ),
    "more sizes and budgets than panels": (
        {
            "body": [10_000 * 2**i for i in range(7)],
            "unique_tokens": [32_768 * 2**i for i in range(6)],
            "epochs": [1, 8],
            "densities": [1.0],
        },
        ["loss_by_epochs", "optimal_density"],
    ),
}


@pytest.mark.parametrize(("changes", "figures"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_studies_are_drawn(changes, figures, simulate, tmp_path, quick):
    write_study(tmp_path, simulate(**changes))
    for figure in figures:
        assert_drawn(*draw(figure, tmp_path, figure))


def test_one_cell_is_drawn(simulate, tmp_path, quick):
    write_study(tmp_path, simulate().iloc[:1])
    for figure in FIGURES:
        assert_drawn(*draw(figure, tmp_path, figure))


def test_a_table_of_other_origin_is_drawn(simulate, tmp_path, quick):
    """Without the columns that only this project's own tables have."""
    runs = simulate(unique_tokens=[32_768])
    write_study(tmp_path, runs)
    columns = ["params_active", "params_embedding", "params_head", "density", "unique_tokens", "tokens", "val_loss"]
    runs[columns].to_csv(tmp_path / "runs.csv", index=False)
    for figure in ("loss_by_epochs", "prediction_vs_truth", "isoflop"):
        assert_drawn(*draw(figure, tmp_path, figure))


def test_density_that_the_shown_budget_lacks_gets_no_panel(simulate, tmp_path):
    runs = simulate()
    runs = runs[(runs["density"] != 0.5) | (runs["unique_tokens"] == 32_768)]
    small = runs[(runs["unique_tokens"] == 262_144) | (runs["density"] == 0.5)]
    write_study(tmp_path, small)
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


def test_an_unusable_law_is_called_so(simulate):
    runs = simulate(unique_tokens=[32_768])
    fit = known_fit("sparse", runs)
    useless = type(fit)(**{**vars(fit), "status": "not identifiable"})
    for name in ("isoloss", "isoflop", "density_factor", "prediction_vs_truth"):
        assert "not to be used" in words(plotted(name, runs, useless))
        assert "not to be used" not in words(plotted(name, runs, fit))


def test_a_law_at_a_bound_names_what_is_no_estimate(simulate, quick):
    runs = simulate(unique_tokens=[32_768])
    fit = known_fit("sparse", runs)
    bound = type(fit)(**{**vars(fit), "status": "at bound", "at_bound": ("E", "mu")})
    for name in set(FIGURES) - OBSERVED - COMPARING:
        assert "at bound: E, mu" in words(plotted(name, runs, bound))


def test_titles_of_laws_with_long_names_are_not_cut_off(simulate, quick):
    runs = simulate(unique_tokens=[32_768])
    fit = known_fit("sparse", runs, draws=5)
    bound = type(fit)(**{**vars(fit), "status": "at bound", "at_bound": ("E", "mu", "R_N_star", "kappa")})
    for name in set(FIGURES) - OBSERVED - COMPARING:
        figure = plotted(name, runs, bound)
        words(figure)
        cut = figure.get_window_extent()
        title = figure._suptitle.get_window_extent()
        assert cut.x0 <= title.x0, name
        assert title.x1 <= cut.x1, name


def test_bands_are_there_where_the_fit_has_draws(simulate, quick):
    runs = simulate(unique_tokens=[262_144])
    for name in ("loss_by_epochs", "density_factor", "isoflop", "optimal_density"):
        with_draws, without = (plotted(name, runs, known_fit("sparse", runs, draws)) for draws in (20, 0))
        assert "95 %" in words(with_draws)
        assert "95 %" not in words(without)
        drawn, fewer = (sum(len(a.lines) + len(a.collections) for a in f.axes) for f in (with_draws, without))
        assert drawn > fewer


def test_dodged_points_stay_centred_and_nearer_to_their_own_epochs_than_to_others():
    shifts = np.log2(list(style.dodge([1.0, 0.5, 0.25, 0.125], np.array([1, 1.5, 4, 64])).values()))
    assert np.isclose(shifts.sum(), 0)
    assert (np.diff(shifts) > 0).all()
    assert np.ptp(shifts) < np.log2(1.5)
    assert style.dodge([1.0], np.array([1, 2])) == {1.0: 1.0}


def test_isoloss_shows_the_density_that_was_tested_on_larger_models(tiny):
    runs = read_runs(tiny / "runs.csv")
    assert densities_shown(runs) == [1.0, 0.5]
    assert densities_shown(runs[(runs["role"] == "fit") | (runs["density"] == 0.25)]) == [1.0, 0.25]
    assert densities_shown(runs[(runs["role"] == "fit") | (runs["density"] == 1)]) == [1.0, 0.5]
    assert densities_shown(runs[runs["density"] == 0.25]) == [0.25]


def test_legend_names_extrapolation_cells_only_where_there_are_some(simulate):
    runs = simulate(extrapolation_body=[900_000])
    fit = known_fit("sparse", runs)
    for name in ("prediction_vs_truth", "isoloss"):
        assert "extrapolation cells" in words(plotted(name, runs, fit))
        assert "extrapolation cells" not in words(plotted(name, runs[runs["role"] == "fit"], fit))


def test_law_is_dashed_beyond_the_measured_epochs_of_a_panel(simulate):
    runs = simulate()
    runs = runs[(runs["unique_tokens"] == 32_768) | (runs["epochs"] <= 2)]
    figure = plotted("loss_by_epochs", runs, known_fit("sparse", runs))
    reach = [{"-": 0.0, "--": 0.0}, {"-": 0.0, "--": 0.0}]
    for axes, ends in zip(figure.axes[:2], reach, strict=True):
        for line in axes.lines:
            if line.get_linestyle() in ends:
                ends[line.get_linestyle()] = max(ends[line.get_linestyle()], max(line.get_xdata()))
    assert reach[0]["-"] == 8
    assert reach[1] == {"-": 2, "--": 8}


def test_frame_of_the_measured_range_leaves_out_extrapolation_cells(simulate):
    runs = simulate(extrapolation_body=[900_000])
    dense, sparse = plotted("isoloss", runs, known_fit("sparse", runs)).axes[:2]
    frame = next(patch for patch in dense.patches if isinstance(patch, Rectangle))
    assert frame.get_x() + frame.get_width() == 400_000
    assert dense.get_xlim() == sparse.get_xlim()


def test_solid_lines_end_where_the_fitted_runs_do():
    """A segment is solid only if both of its ends are inside, and none is missing."""
    figure, axes = style.plt.subplots()
    x, inside = np.arange(8.0), np.array([False, False, True, True, True, False, True, False])
    style.plot_solid_inside(axes, x, x, inside, color="black")
    segments = {}
    for line in axes.lines:
        y = np.asarray(line.get_ydata(), dtype=float)
        segments[line.get_linestyle()] = {i for i in range(7) if np.isfinite(y[i]) and np.isfinite(y[i + 1])}
    solid, dashed = segments["-"], segments["--"]
    assert solid == {2, 3}
    assert solid | dashed == set(range(7))
    assert (inside == [False, False, True, True, True, False, True, False]).all()
    style.plt.close(figure)


def test_published_study_marks_budgets_beyond_the_fitted_ones(quick):
    _, runs = published_study()
    said = words(plotted("optimal_density", runs, published_fit(), [1.3e9, 13e9]))
    assert "U = 13B unique tokens\n(beyond the fitted budgets)" in said
    assert "U = 1.3B unique tokens\n(beyond" not in said


def test_a_best_density_at_the_edge_of_the_fitted_ones_is_called_a_bound(simulate, quick):
    runs = simulate("power", unique_tokens=[262_144])
    fit = known_fit("power", runs)  # s^ε with ε above 0: the lower the density, the better
    assert "s ≤ 0.25, same loss" in words(plotted("optimal_density", runs, fit))


def test_labels():
    labels = [density_label(s) for s in (1.0, 0.5, 0.0625, 0.3, 1 / 3)]
    assert labels == ["1 (dense)", "1/2", "1/16", "0.3", "1/3"]
    assert [count_label(n) for n in (950, 999_900, 32_768, 1.3e9, 2e12)] == ["950", "1M", "32.8k", "1.3B", "2T"]
    assert [flops_label(n) for n in (2.76e20, 9.96e9)] == ["2.8×10²⁰", "1.0×10¹⁰"]


def test_spread_keeps_both_ends():
    assert style.spread_over([1, 2, 3, 4, 5, 6, 7], 3) == [1, 4, 7]
    assert style.spread_over([1, 2], 4) == [1, 2]

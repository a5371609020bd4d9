"""Residuals beside the noise between seeds: every cell, at its own error."""

import numpy as np
import pandas as pd
import pytest

from sparsedc.figures import residuals, style
from sparsedc.law.validate import predictions, seed_noise

from .studies import known_fit
from .test_figures import plotted, words


@pytest.fixture
def runs(simulate):
    return simulate(seeds=2, extrapolation_body=[900_000])


def points(axes):
    """x, y and area of each cell drawn in a panel, and whether it is a diamond, one row a cell."""
    rows = []
    for marks in axes.collections:
        offsets = np.ma.filled(np.ma.asarray(marks.get_offsets(), dtype=float))
        sides = len(marks.get_paths()[0].vertices)
        for (x, y), area in zip(offsets, marks.get_sizes(), strict=True):
            rows.append((x, y, area, sides < 8))
    return np.array(rows)


def test_every_cell_is_at_its_error(runs):
    fit = known_fit("sparse", runs)
    cells = predictions(fit, runs)
    figure = plotted("residuals", runs, fit)
    assert len(figure.axes) == 2
    for axes, (_, of_budget) in zip(figure.axes, cells.groupby("unique_tokens"), strict=True):
        drawn = points(axes)
        assert np.allclose(np.sort(drawn[:, 1]), np.sort(of_budget["error"]))
        assert drawn[:, 3].sum() == (of_budget["role"] == "extrapolation").sum()
        nearest = 2 ** np.round(np.log2(drawn[:, 0]))
        assert sorted(nearest) == sorted(2 ** np.round(np.log2(of_budget["epochs"])))
    style.plt.close(figure)


def test_numbers_above_the_panels_and_the_band(runs):
    fit = known_fit("sparse", runs)
    cells, noise = predictions(fit, runs), seed_noise(runs)
    figure = plotted("residuals", runs, fit)
    for axes, (_, of_budget) in zip(figure.axes, cells.groupby("unique_tokens"), strict=True):
        for role, some in of_budget.groupby("role"):
            rmse = float(np.sqrt((some["error"] ** 2).mean()))
            assert f"{role} RMSE {rmse:.3f} ({len(some)})" in axes.get_title()
        (band,) = axes.patches
        assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((-noise.sd, noise.sd))
    assert f"Noise between seeds: {noise.sd:.3f} ({noise.configurations} configurations)" in words(figure)


def test_a_law_that_is_off_by_a_constant_is_drawn_off_by_it(runs):
    fit = known_fit("sparse", runs)
    figure = plotted("residuals", runs.assign(val_loss=fit_losses(fit, runs) - 0.2), fit)
    for axes in figure.axes:
        assert np.allclose(points(axes)[:, 1], 0.2)
    style.plt.close(figure)


def fit_losses(fit, runs):
    return predictions(fit, runs)["predicted"].to_numpy()


def test_without_seeds_there_is_no_band(simulate):
    runs = simulate()
    figure = plotted("residuals", runs, known_fit("sparse", runs))
    assert not any(axes.patches for axes in figure.axes)
    assert "Noise between seeds: not known" in words(figure)


def test_larger_models_have_larger_marks(runs):
    areas = style.marker_areas(runs, *residuals.AREAS)
    assert list(areas) == ["0.05M", "0.13M", "0.4M", "0.9M"]
    assert list(areas.values()) == sorted(areas.values())
    figure = plotted("residuals", runs, known_fit("sparse", runs))
    shown = np.vstack([points(axes) for axes in figure.axes])
    assert sorted(set(shown[:, 2])) == pytest.approx(list(areas.values()))
    style.plt.close(figure)


def test_more_budgets_than_panels_are_said_to_be_more(simulate):
    budgets = [32_768 * 2**i for i in range(6)]
    runs = simulate(unique_tokens=budgets, epochs=[1, 2], body=[50_000], densities=[1.0])
    figure = plotted("residuals", runs, known_fit("sparse", runs))
    assert len(figure.axes) == residuals.MOST_PANELS
    assert "Shown: 4 of 6 budgets" in words(figure)


def test_lines_join_the_seeds_means_of_one_model(runs):
    fit = known_fit("sparse", runs)
    figure = plotted("residuals", runs, fit)
    cells = predictions(fit, runs)
    of_budget = cells[cells["unique_tokens"] == cells["unique_tokens"].min()]
    means = of_budget.groupby(["density", "size", "epochs"])["error"].mean()
    drawn = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 4]
    expected = [model.to_numpy() for _, model in means.groupby(["density", "size"]) if len(model) == 4]
    assert len(drawn) == len(expected)
    assert np.allclose(
        np.sort(np.concatenate(drawn)), np.sort(pd.concat([means.groupby(level=[0, 1]).filter(lambda m: len(m) == 4)]))
    )
    style.plt.close(figure)

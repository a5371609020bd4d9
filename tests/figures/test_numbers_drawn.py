"""The numbers in the figures, against brute force over the law written down once more, and what is published."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.contour import QuadContourSet
from scipy.optimize import minimize_scalar

from sparsedc.figures import isoflop, isoloss, optimal_density, scope, style
from sparsedc.figures.density_factor import functions
from sparsedc.law.compute import Compute
from sparsedc.law.frontier import best_allocation, compute_saved, lowest_loss
from sparsedc.law.limits import Limits
from sparsedc.law.published import WHEN_DATA_IS_SCARCE as PAPER
from sparsedc.law.published import published_fit
from sparsedc.law.select import published_study
from sparsedc.words import count_label

from .studies import known_fit
from .test_figures import plotted, words

ACTIVE, DENSE = Compute(zeros_free=True), Compute()
U = 1.3e9


def plain_loss(N, D, s):
    """The paper's law at U, with U unique tokens of the D, in plain numbers."""
    p = PAPER
    f = s ** p["epsilon"] + p["c"] * (1 - s) ** p["mu"]
    unique = np.minimum(U, D)
    best_N = (p["A"] * f / p["B"]) ** (1 / p["alpha"]) * unique
    U_N = np.minimum(N, best_N)
    R_N = p["gamma1"] * (1 + p["c11"] * (1 - s) - p["c21"] * (1 - s) ** 2)
    R_D = p["gamma2"] * (1 + p["c12"] * (1 - s) - p["c22"] * (1 - s) ** 2)
    N_eff = U_N * (1 + R_N * (1 - np.exp(-(N / U_N - 1) / R_N)))
    D_eff = unique * (1 + R_D * (1 - np.exp(-(D / unique - 1) / R_D)))
    return p["E"] + p["A"] * f / N_eff ** p["alpha"] + p["B"] / D_eff ** p["alpha"]


def plain_best(C, s, share=1.0):
    """Epochs and loss of the best use of C, N = share × C / 6 D, by bounded search from a fine grid."""
    epochs = np.geomspace(0.01, 1000, 4001)
    loss = plain_loss(share * C / 6 / (U * epochs), U * epochs, s)
    i = int(loss.argmin())
    found = minimize_scalar(
        lambda log_e: plain_loss(share * C / 6 / (U * np.exp(log_e)), U * np.exp(log_e), s),
        bounds=np.log([epochs[i - 1], epochs[i + 1]]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(np.exp(found.x)), float(found.fun)


@pytest.mark.parametrize("s", [1.0, 0.5, 0.125])
@pytest.mark.parametrize("compute", [ACTIVE, DENSE])
def test_isoflop_curves_spend_their_compute_and_touch_their_optimum(s, compute):
    fit = published_fit()
    flops = np.array([1e18, 1e20])
    share = 1.0 if compute.zeros_free else s
    for curve, C in zip(isoflop.isoflop_curves(fit, U, s, flops, compute), flops, strict=True):
        assert np.allclose(6 * curve.N * U * curve.epochs / share, C)
        assert np.allclose(curve.loss, plain_loss(curve.N, U * curve.epochs, s))
        epochs, loss = plain_best(C, s, share)
        assert curve.best.loss == pytest.approx(loss, abs=1e-7)
        assert curve.best.epochs == pytest.approx(epochs, rel=1e-2)
        assert loss - 1e-9 <= curve.loss.min() < loss + 1e-4


def test_accountings_agree_on_dense_models_and_favour_sparse_ones_where_zeros_cost_nothing():
    fit = published_fit()
    flops = np.array([1e19])
    for s, equal in ((1.0, True), (0.5, False)):
        free, costly = (isoflop.isoflop_curves(fit, U, s, flops, each)[0] for each in (ACTIVE, DENSE))
        assert np.allclose(free.loss, costly.loss) == equal
        assert (free.loss <= costly.loss + 1e-12).all()


def test_frontier_of_the_isoloss_figure():
    fit = published_fit()
    for s in (1.0, 0.5):
        found = isoloss.frontier(fit, U, s)
        for i in (0, 30, 60):
            epochs, loss = plain_best(6 * found.N[i] * U * found.epochs[i], s)
            assert found.epochs[i] == pytest.approx(epochs, rel=1e-2)
            assert plain_loss(found.N[i], U * found.epochs[i], s) == pytest.approx(loss, abs=1e-7)
        limit = plain_loss(1e30, 1e30, s)
        assert plain_loss(found.near.N, found.near.tokens, s) == pytest.approx(limit + 0.01, abs=1e-5)
        # Of fresh tokens the optimum is where neither term would gain from compute moved to it from the other.
        one_epoch = np.interp(1.0, found.fresh_epochs, found.fresh_size)
        epochs, _ = plain_best(6 * one_epoch * U, s)
        assert epochs == pytest.approx(1.0, rel=2e-2)


def test_measured_surface_is_the_measured_loss_at_cells_and_between_them_their_mean():
    cells = pd.DataFrame(
        {
            "role": ["fit"] * 7 + ["extrapolation"],
            "N": [1e6, 4e6, 1e6, 4e6, 4e6, 1e6, 4e6, 16e6],
            "epochs": [1, 1, 4, 4, 4, 16, 16, 4],
            "val_loss": [4.0, 3.6, 3.5, 3.0, 3.2, 3.4, 3.3, 9.0],
        }
    )
    N, epochs = np.array([0.5e6, 1e6, 2e6, 4e6, 8e6]), np.array([0.5, 1, 2, 4, 16, 32])
    found = isoloss.measured_surface(cells, N, epochs)
    nan = np.nan
    expected = [
        [nan] * 5,
        [nan, 4.0, 3.8, 3.6, nan],
        [nan, 3.75, 3.55, 3.35, nan],
        [nan, 3.5, 3.3, 3.1, nan],  # two runs of one size: their mean
        [nan, 3.4, 3.35, 3.3, nan],
        [nan] * 5,
    ]
    assert np.allclose(found, expected, equal_nan=True)
    assert np.isnan(isoloss.measured_surface(cells[cells["epochs"] == 1], N, epochs)).all()
    gap = isoloss.measured_surface(cells.drop(index=[3, 4]), N, epochs)  # the larger model at 4 epochs
    assert gap[3, 3] == pytest.approx((3.6 + 3.3) / 2)
    assert gap[3, 1] == pytest.approx(3.5)


def test_measured_contours_are_where_the_law_says_if_the_law_is_right(simulate):
    """Under a law that the losses follow, and on a grid so fine that what is between cells hardly matters."""
    runs = simulate("power", noise=0.0, body=[50_000 * 2 ** (i / 3) for i in range(10)], unique_tokens=[262_144],
                    epochs=[1, 1.5, 2, 3, 4, 6, 8], densities=[1.0, 0.5])  # fmt: skip
    fit = known_fit("power", runs)
    figure = plotted("isoloss", runs, fit)
    for axes, s in zip(figure.axes[:2], (1.0, 0.5), strict=True):
        contours = [each for each in axes.collections if isinstance(each, QuadContourSet) and not each.filled]
        (measured,) = [each for each in contours if same_color(each.get_edgecolor()[0], isoloss.MEASURED)]
        assert len(measured.levels) > 1
        for level, path in zip(measured.levels, measured.get_paths(), strict=True):
            N, epochs = path.vertices.T
            assert np.allclose(fit.predict(N, 262_144, 262_144 * epochs, s), level, atol=0.01)
    said = words(figure)
    assert "measured loss" in said
    _, published = published_study()
    assert "measured loss" not in words(plotted("isoloss", published, published_fit(), [U]))


def test_isoflop_curves_begin_at_the_least_compute_that_was_run(simulate):
    runs = simulate()
    fit = known_fit("sparse", runs)
    low, high = isoflop.compute_range(runs, fit, 262_144)
    least, most = scope.compute_budgets(fit, 262_144, 2)
    assert high == most
    assert low == pytest.approx(max(least, 6 * 50_000 * 0.25 * 262_144), rel=0.02)
    _, published = published_study()
    assert isoflop.compute_range(published, published_fit(), U) == tuple(scope.compute_budgets(published_fit(), U, 2))


def test_isoflop_panels_hold_every_cell(simulate):
    runs = simulate()
    figure = plotted("isoflop", runs, known_fit("sparse", runs))
    low, high = figure.axes[0].get_ylim()
    shown = runs[runs["unique_tokens"] == 262_144]["val_loss"]
    assert low < shown.min()
    assert high > shown.max()
    style.plt.close(figure)


def test_savings_are_pale_where_the_dense_model_is_beyond_the_fitted_runs():
    fit = published_fit()
    flops = 2.76e20 * np.array([0.01, 1.0, 10.0])
    inside = optimal_density.dense_inside(fit, U, flops)
    for C, is_inside in zip(flops, inside, strict=True):
        best = best_allocation(fit, U, C, ACTIVE, Limits.of(fit, density=1.0))
        assert is_inside == (not fit.outside(best.N, U, best.tokens, 1.0))
    assert 0 < inside.sum() < 3


def test_star_of_a_measured_study_is_named_even_where_it_is_off_the_panel(simulate):
    runs = simulate()
    fit = known_fit("sparse", runs)
    near = isoloss.frontier(fit, 262_144, 1.0).near
    assert near.N > 1.6 * 400_000
    assert f"N = {count_label(near.N)}, {near.epochs:.2g} epochs" in words(plotted("isoloss", runs, fit))


@pytest.mark.parametrize("compute", [ACTIVE, DENSE])
def test_saving_read_off_two_frontiers_is_the_saving(compute):
    fit = published_fit()
    flops = np.array([3e18, 1e20, 1e21])
    factors = optimal_density.factors(fit, U, compute, flops)
    for C, factor in zip(flops, factors, strict=True):
        assert factor == pytest.approx(compute_saved(fit, U, compute, flops=C).factor, rel=5e-3)


def test_best_density_of_each_compute_is_where_its_curve_is_lowest():
    s = np.geomspace(1 / 16, 1, 25)
    curve = optimal_density.loss_by_density(published_fit(), U, 3e19, s)
    assert np.allclose(curve.loss, [plain_best(3e19, each)[1] for each in s], atol=1e-6)
    assert abs(np.log(curve.best.density / s[curve.loss.argmin()])) < np.log(s[1] / s[0])
    assert curve.best.loss <= curve.loss.min() + 1e-9


def test_what_the_figure_of_optimal_density_says_is_what_the_frontier_says(monkeypatch):
    monkeypatch.setattr(optimal_density, "DENSITIES", 5)
    _, runs = published_study()
    fit = published_fit()
    said = words(plotted("optimal_density", runs, fit, [U]))
    for compute in (ACTIVE, DENSE):
        assert f"{compute_saved(fit, U, compute).factor:.2g}×" in said
    saved, limit = compute_saved(fit, U, ACTIVE), lowest_loss(fit, U)
    assert f"dense, {saved.loss:.3f}: N = {count_label(saved.dense.N)}" in said
    assert f"s = {saved.cheapest.density:.2f}, same loss: N = {count_label(saved.cheapest.N)}" in said
    assert f"s = {limit.density:.2f}, no limit on compute: {limit.loss:.3f}" in said
    assert (round(limit.loss, 4), round(limit.dense_loss, 4)) == (2.7807, 2.8266)


def test_the_published_saving_grows_with_the_dense_compute_it_is_compared_to():
    """So that a saving is worth quoting only with the dense model that it is against."""
    factors = optimal_density.factors(published_fit(), U, ACTIVE, 2.76e20 * np.array([0.01, 1.0, 10.0]))
    assert factors[0] < 2.5
    assert 4 < factors[1] < 6
    assert factors[2] > 30


def test_savings_of_the_published_law_are_the_same_at_any_budget_in_units_of_its_square():
    """With one exponent for size and data, a law has no scale: U ten times as large, compute a hundred times."""
    fit = published_fit()
    one, other = (optimal_density.factors(fit, U * k, ACTIVE, np.array([1e19, 1e20]) * k**2) for k in (1, 100))
    assert np.allclose(one, other, rtol=1e-3)


def test_density_factor_of_the_published_law():
    s = np.array([1.0, 0.5, 0.25, 0.125, 0.0625])
    found = functions("sparse", PAPER, s)
    assert found["f(s)"][0] == 1
    assert [round(value, 2) for value in found["R_D*(s)"]] == [4.40, 6.91, 7.04, 6.82, 6.64]
    assert [round(value, 1) for value in found["R_N*(s)"]] == [11.1, 13.9, 9.5, 5.8, 3.6]
    draws = {name: np.array([[value], [2 * value]]) for name, value in PAPER.items()}
    assert functions("sparse", draws, s)["R_D*(s)"].shape == (2, 5)


def test_prediction_of_the_eleven_validation_runs():
    _, runs = published_study()
    figure = plotted("prediction_vs_truth", runs, published_fit())
    diamonds = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert sum(len(line.get_xdata()) for line in diamonds) == 11
    said = words(figure)
    assert "R² 0.9136 (11 cells)" in said
    assert "fit:" not in said


def test_what_the_figures_ask_about(simulate):
    runs = simulate()
    fit = known_fit("sparse", runs)
    _, published = published_study()
    assert scope.budgets(runs, ()) == [32_768, 262_144]
    assert scope.budgets(runs, [1e6]) == [1e6]
    assert scope.main_budget(runs[runs["unique_tokens"] < 1e5], ()) == 32_768
    assert scope.main_budget(runs, ()) == 262_144  # of equally many cells, the largest
    assert scope.densities(runs, 4) == [1.0, 0.5, 0.25]
    assert scope.densities(published, 4) == [1.0, 0.5, 0.25, 0.125]
    most = 6 * fit.ranges["N"][1] * fit.ranges["D"][1]
    for U_ in (32_768.0, 262_144.0):
        flops = scope.compute_budgets(fit, U_, 7)
        optimum = scope.dense_optimum(fit, U_)
        assert flops[-1] == pytest.approx(min(3 * optimum.flops, scope.BEYOND * most))
        assert np.allclose(np.diff(np.log10(flops)), scope.DECADES / 6)
    fresh = known_fit("chinchilla", simulate("chinchilla"))
    assert scope.dense_optimum(fresh, 32_768.0) is None
    assert scope.compute_budgets(fresh, 32_768.0, 7)[-1] == pytest.approx(scope.BEYOND_WITHOUT * most)


def test_dense_optimum_is_dense_and_near_its_lowest_loss():
    fit = published_fit()
    optimum = scope.dense_optimum(fit, U)
    assert optimum.density == 1
    assert optimum.loss == pytest.approx(plain_loss(1e30, 1e30, 1.0) + 0.01, abs=1e-5)
    cheaper = best_allocation(fit, U, 0.9 * optimum.flops, ACTIVE, Limits.of(fit, density=1.0))
    assert cheaper.loss > optimum.loss


def test_within_is_point_by_point_what_the_fit_says_of_one():
    fit = published_fit()
    N, D = np.array([1e6, 1e9, 1e9, 5e9]), np.array([1e9, 1e9, 1e12, 1e9])
    inside = scope.within(fit, N, U, D, 0.5)
    assert [not fit.outside(n, U, d, 0.5) for n, d in zip(N, D, strict=True)] == list(inside)


def test_dashes_in_the_isoflop_figure_are_where_the_fit_says_outside():
    _, runs = published_study()
    fit = published_fit()
    figure = plotted("isoflop", runs, fit, [U])
    flops = scope.compute_budgets(fit, U, isoflop.CURVES)
    for axes, s in zip(figure.axes[:2], (1.0, 0.5), strict=True):
        solid = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 240]
        assert len(solid) == len(flops)
        for line, C in zip(solid, flops, strict=True):
            drawn = np.isfinite(np.asarray(line.get_ydata(), dtype=float))
            epochs = np.asarray(line.get_xdata())[drawn]
            assert not any(fit.outside(C / 6 / (U * e), U, U * e, s) for e in epochs[:: len(epochs) // 4 + 1])
    style.plt.close(figure)

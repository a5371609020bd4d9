"""IsoFLOP curves: loss against epochs at equal training compute, by density and by what compute counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from sparsedc.errors import InputError
from sparsedc.figures import scope, style
from sparsedc.law.compute import Compute
from sparsedc.law.counts import count_params
from sparsedc.law.design import Floats
from sparsedc.law.fit import Fit
from sparsedc.law.frontier import Allocation, best_allocation, loss_optimal
from sparsedc.law.limits import Limits, knows_repetition
from sparsedc.words import count_label, density_label, law_label

MOST_DENSITIES = 4
CURVES = 7
FEWEST_EPOCHS = 0.5
COLOURS = style.shades("viridis_r", 0.08, 1.0)


@dataclass(frozen=True)
class Curve:
    """Loss against epochs at one compute and one density."""

    flops: float
    epochs: Floats  # (n,)
    N: Floats  # the model that compute and epochs leave, (n,)
    loss: Floats  # nats per token, (n,)
    best: Allocation  # of no more than this compute


def plot(runs: pd.DataFrame, fit: Fit, budgets: Sequence[float]) -> Figure:
    """One column a density, one row an accounting of compute, all at one budget of unique tokens."""
    U = scope.main_budget(runs, budgets)
    densities = scope.densities(runs, MOST_DENSITIES)
    flops = np.geomspace(*compute_range(runs, fit, U), CURVES)
    norm = LogNorm(flops[0], flops[-1])
    figure, panels = plt.subplots(
        2,
        len(densities),
        figsize=(2.0 + 2.6 * max(len(densities), 2), 6.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    cells = runs[(runs["unique_tokens"] == U) & runs["density"].isin(densities)]
    losses = cells["val_loss"].tolist()  # that the panels have room for
    for row, (compute, words) in zip(panels, scope.ACCOUNTINGS.items(), strict=True):
        row[0].set_ylabel(f"{words.partition(':')[0].capitalize()} compute\nHeld-out loss (nats per token)")
        for axes, s in zip(row, densities, strict=True):
            curves = isoflop_curves(fit, U, s, flops, compute)
            _panel(axes, fit, U, s, curves, norm)
            _measured(axes, runs, fit, U, s, compute, norm)
            if compute.zeros_free:  # where zeros are multiplied, the least compute buys very little
                losses += [loss for curve in curves for loss in (curve.loss.min(), curve.best.loss)]
            style.epoch_axis(axes, axes.xaxis, 2.0 ** np.arange(0, 11, 2 if curves[0].epochs[-1] > 80 else 1))
            axes.set_xlim(FEWEST_EPOCHS, curves[0].epochs[-1])
    spread = max(losses) - min(losses) or 0.1
    panels[0, 0].set_ylim(min(losses) - 0.25 * spread, max(losses) + 0.1 * spread)  # words stand below
    for axes, s in zip(panels[0], densities, strict=True):
        axes.set_title(f"density {density_label(s)}")
    figure.supxlabel("Epochs over the unique tokens", fontsize=10)
    figure.colorbar(
        ScalarMappable(norm, COLOURS), ax=list(panels.flat), label="Training compute 6ND (FLOPs)", fraction=0.04
    )
    figure.suptitle(_title(fit, U), fontsize=9.5, wrap=True)
    return figure


def _title(fit: Fit, U: float) -> str:
    title = f"U = {count_label(U)} unique tokens. {law_label(fit)}, dashed beyond the fitted runs. "
    title += "Dots: the best use of each compute"
    title += f", with {100 * (fit.level or 0.95):.0f} % of the law's refits.\n" if fit.draws else ".\n"
    if knows_repetition(fit):
        return (
            f"{title}Grey line: the lowest loss that any compute buys at that density. "
            "Star: the cheapest run within 0.01 nats of it"
        )
    return f"{title}This form takes repeated tokens for fresh ones: dots go no further than the epochs that were run"


def compute_range(runs: pd.DataFrame, fit: Fit, U: float) -> tuple[float, float]:
    """The least and the most compute of the curves: no less than any fit cell of that budget took, zeros for free."""
    least, most = scope.compute_budgets(fit, U, 2)
    cells = runs[(runs["role"] == "fit") & (runs["unique_tokens"] == U)]
    if len(cells):
        taken = float((6 * count_params(cells, fit.params) * cells["tokens"].to_numpy()).min())
        least = max(least, min(taken, most / 10))
    return float(least), float(most)


def isoflop_curves(fit: Fit, U: float, s: float, flops: Floats, compute: Compute) -> list[Curve]:
    """One curve for each compute of `flops` at density s, and its best allocation."""
    measured = (fit.ranges or {}).get("epochs", (1.0, 1.0))[1]
    epochs = np.geomspace(FEWEST_EPOCHS, 8 * max(measured, 8.0), 240)
    limits = Limits.of(fit, density=s)
    curves = []
    for C in flops:
        N = C / (6 * U * epochs) * (1.0 if compute.zeros_free else s)
        best = best_allocation(fit, U, C, compute, limits, draws=0)
        curves.append(Curve(float(C), epochs, N, fit.predict(N, U, U * epochs, s), best))
    return curves


def _panel(axes: Axes, fit: Fit, U: float, s: float, curves: list[Curve], norm: LogNorm) -> None:
    for curve in curves:
        inside = scope.within(fit, curve.N, U, U * curve.epochs, s)
        colour = COLOURS(norm(curve.flops))
        style.plot_solid_inside(axes, curve.epochs, curve.loss, inside, color=colour, linewidth=1.2)
        style.best_point(axes, fit, U, curve.best, curve.best.epochs, colour)
    try:
        near = loss_optimal(fit, U, Compute(zeros_free=True), Limits.of(fit, density=s), draws=0)
    except InputError:  # this law knows no lowest loss
        return
    axes.axhline(near.loss - 0.01, color="#888888", linewidth=0.9, zorder=1)
    axes.plot(near.epochs, near.loss, "*", color="black", markersize=11, markeredgecolor="white", zorder=4)
    axes.text(
        0.03,
        0.04,
        f"★ {near.loss:.3f}: {near.epochs:.2g} epochs,\nN = {count_label(near.N)}",
        transform=axes.transAxes,
        fontsize=8.5,
    )


def _measured(axes: Axes, runs: pd.DataFrame, fit: Fit, U: float, s: float, compute: Compute, norm: LogNorm) -> None:
    """The runs of that budget and density, in the colour of their own compute."""
    cells = runs[(runs["unique_tokens"] == U) & (runs["density"] == s)]
    if not len(cells):
        return
    N = count_params(cells, fit.params)
    flops = 6 * N * cells["tokens"].to_numpy() / (1.0 if compute.zeros_free else s)
    for role, marker in style.ROLE_MARKERS.items():
        some = (cells["role"] == role).to_numpy()
        axes.scatter(
            cells["epochs"][some],
            cells["val_loss"][some],
            c=COLOURS(norm(flops[some])),
            marker=marker,
            s=26,
            edgecolors="black",
            linewidths=0.6,
            zorder=3,
        )

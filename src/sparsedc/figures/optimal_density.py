"""Optimal density: loss against density at several compute budgets, and the compute that sparsity saves."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.interpolate import PchipInterpolator

from sparsedc.errors import InputError
from sparsedc.figures import scope, style
from sparsedc.law.compute import Compute
from sparsedc.law.design import Floats
from sparsedc.law.fit import Fit
from sparsedc.law.frontier import Allocation, LowestLoss, Saving, best_allocation, compute_saved, lowest_loss
from sparsedc.law.limits import Limits, knows_repetition
from sparsedc.words import count_label, flops_label, law_label

CURVES = 6
DENSITIES = 33
DRAWS = 40  # that give the intervals of the saving
#: dense compute of which the saving is shown, in multiples of what the dense optimum takes
SAVINGS = np.geomspace(1e-2, 10.0, 25)
#: how far below it the cheapest models are sought, and with how many points
LESS, POINTS = 1e-3, 40
ACTIVE = Compute(zeros_free=True)
COLOURS = style.shades("viridis_r", 0.08, 1.0)
OPEN = 1e6  # where a bar ends that has no upper end
DENSE, EQUAL, LOWEST = "#0072B2", "#D55E00", "#E69F00"


@dataclass(frozen=True)
class Curve:
    """The lowest loss of one compute at each density; sizes and epochs are the best for each."""

    flops: float
    s: Floats  # (n,)
    loss: Floats  # nats per token, (n,)
    best: Allocation  # at the best density of all
    inside: npt.NDArray[np.bool_]  # whether the best allocation lies in the fitted ranges, (n,)


def plot(runs: pd.DataFrame, fit: Fit, budgets: Sequence[float]) -> Figure:
    """One column a budget of unique tokens: above, loss against density; below, what sparsity saves."""
    if not scope.knows_density(fit):
        return _without_density(fit)
    unique = scope.budgets(runs, budgets)
    figure, panels = plt.subplots(
        2,
        len(unique),
        figsize=(1.6 + 3.5 * max(len(unique), 2), 6.9),
        height_ratios=[1.6, 1],
        squeeze=False,
        layout="constrained",
    )
    most = 2.0
    for (above, below), U in zip(panels.T, unique, strict=True):
        flops = None if scope.dense_optimum(fit, U) else float(scope.compute_budgets(fit, U, 2)[1])
        savings = {each: saving(fit, U, each, flops, DRAWS if each == ACTIVE else 0) for each in scope.ACCOUNTINGS}
        _loss_panel(above, fit, U, savings[ACTIVE])
        most = max(most, _saving_panel(below, fit, U, savings))
        above.set_title(f"U = {count_label(U)} unique tokens" + _beyond(fit, U))
    for below in panels[1]:
        below.set_ylim(0.7, 1.4 * min(most, 512.0))
    panels[0, 0].set_ylabel("Held-out loss (nats per token)")
    panels[1, 0].set_ylabel("Compute saved at equal loss,\ndense / cheapest")
    figure.legend(handles=_handles(fit), loc="outside lower center", ncols=2, fontsize=8.5)
    bars = f". Bars: {100 * (fit.level or 0.95):.0f} % of the law's refits" if fit.draws else ""
    figure.suptitle(f"{law_label(fit)}. Compute is 6ND; above, zeros cost nothing{bars}", fontsize=9.5, wrap=True)
    return figure


def loss_by_density(fit: Fit, U: float, flops: float, s: Floats) -> Curve:
    """The lowest loss that `flops` of active compute buy at each density."""
    each = [best_allocation(fit, U, flops, ACTIVE, Limits.of(fit, density=density), draws=0) for density in s]
    N, D, loss = (np.array([getattr(one, name) for one in each]) for name in ("N", "tokens", "loss"))
    best = best_allocation(fit, U, flops, ACTIVE, draws=0)
    return Curve(flops, s, loss, best, scope.within(fit, N, U, D, s))


def saving(fit: Fit, U: float, compute: Compute, flops: float | None = None, draws: int = 0) -> Saving | None:
    """The compute saved at the loss of the dense optimum, or of the best dense model of that much compute.

    Returns:
        None where the search finds no such dense model: under this law loss falls for ever, or nearly so.
    """
    try:
        return compute_saved(fit, U, compute, flops=flops, draws=draws)
    except InputError:
        return None


def factors(fit: Fit, U: float, compute: Compute, flops: Floats) -> Floats:
    """What `saving` would give at each dense compute, (n,), read off two frontiers: NaN beyond their ends."""
    limits = Limits.of(fit, density=1.0)
    dense = np.array([best_allocation(fit, U, C, compute, limits, draws=0).loss for C in flops])
    less = np.geomspace(LESS * flops[0], flops[-1], POINTS)
    free = np.array([best_allocation(fit, U, C, compute, draws=0).loss for C in less])
    falls = np.append(True, np.diff(np.minimum.accumulate(free)) < -1e-7)
    cheapest = PchipInterpolator(-free[falls], np.log(less[falls]), extrapolate=False)(-dense)
    return np.maximum(flops / np.exp(cheapest), 1.0)  # the dense model is among the others


def dense_inside(fit: Fit, U: float, flops: Floats) -> npt.NDArray[np.bool_]:
    """Whether the best dense model of each compute lies in the fitted ranges, (n,)."""
    limits = Limits.of(fit, density=1.0)
    dense = [best_allocation(fit, U, C, ACTIVE, limits, draws=0) for C in flops]
    return scope.within(fit, [a.N for a in dense], U, [a.tokens for a in dense], 1.0)


def ultimate(fit: Fit, U: float, s: float | None = None) -> LowestLoss | None:
    """The lowest loss that any compute buys, at density s or at the best one; None where loss falls for ever."""
    try:
        return lowest_loss(fit, U, Limits.of(fit, density=s), draws=DRAWS if s is None else 0)
    except InputError:
        return None


def _loss_panel(axes: Axes, fit: Fit, U: float, saved: Saving | None) -> None:
    s = np.geomspace(Limits.of(fit).densities[0], 1.0, DENSITIES)
    top = saved.dense.flops if saved else float(scope.compute_budgets(fit, U, 2)[1])
    curves = [loss_by_density(fit, U, C, s) for C in top * 10.0 ** np.linspace(-2.0, 0.5, CURVES)]
    for index, curve in enumerate(curves):
        colour = COLOURS(index / (CURVES - 1))
        style.plot_solid_inside(axes, s, curve.loss, curve.inside, color=colour, linewidth=1.2)
        style.best_point(axes, fit, U, curve.best, curve.best.density, colour)
    limit = ultimate(fit, U)
    if limit:
        floor = [ultimate(fit, U, density) for density in s]
        axes.plot(s, [each.loss if each else np.nan for each in floor], color="black", linewidth=1.6)
        if limit.intervals:
            ends = [np.nan if end is None else end for end in limit.intervals["density"]]
            axes.plot(ends, [limit.loss] * 2, color=LOWEST, linewidth=2.2)
        axes.plot(limit.density, limit.loss, "*", color=LOWEST, markersize=14, markeredgecolor="black", zorder=5)
    if saved:
        axes.plot([saved.cheapest.density, 1.0], [saved.loss] * 2, color=EQUAL, linewidth=1.0, zorder=3)
        axes.plot(1.0, saved.loss, "o", color=DENSE, markersize=8, markeredgecolor="black", zorder=5, clip_on=False)
        axes.plot(saved.cheapest.density, saved.loss, "D", color=EQUAL, markersize=7, markeredgecolor="black", zorder=5)
    style.density_axis(axes, s[0])
    axes.set_xlabel("Density s")
    _label(axes, curves)
    lowest = min([curve.loss.min() for curve in curves] + ([limit.loss] if limit else []))
    highest = max(curve.loss.max() for curve in curves)
    spread = highest - lowest or 0.1
    axes.set_ylim(lowest - 0.42 * spread, highest + 0.06 * spread)
    axes.text(0.04, 0.03, _words(saved, limit, s[0]), transform=axes.transAxes, fontsize=8.5, linespacing=1.35)


def _label(axes: Axes, curves: list[Curve]) -> None:
    """Name the curves at their left ends, as long as these keep apart."""
    losses = np.array([curve.loss for curve in curves])
    last, apart = np.inf, 0.09 * np.ptp(losses)
    for index, curve in enumerate(curves):
        if last - curve.loss[0] < apart:
            break
        last = curve.loss[0]
        axes.annotate(
            flops_label(curve.flops),
            (curve.s[0], last),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=7.5,
            color=COLOURS(index / (CURVES - 1)),
        )


def _words(saved: Saving | None, limit: LowestLoss | None, lowest: float) -> str:
    """The marked points in numbers; `lowest` is the lowest density that was looked at."""

    def density(s: float) -> str:
        return f"s {'≤' if lowest < 1 and s < 1.01 * lowest else '='} {s:.2f}"

    lines = []
    if saved:
        dense, cheapest = saved.dense, saved.cheapest
        lines += [
            f"● dense, {saved.loss:.3f}: N = {count_label(dense.N)}, {dense.epochs:.2g} epochs",
            f"◆ {density(cheapest.density)}, same loss: N = {count_label(cheapest.N)}, {cheapest.epochs:.2g} epochs",
        ]
    if limit:
        lines.append(f"★ {density(limit.density)}, no limit on compute: {limit.loss:.3f}")
    return "\n".join(lines)


def _saving_panel(axes: Axes, fit: Fit, U: float, savings: dict[Compute, Saving | None]) -> float:
    """Draws the saving by dense compute and returns the largest one."""
    most = 1.0
    for (compute, saved), colour, dash in zip(savings.items(), (EQUAL, DENSE), ("-", (0, (5, 1.5))), strict=True):
        if saved is None:
            continue
        flops = SAVINGS * saved.dense.flops
        along = factors(fit, U, compute, flops)
        axes.plot(flops, along, color=colour, linestyle=dash, alpha=0.4)
        axes.plot(flops, np.where(dense_inside(fit, U, flops), along, np.nan), color=colour, linestyle=dash)
        most = max(most, float(np.nanmax(along, initial=saved.factor)))
        at, factor = saved.dense.flops, saved.factor
        if saved.interval:
            low, high = saved.interval
            ends = [[factor - (low or 0.0)], [(high or OPEN) - factor]]
            axes.errorbar([at], [factor], yerr=np.maximum(ends, 0.0), color=colour, capsize=2.5, elinewidth=1.0)
        axes.plot(at, factor, "D", color=colour, markersize=6, markeredgecolor="black", zorder=4)
        place, side = ((-8, 4), "right") if compute.zeros_free else ((8, -10), "left")
        axes.annotate(f"{factor:.2g}×", (at, factor), xytext=place, textcoords="offset points", ha=side, fontsize=9)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(FixedLocator([2.0**k for k in range(11)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_xlabel("Compute of the dense model, 6ND (FLOPs)")
    return most


def _beyond(fit: Fit, U: float) -> str:
    if not fit.ranges or fit.ranges["U"][0] * (1 - 1e-6) <= U <= fit.ranges["U"][1] * (1 + 1e-6):
        return ""
    return "\n(beyond the fitted budgets)"


def _handles(fit: Fit) -> list[Line2D]:
    def mark(colour: str, marker: str, size: float, label: str) -> Line2D:
        return Line2D(
            [], [], color=colour, marker=marker, markersize=size, label=label, linestyle="", markeredgecolor="black"
        )

    compute = "each compute, its best density; dashed beyond the fitted runs"
    handles = [Line2D([], [], color=COLOURS(0.6), marker="o", markersize=4.5, label=compute)]
    if knows_repetition(fit):
        handles += [
            Line2D([], [], color="black", linewidth=1.6, label="no limit on compute"),
            mark(DENSE, "o", 8, "dense optimum: within 0.01 nats of its lowest loss"),
            mark(LOWEST, "*", 13, "lowest loss of all"),
        ]
    else:
        handles.append(mark(DENSE, "o", 8, "dense, with the most compute that is looked at"))
    return [
        *handles,
        mark(EQUAL, "D", 7, "the same loss with the least active compute"),
        Line2D([], [], color=EQUAL, label="below: saved if zeros cost nothing; pale beyond the fitted runs"),
        Line2D([], [], color=DENSE, linestyle=(0, (5, 1.5)), label="below: saved if zeros are multiplied"),
    ]


def _without_density(fit: Fit) -> Figure:
    figure, axes = plt.subplots(figsize=(6.4, 2.4), layout="constrained")
    style.notice(
        axes,
        f"The form {fit.form} knows N, but not density: under it\n"
        "models of equal N are equally good, and no density is best.",
    )
    return figure

"""IsoLoss contours, measured and predicted, over size and epochs at one budget: dense beside a sparser density."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sparsedc.errors import InputError
from sparsedc.figures import scope, style
from sparsedc.law.compute import Compute
from sparsedc.law.counts import count_params
from sparsedc.law.design import Floats
from sparsedc.law.fit import Fit
from sparsedc.law.forms import DataConstrained, get_form
from sparsedc.law.frontier import Allocation, best_allocation, loss_optimal
from sparsedc.law.limits import Limits
from sparsedc.words import count_label, density_label, law_label

#: how far beyond the measured range the contours go, as a factor on each side; fewer epochs than measured are
#: mostly less than one, where there is nothing to choose
BEYOND, BELOW_EPOCHS = 1.6, 1.15
POINTS = 81  # of a frontier
MEASURED = "#FFB000"  # contours; the law's are white
#: without fit cells: sizes in multiples of the model whose one-epoch optimum the budget is, and epochs
LAW_SIZES, LAW_EPOCHS = (0.5, 100.0), (0.8, 64.0)
_PARAMETERS = {
    "body": "Active parameters N (without embedding and head)",
    "average": "Mean active parameters N (without embedding and head)",
    "active": "Active parameters N (with embedding and head)",
    "paper": "Parameters N ((body + embedding) × density)",
}


@dataclass(frozen=True)
class Frontier:
    """What compute buys at one density: sizes and epochs, n points each from little compute to much."""

    N: Floats
    epochs: Floats
    fresh_size: Floats | None  # N, the same if every token were fresh, over `fresh_epochs`; None where all are
    fresh_epochs: Floats
    near: Allocation | None  # the cheapest run within 0.01 nats of the lowest loss; None where there is no lowest


def plot(runs: pd.DataFrame, fit: Fit, budgets: Sequence[float]) -> Figure:
    """One panel a density (at most two), at the first budget asked for or that with the most cells."""
    table = runs.assign(N=count_params(runs, fit.params))
    U = scope.main_budget(table, budgets)
    table = table[table["unique_tokens"] == U]
    measured = bool((table["role"] == "fit").any())
    densities = densities_shown(table) if measured else densities_shown(runs)
    table = table[table["density"].isin(densities)]
    frontiers = [frontier(fit, U, s) for s in densities]

    if measured:
        N_range, epoch_range = _range(table["N"], BEYOND), _range(table["epochs"], BELOW_EPOCHS)
    else:
        N_range, epoch_range = _law_range(fit, U), LAW_EPOCHS
    N, epochs = np.meshgrid(np.geomspace(*N_range, 120), np.geomspace(*epoch_range, 120))
    surfaces = [fit.predict(N.ravel(), U, U * epochs.ravel(), s).reshape(N.shape) for s in densities]
    levels = _levels(surfaces, table["val_loss"])

    figure, panels = plt.subplots(
        1,
        len(densities),
        figsize=(1.6 + 4.1 * len(densities), 4.9 + 0.7 * (len(densities) == 1)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, density, surface, best in zip(panels.flat, densities, surfaces, frontiers, strict=True):
        filled = axes.contourf(N, epochs, surface, levels=levels, cmap="cividis", extend="max")
        lines = axes.contour(N, epochs, surface, levels=levels, colors="white", linewidths=0.5)
        cells = table[table["density"] == density]
        means = cells.groupby(["role", "N", "epochs"], as_index=False)["val_loss"].mean()
        for role, marker in style.ROLE_MARKERS.items():
            some = means[means["role"] == role]
            axes.scatter(
                some["N"],
                some["epochs"],
                c=some["val_loss"],
                cmap="cividis",
                vmin=levels[0],
                vmax=levels[-1],
                s=46,
                marker=marker,
                edgecolors="white",
                linewidths=1.3,
                zorder=3,
                clip_on=False,
            )
        _fitted_frame(axes, fit, cells, U, density)
        style.epoch_axis(axes, axes.yaxis, table["epochs"].to_numpy() if measured else 2.0 ** np.arange(7))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_ticks(*N_range)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_label(value)))
        axes.set(xlim=N_range, ylim=epoch_range, title=f"density {density_label(density)}" + _optimum(best))
        axes.set_xlabel(_PARAMETERS[fit.params], fontsize=9)
        axes.grid(False)
        _frontier(axes, best, N_range, epoch_range)
        taken = np.vstack([means[["N", "epochs"]].to_numpy(), _drawn(best, N_range, epoch_range)])
        between = measured_surface(cells, N[0], epochs[:, 0])
        crossing = [level for level in levels[::2] if (between < level).any() and (between > level).any()]
        if crossing:
            look = {"colors": MEASURED, "linewidths": 1.5, "linestyles": "--"}
            observed = axes.contour(N, epochs, between, levels=crossing, **look)
            crossed = np.vstack([taken, *(path.vertices for path in observed.get_paths())])
            _label(axes, observed, np.vstack([taken, _label(axes, lines, crossed, 2)]), 1)
        else:
            _label(axes, lines, taken, 2)
    figure.colorbar(filled, ax=list(panels.flat), label="Held-out loss (nats per token)", fraction=0.05)
    panels[0, 0].set_ylabel("Epochs over the unique tokens")
    figure.suptitle(f"U = {count_label(U)} unique tokens. {law_label(fit)}", fontsize=9.5, wrap=True)
    figure.legend(
        handles=_handles(table, frontiers), loc="outside lower center", ncols=min(len(densities), 2), fontsize=8.5
    )
    return figure


def frontier(fit: Fit, U: float, s: float) -> Frontier:
    """The compute-optimal sizes and epochs at density s, for little compute to more than is of use."""
    limits = Limits.of(fit, density=s)
    form = get_form(fit.form)
    flops = scope.compute_budgets(fit, U, 2)
    path = [best_allocation(fit, U, C, _ACTIVE, limits, draws=0) for C in np.geomspace(flops[0] / 10, flops[1], POINTS)]
    fresh_epochs = np.geomspace(0.05, 100.0, 61)
    fresh = None
    if isinstance(form, DataConstrained):
        fresh = np.exp(form.log_N_opt(fit.parameters, np.log(U * fresh_epochs), np.full(fresh_epochs.size, s)))
    try:
        near = loss_optimal(fit, U, _ACTIVE, limits, draws=0)
    except InputError:  # loss falls for ever with compute under this law
        near = None
    return Frontier(np.array([a.N for a in path]), np.array([a.epochs for a in path]), fresh, fresh_epochs, near)


_ACTIVE = Compute(zeros_free=True)


def measured_surface(cells: pd.DataFrame, N: Floats, epochs: Floats) -> Floats:
    """Loss between fit cells, without any law: linear in ln N from size to size, then in ln epochs.

    Returns:
        Of each of m epochs and n sizes, (m, n); NaN where no cells lie on both sides.
    """
    fitted = cells[cells["role"] == "fit"]
    at = np.sort(fitted["epochs"].unique())
    losses = np.full((len(at), len(N)), np.nan)
    for row, passes in zip(losses, at, strict=True):
        sizes = fitted[fitted["epochs"] == passes].groupby("N")["val_loss"].mean()
        row[:] = np.interp(np.log(N), np.log(sizes.index.to_numpy()), sizes, left=np.nan, right=np.nan)
    surface = np.full((len(epochs), len(N)), np.nan)
    for column, loss in zip(surface.T, losses.T, strict=True):
        known = np.isfinite(loss)
        if known.sum() > 1:
            column[:] = np.interp(np.log(epochs), np.log(at[known]), loss[known], left=np.nan, right=np.nan)
    return surface


def _law_range(fit: Fit, U: float) -> tuple[float, float]:
    """Sizes of interest where no cell says which."""
    form = get_form(fit.form)
    if isinstance(form, DataConstrained):
        one_epoch = float(np.exp(form.log_N_opt(fit.parameters, np.log(np.array([U])), np.ones(1)))[0])
    else:
        one_epoch = U / 20  # about what Hoffmann et al. recommend
    return LAW_SIZES[0] * one_epoch, LAW_SIZES[1] * one_epoch


def _levels(surfaces: list[Floats], losses: pd.Series) -> Floats:
    """Evenly spaced levels from the lowest loss to where nine tenths of the panels, and every cell, lie below."""
    low = min(min(float(surface.min()) for surface in surfaces), losses.min() if len(losses) else np.inf)
    high = max(float(np.quantile(surfaces, 0.9)), losses.max() if len(losses) else -np.inf)
    return np.asarray(MaxNLocator(16).tick_values(low, max(high, low + 0.01)))


def _fitted_frame(axes: Axes, fit: Fit, cells: pd.DataFrame, U: float, s: float) -> None:
    """Dashes around what the law was fitted to: these cells, or what a law without cells says of its own."""
    fitted = cells[cells["role"] == "fit"]
    if len(fitted):
        (left, right), (low, high) = ((float(fitted[x].min()), float(fitted[x].max())) for x in ("N", "epochs"))
    elif fit.ranges and scope.within(fit, fit.ranges["N"][0], U, U * fit.ranges["epochs"][0], s):
        (left, right), (low, high) = fit.ranges["N"], fit.ranges["epochs"]
    else:
        return
    corner, extent = (left, low), (right - left, high - low)
    axes.add_patch(Rectangle(corner, *extent, fill=False, edgecolor="white", linestyle="--", linewidth=0.9))


def _frontier(axes: Axes, best: Frontier, N_range: tuple[float, float], epoch_range: tuple[float, float]) -> None:
    outline = [withStroke(linewidth=3.2, foreground="white")]
    if best.fresh_size is not None:
        thin = [withStroke(linewidth=2.6, foreground="white")]
        axes.plot(best.fresh_size, best.fresh_epochs, ":", color="black", linewidth=1.1, path_effects=thin)
        start = float(np.interp(0.0, np.log(best.fresh_epochs), best.fresh_size))
        if N_range[0] <= start <= N_range[1]:
            axes.plot(start, 1.0, "o", color="black", markersize=6.5, markeredgecolor="white", zorder=5)
    axes.plot(best.N, best.epochs, color="black", linewidth=1.7, path_effects=outline)
    if best.near and _in_frame(best.near, N_range, epoch_range):
        axes.plot(best.near.N, best.near.epochs, "*", color="#E69F00", markersize=14, markeredgecolor="black", zorder=6)


def _in_frame(near: Allocation, N_range: tuple[float, float], epoch_range: tuple[float, float]) -> bool:
    return N_range[0] <= near.N <= N_range[1] and epoch_range[0] <= near.epochs <= epoch_range[1]


def _drawn(best: Frontier, N_range: tuple[float, float], epoch_range: tuple[float, float]) -> Floats:
    """Points of the path that labels should keep away from, (n, 2)."""
    points = np.column_stack([best.N, best.epochs])
    if best.near:
        points = np.vstack([points, (best.near.N, best.near.epochs)])
    (left, right), (low, high) = N_range, epoch_range
    keep = (points[:, 0] > left) & (points[:, 0] < right) & (points[:, 1] > low) & (points[:, 1] < high)
    return np.asarray(points[keep])


def _optimum(best: Frontier) -> str:
    if best.near is None:
        return ""
    return f"\n★ {best.near.loss:.3f}: N = {count_label(best.near.N)}, {best.near.epochs:.2g} epochs"


def _handles(table: pd.DataFrame, frontiers: list[Frontier]) -> list[Line2D]:
    fresh = all(best.fresh_size is None for best in frontiers)  # then the law would go on with epochs for ever
    label = f"best size and epochs{' (no more than were run)' if fresh else ''} for each compute"
    best = Line2D([], [], color="black", linewidth=1.7, label=label)
    stroke = [withStroke(linewidth=2.4, foreground="#777777")]
    predicted = Line2D(
        [], [], color="white", linewidth=1.0, path_effects=stroke, label="predicted loss, as the colours"
    )
    measured = Line2D([], [], color=MEASURED, linewidth=1.5, linestyle="--", label="measured loss, between fit cells")
    handles = [predicted, *([measured] if (table["role"] == "fit").any() else []), best]
    if not fresh:
        label = "the same if every token were fresh (dot: one epoch)"
        handles.append(Line2D([], [], color="black", linestyle=":", linewidth=1.1, marker="o", label=label))
    if any(best.near for best in frontiers):
        label = "★ cheapest run within 0.01 nats of the lowest loss"
        handles.append(
            Line2D(
                [], [], color="#E69F00", marker="*", markersize=12, markeredgecolor="black", linestyle="", label=label
            )
        )
    handles.append(Line2D([], [], color="#888888", linestyle="--", linewidth=0.9, label="range of the fitted cells"))
    for role, label in (("fit", "fit cells"), ("extrapolation", "extrapolation cells")):
        if (table["role"] == role).any():
            handles.append(
                Line2D(
                    [],
                    [],
                    color="#666666",
                    markerfacecolor="none",
                    linestyle="",
                    marker=style.ROLE_MARKERS[role],
                    label=f"{label}, in the colour of their loss",
                )
            )
    return handles


def densities_shown(runs: pd.DataFrame) -> list[float]:
    """The highest density and one more: the highest below 1 that extrapolation cells have, else the next one."""
    densities = sorted(runs["density"].unique(), reverse=True)
    tested = runs.loc[runs["role"] == "extrapolation", "density"]
    tested = tested[(tested < 1) & (tested < densities[0])]
    return [densities[0], tested.max()] if len(tested) else densities[:2]


def _range(values: pd.Series, below: float) -> tuple[float, float]:
    return float(values.min()) / below, float(values.max()) * BEYOND


def _label(axes: Axes, lines: QuadContourSet, taken: Floats, every: int) -> Floats:
    """Label every so many contours where each is farthest from what is taken, other labels and the frame.

    Args:
        taken: x, y of what labels keep away from, (n, 2), in data coordinates.

    Returns:
        x, y of the labels, likewise.
    """
    to_panel = axes.transData + axes.transAxes.inverted()
    obstacles = to_panel.transform(taken)
    places: list[tuple[float, float]] = []
    for path in lines.get_paths()[::every]:
        vertices = np.asarray(path.vertices)
        if not len(vertices):
            continue
        points = to_panel.transform(vertices)
        to_frame = 2 * np.minimum(points, 1 - points).min(axis=1)
        distance = np.minimum(to_frame, np.linalg.norm(points[:, None] - obstacles, axis=2).min(axis=1, initial=np.inf))
        if distance.max() < 0.04:
            continue
        best = int(distance.argmax())
        places.append((float(vertices[best, 0]), float(vertices[best, 1])))
        obstacles = np.vstack([obstacles, points[best]])
    if places:
        labels = axes.clabel(lines, fontsize=7.5, fmt="%.4g", manual=places)
        for label in labels:
            label.set_path_effects([withStroke(linewidth=1.6, foreground="#333333")])
    return np.array(places).reshape(-1, 2)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or the powers alone over more than two decades."""
    steps = (1,) if high / low > 300 else (1, 3) if high / low > 30 else (1, 2, 5)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]

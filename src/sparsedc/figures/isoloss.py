"""Contours of predicted loss over model size and epochs at one budget, dense beside a sparser density."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sparsedc.figures import style
from sparsedc.figures.words import count_label, density_label
from sparsedc.law.counts import count_params

#: how far beyond the measured range the contours go, as a factor on each side; fewer epochs than measured are
#: mostly less than one, where there is nothing to choose
BEYOND, BELOW_EPOCHS = 1.6, 1.15
_PARAMETERS = {
    "body": "Active parameters N (without embedding and head)",
    "active": "Active parameters N (with embedding and head)",
    "paper": "Parameters N ((body + embedding) × density)",
}


def draw(runs: Path, law: Path, out_stem: Path) -> None:
    """One panel a density (at most two), at the budget with the most cells; measured cells in the same colours."""
    style.apply_style()
    table = style.read_finished(runs)
    fit = style.read_selection(law).best
    table = table.assign(N=count_params(table, fit.params))
    cells_of_budget = table.groupby("unique_tokens").size()
    U = int(cells_of_budget[cells_of_budget == cells_of_budget.max()].index.max())
    table = table[table["unique_tokens"] == U]
    densities = densities_shown(table)
    table = table[table["density"].isin(densities)]

    N_range, epoch_range = _range(table["N"], BEYOND), _range(table["epochs"], BELOW_EPOCHS)
    N, epochs = np.meshgrid(np.geomspace(*N_range, 120), np.geomspace(*epoch_range, 120))
    surfaces = [fit.predict(N.ravel(), U, U * epochs.ravel(), density).reshape(N.shape) for density in densities]
    low = min(min(surface.min() for surface in surfaces), table["val_loss"].min())
    high = max(max(surface.max() for surface in surfaces), table["val_loss"].max())
    levels = MaxNLocator(14).tick_values(low, max(high, low + 0.01))

    figure, panels = plt.subplots(
        1,
        len(densities),
        figsize=(1.6 + 4.1 * len(densities), 4.3),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, density, surface in zip(panels.flat, densities, surfaces, strict=True):
        filled = axes.contourf(N, epochs, surface, levels=levels, cmap="cividis")
        lines = axes.contour(N, epochs, surface, levels=levels, colors="white", linewidths=0.6)
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
        fitted = cells[cells["role"] == "fit"]
        if len(fitted):
            corner = (fitted["N"].min(), fitted["epochs"].min())
            extent = (fitted["N"].max() - corner[0], fitted["epochs"].max() - corner[1])
            axes.add_patch(Rectangle(corner, *extent, fill=False, edgecolor="white", linestyle="--", linewidth=0.9))
        style.epoch_axis(axes, axes.yaxis, table["epochs"].to_numpy())
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_ticks(*N_range)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_label(value)))
        axes.set(xlim=N_range, ylim=epoch_range, title=f"density {density_label(density)}")
        axes.grid(False)
        _label(axes, lines, means[["N", "epochs"]].to_numpy())
    figure.colorbar(filled, ax=list(panels.flat), label="Held-out loss (nats per token)", fraction=0.05)
    panels[0, 0].set_ylabel("Epochs over the unique tokens")
    figure.supxlabel(_PARAMETERS[fit.params], fontsize=9.5)
    figure.suptitle(
        f"U = {count_label(U)} unique tokens. Law: {fit.form} ({fit.status})."
        + ("\n" if len(densities) == 1 else " ")
        + "Circles: measured, in the colour of their loss"
        + (" (diamonds: extrapolation cells)" if (table["role"] == "extrapolation").any() else "")
        + ".\nDashes: range of the cells that the law was fitted to",
        fontsize=9.5,
    )
    style.save(figure, out_stem)


def densities_shown(runs: pd.DataFrame) -> list[float]:
    """The highest density and one more: the highest below 1 that extrapolation cells have, else the next one."""
    densities = sorted(runs["density"].unique(), reverse=True)
    tested = runs.loc[runs["role"] == "extrapolation", "density"]
    tested = tested[(tested < 1) & (tested < densities[0])]
    return [densities[0], tested.max()] if len(tested) else densities[:2]


def _range(values: pd.Series, below: float) -> tuple[float, float]:
    return float(values.min()) / below, float(values.max()) * BEYOND


def _label(axes: Axes, lines: QuadContourSet, taken: np.ndarray) -> None:
    """Label every second contour where it is farthest from measured points, other labels and the frame.

    Args:
        taken: x, y of the measured points, (n, 2), in data coordinates.
    """
    to_panel = axes.transData + axes.transAxes.inverted()
    obstacles = to_panel.transform(taken)
    places: list[tuple[float, float]] = []
    for path in lines.get_paths()[::2]:
        vertices = np.asarray(path.vertices)
        if not len(vertices):
            continue
        points = to_panel.transform(vertices)
        to_frame = 2 * np.minimum(points, 1 - points).min(axis=1)
        distance = np.minimum(to_frame, np.linalg.norm(points[:, None] - obstacles, axis=2).min(axis=1))
        if distance.max() < 0.04:
            continue
        best = int(distance.argmax())
        places.append((float(vertices[best, 0]), float(vertices[best, 1])))
        obstacles = np.vstack([obstacles, points[best]])
    if places:
        labels = axes.clabel(lines, fontsize=7.5, fmt="%.3g", manual=places)
        for label in labels:
            label.set_path_effects([withStroke(linewidth=1.6, foreground="#333333")])


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or the powers alone over more than two decades."""
    steps = (1,) if high / low > 300 else (1, 3) if high / low > 30 else (1, 2, 5)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]

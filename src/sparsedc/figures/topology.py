"""What topology updates explored and replaced: their shares and the weights' ages against training steps."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparsedc.figures import style
from sparsedc.figures.arms import compared
from sparsedc.words import density_label

MOST_DENSITIES = 4
#: column of topology.csv → the panel's title
PANELS = {
    "explored": "Explored: share of all\nweights that was ever active",
    "overlap": "Overlap: share of the initial\nmask that is active now",
    "replaced_share": "Replaced: share of active\nweights that are new",
    "age_median": "Age of active weights, steps:\nmedian, thin: lower quartile",
    "active_share": "Density: of all weights,\nthin: lowest, highest layer",
}
#: and what its thin lines are
_THIN = {"age_median": ("age_q25",), "active_share": ("layer_density_min", "layer_density_max")}
#: Lines coincide if they are nowhere farther apart than this share of the highest value: about their own width.
COINCIDE = 0.01


def plot(runs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """A column for each quantity, means over seeds and learning rates of one configuration.

    With one arm all densities share a row; with several each density has a row, and colours are arms. Lines that
    coincide are drawn as one, striped in their colours.
    """
    found = compared(runs, table)
    if found is None:
        figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
        style.notice(axes, "No finished cell of this study\nhas topology updates.")
        return figure
    rows = found.rows.merge(runs[["cell", "seed"]], on="cell")
    densities = sorted(rows["density"].unique(), reverse=True)
    several = len(found.colours) > 1
    shown = style.spread_over(densities, MOST_DENSITIES) if several else densities
    colours: Mapping[Any, str] = found.colours if several else style.density_colours(runs)
    key = "arm" if several else "density"
    parts = [rows[rows["density"] == density] for density in shown] if several else [rows]

    figure, grid = plt.subplots(
        len(parts),
        len(PANELS),
        figsize=(2.5 * len(PANELS), 1.5 + 2.0 * len(parts)),
        sharex=True,
        sharey="col" if several else False,
        squeeze=False,
        layout="constrained",
    )
    for place, part in enumerate(parts):
        for axes, quantity in zip(grid[place], PANELS, strict=True):
            _lines(axes, part, quantity, key, colours, "o", 1.6)
            for thin in _THIN.get(quantity, ()):
                _lines(axes, part, thin, key, colours, "", 0.7)
            if place == 0:
                axes.set_title(PANELS[quantity])
        if several:
            grid[place, 0].set_ylabel(f"density {density_label(shown[place])}")
    for column, quantity in enumerate(PANELS):
        for axes in grid[:, column]:
            if quantity in ("explored", "overlap", "active_share"):
                axes.set_ylim(0, 1.03)
            else:
                axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supxlabel("Training step of the update", fontsize=10.5)
    present = set(rows[key])
    handles = [
        Line2D([], [], color=colour, marker="o", label=density_label(group) if isinstance(group, float) else str(group))
        for group, colour in colours.items()
        if group in present
    ]
    methods = sorted(rows["method"].unique())
    differing = ["Method"] * (len(methods) > 1) + ["newborn weights"] * (rows["newborn"].nunique() > 1)
    figure.legend(
        handles=handles,
        loc="outside right upper",
        title=", ".join(differing).capitalize() if several else "Density",
    )
    title = f"{', '.join(methods)}: {found.label}\n{averaged(rows, ['density', 'arm'])}"
    if len(present) > 1:
        title += "; striped lines: several that coincide"
    if len(shown) < len(densities):
        title += f"\nShown: {len(shown)} of {len(densities)} densities"
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, wrap=True)
    return figure


def averaged(rows: pd.DataFrame, line: list[str]) -> str:
    """In words, of how many cells a line is the mean, and over what."""
    counts = rows.groupby(line)[["cell", "maskable_lr", "seed"]].nunique()
    few, most = counts["cell"].min(), counts["cell"].max()
    if most == 1:
        return "Each line is one cell"
    over = [
        f"{counts[column].max()} {word}"
        for column, word in (("maskable_lr", "learning rates"), ("seed", "seeds"))
        if counts[column].max() > 1
    ]
    return f"Each line is the mean of {few if few == most else f'{few} to {most}'} cells" + (
        f", over {' and '.join(over)}" if over else ""
    )


def coinciding(lines: Mapping[Any, pd.Series]) -> list[list[Any]]:
    """The names of the lines, in their order, in groups that coincide; see `COINCIDE`."""
    apart = COINCIDE * max(line.abs().max() for line in lines.values())
    groups: list[list[Any]] = []
    for name, line in lines.items():
        for group in groups:
            first = lines[group[0]]
            if line.index.equals(first.index) and np.allclose(line, first, rtol=0, atol=apart):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _lines(
    axes: Axes, part: pd.DataFrame, quantity: str, key: str, colours: Mapping[Any, str], marker: str, width: float
) -> None:
    """A line a group, the mean of its cells; those that coincide take turns in dashes and markers."""
    means = {name: cells.groupby("step")[quantity].mean() for name, cells in part.groupby(key)}
    means = {name: means[name] for name in colours if name in means}
    dash = 5 / width  # linestyles are in widths of the line; 5 points
    for group in coinciding(means):
        for turn, name in enumerate(group):
            axes.plot(
                means[name],
                marker=marker,
                markevery=(turn, len(group)),
                markersize=2.5,
                color=colours[name],
                linewidth=width,
                linestyle=(turn * dash, (dash, (len(group) - 1) * dash)) if len(group) > 1 else "-",
            )

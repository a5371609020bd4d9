"""What topology updates explored and replaced: their shares and the weights' ages against training steps."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
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
    "age_median": "Age of active weights, steps:\nmedian and middle half",
    "active_share": "Density: of all weights, and\nlowest to highest layer",
}
#: and what its band is between
_BANDS = {"age_median": ("age_q25", "age_q75"), "active_share": ("layer_density_min", "layer_density_max")}


def plot(runs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """A column for each quantity, means over seeds and learning rates of one configuration.

    With one arm all densities share a row; with several each density has a row, and colours are arms.
    """
    found = compared(runs, table)
    if found is None:
        figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
        style.notice(axes, "No finished cell of this study\nhas topology updates.")
        return figure
    rows = found.rows
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
            for group, cells in part.groupby(key):
                _line(axes, cells, quantity, colours[group])
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
    only = next(iter(found.colours))
    figure.legend(handles=handles, loc="outside right upper", title="Arm" if several else f"{only}, density")
    title = found.label
    if len(shown) < len(densities):
        title += f"\nShown: {len(shown)} of {len(densities)} densities"
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5)
    return figure


def _line(axes: Axes, cells: pd.DataFrame, quantity: str, colour: str) -> None:
    bands = _BANDS.get(quantity, ())
    mean = cells.groupby("step")[[quantity, *bands]].mean()
    axes.plot(mean.index, mean[quantity], "o-", color=colour, markersize=2.5)
    if bands:
        low, high = bands
        axes.fill_between(mean.index, mean[low], mean[high], color=colour, alpha=0.15, linewidth=0)

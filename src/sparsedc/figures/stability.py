"""What topology updates did to the loss, by policy for newborn weights: around the updates, and in the end."""

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sparsedc.figures import style
from sparsedc.figures.arms import Compared, compared
from sparsedc.words import density_label

MOST_DENSITIES = 4


def plot(runs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """A column for each density; from top to bottom the loss around updates, the ratio of update sizes, the final loss.

    The upper two rows show the learning rate that most cells of a density have, a line a policy and a thin one a seed;
    the first of them as differences from the baseline's cells.
    """
    found = compared(runs, table)
    if found is None or len(found.colours) < 2:
        figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
        style.notice(axes, "No configuration of this study was run\nwith several policies for newborn weights.")
        return figure
    rows = found.rows.merge(runs[["cell", "seed"]], on="cell")
    baseline = baseline_of(rows, found.colours)
    rows = less_baseline(rows, baseline)
    densities = sorted(rows["density"].unique(), reverse=True)
    shown = style.spread_over(densities, MOST_DENSITIES)
    figure, grid = plt.subplots(
        3, len(shown), figsize=(2.6 + 2.7 * len(shown), 8.2), sharey="row", squeeze=False, layout="constrained"
    )
    for column, density in enumerate(shown):
        cells = rows[rows["density"] == density]
        rate = main_rate(cells)
        at_rate = cells[cells["maskable_lr"] == rate]
        grid[0, column].set_title(f"density {density_label(density)}\nupper panels: maskable_lr {rate:.3g}")
        _around(grid[0, column], at_rate, "loss_difference", found.colours, without=f"no cells of {baseline}")
        _around(grid[1, column], at_rate[at_rate["offset"] >= 1], "update_ratio", found.colours, without="not measured")
        _final(grid[2, column], cells, found, density)
    for axes in grid[0]:
        axes.axvline(0, color="#777777", linewidth=0.8, linestyle=":", zorder=1)
        axes.set_xlabel("steps from the update")
    for axes in grid[1]:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator([0.01, 0.03, 0.1, 0.3, 1, 3, 10]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.axhline(1, color="#777777", linewidth=0.8, zorder=1)
        axes.set_xlabel("steps after the update")
    for axes in grid[2]:
        axes.set_xlabel("maskable_lr")
    grid[0, 0].set_ylabel(f"Training loss less that of\n{baseline} (nats per token)")
    grid[1, 0].set_ylabel("Update size, regrown / kept")
    grid[2, 0].set_ylabel("Final held-out loss\n(nats per token)")

    handles = [Line2D([], [], color=colour, marker="o", label=arm) for arm, colour in found.colours.items()]
    controls = set(found.controls["density"])
    if controls & set(shown):
        handles.append(Line2D([], [], color="#777777", marker="s", linestyle=":", label="static mask"))
    if 1.0 in controls:
        handles.append(Line2D([], [], color="black", linestyle="--", label="dense, best rate"))
    figure.legend(handles=handles, loc="outside right upper", title="Newborn weights")
    title = found.label
    lost = sorted(set(table["cell"]) - set(runs["cell"]))
    if lost:
        policies = table[table["cell"].isin(lost)].drop_duplicates("cell")["newborn"].value_counts()
        title += "\nDiverged, not shown: " + ", ".join(f"{count} {policy}" for policy, count in policies.items())
    if len(shown) < len(densities):
        title += f"\nShown: {len(shown)} of {len(densities)} densities"
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5)
    return figure


def main_rate(cells: pd.DataFrame) -> float:
    """The learning rate that most cells of one density have; of several the middle one."""
    cells_of = cells.groupby("maskable_lr")["cell"].nunique()
    most = sorted(cells_of[cells_of == cells_of.max()].index)
    return float(most[len(most) // 2])


def baseline_of(rows: pd.DataFrame, arms: Iterable[str]) -> str:
    """The first of the arms that is run with `reset`; where none is, the first."""
    with_reset = set(rows.loc[rows["newborn"] == "reset", "arm"])
    arms = list(arms)
    return next((arm for arm in arms if arm in with_reset), arms[0])


def less_baseline(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The rows with `loss_difference`: the loss less the baseline's at the same density, rate, seed and offset.

    Cells of a seed see the same batches, so that the noise of these is in both losses and leaves their difference.
    Where the baseline has no such cell, the difference is missing.
    """
    pair = ["density", "maskable_lr", "seed", "offset"]
    of_baseline = rows[rows["arm"] == baseline].groupby(pair)["loss"].mean().rename("baseline_loss").reset_index()
    rows = rows.merge(of_baseline, on=pair, how="left")
    return rows.assign(loss_difference=rows["loss"] - rows["baseline_loss"])


def _around(axes: Axes, rows: pd.DataFrame, quantity: str, colours: dict[str, str], *, without: str) -> None:
    rows = rows.dropna(subset=[quantity])
    if not len(rows):
        axes.text(0.5, 0.5, without, transform=axes.transAxes, ha="center", va="center", color="#777777")
        return
    for arm, colour in colours.items():
        some = rows[rows["arm"] == arm]
        if some["cell"].nunique() > 1:
            for _, cell in some.groupby("cell"):
                axes.plot(cell["offset"], cell[quantity], color=colour, linewidth=0.5, alpha=0.45)
        mean = some.groupby("offset")[quantity].mean()
        axes.plot(mean.index, mean, color=colour, label=arm)


def _final(axes: Axes, rows: pd.DataFrame, found: Compared, density: float) -> None:
    cells = rows.drop_duplicates("cell")
    static = found.controls[(found.controls["density"] == density) & (found.controls["method"] == "static")]
    rates = sorted({*cells["maskable_lr"], *static["maskable_lr"]})
    axes.set_xscale("log")
    # Policies stand a little left or right of their rate, so that none hides another.
    factors = np.geomspace(1, max(rates[-1] / rates[0], 1.5) ** 0.08, len(found.colours))
    for factor, (arm, colour) in zip(factors / np.sqrt(factors[-1]), found.colours.items(), strict=True):
        _points(axes, cells[cells["arm"] == arm], factor, color=colour, marker="o", linestyle="-")
    _points(axes, static, 1.0, color="#777777", marker="s", linestyle=":")
    dense = found.controls[found.controls["density"] == 1].groupby("maskable_lr")["val_loss"].mean()
    if len(dense):
        axes.axhline(dense.min(), color="black", linestyle="--", linewidth=1.0)
    axes.xaxis.set_major_locator(FixedLocator(rates))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.set_xlim(rates[0] / 1.3, rates[-1] * 1.3)


def _points(axes: Axes, cells: pd.DataFrame, factor: float, *, color: str, marker: str, linestyle: str) -> None:
    """A point a seed, and a line through their means."""
    if not len(cells):
        return
    look: dict[str, Any] = {"markersize": 3.5, "alpha": 0.6, "markeredgewidth": 0}
    axes.plot(cells["maskable_lr"] * factor, cells["val_loss"], marker, color=color, **look)
    mean = cells.groupby("maskable_lr")["val_loss"].mean()
    axes.plot(mean.index * factor, mean, color=color, linestyle=linestyle, linewidth=1.1)

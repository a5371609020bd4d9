"""What topology updates did to the loss, by policy for newborn weights: around the updates, and in the end."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator

from sparsedc.figures import style
from sparsedc.figures.arms import POLICIES, compared
from sparsedc.sparsity.methods import METHODS
from sparsedc.words import density_label

MOST_DENSITIES = 4
_GREY = "#777777"
#: Cells of a seed see the same batches, so that the noise of these is in both losses and leaves their difference.
_PAIR = ["method", "density", "maskable_lr", "seed"]


def plot(runs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """A column for each density; from top to bottom the loss around updates, the ratio of update sizes, the final loss.

    Losses are less those of the cell that differs in its policy alone, which is the baseline's. The upper two rows show
    the learning rate that most cells of a density have, a line a policy and a thin one a seed.
    """
    found = compared(runs, with_several_policies(runs, table))
    if found is None:
        figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
        style.notice(axes, "No method that grows weights was run\nwith several policies for newborn weights.")
        return figure
    rows = found.rows.merge(runs[["cell", "seed"]], on="cell")
    cells = rows.drop_duplicates("cell")
    static = found.controls[found.controls["method"] == "static"]
    baseline = baseline_of(rows)
    of_baseline = cells["newborn"] == baseline
    final = less(cells, cells[of_baseline], "val_loss", _PAIR)
    static = less(static, cells[of_baseline], "val_loss", _PAIR[1:])
    rows = less(rows, rows[rows["newborn"] == baseline], "loss", [*_PAIR, "offset"])

    zeros = set(cells.loc[of_baseline, "arm"])
    others = {arm: colour for arm, colour in found.colours.items() if arm not in zeros}
    zero = found.colours[min(zeros)] if len(zeros) == 1 else _GREY
    densities = sorted(cells["density"].unique(), reverse=True)
    shown = style.spread_over(densities, MOST_DENSITIES)
    figure, grid = plt.subplots(
        3, len(shown), figsize=(2.6 + 2.7 * len(shown), 8.6), sharey="row", squeeze=False, layout="constrained"
    )
    for (around, ratio, end), density in zip(grid.T, shown, strict=True):
        of_density = rows[rows["density"] == density]
        rate = main_rate(of_density)
        at_rate = of_density[of_density["maskable_lr"] == rate]
        count = at_rate["seed"].nunique()
        seeds = "1 seed" if count == 1 else f"{count} seeds"
        around.set_title(f"density {density_label(density)}\nupper panels: {seeds} at\nmaskable_lr {rate:.3g}")
        _lines(around, at_rate, "difference", others, without=f"no cells of {baseline}")
        _lines(ratio, at_rate[at_rate["offset"] >= 1], "update_ratio", found.colours, without="not measured")
        of_rate = cells[of_baseline & (cells["density"] == density)].groupby("maskable_lr")["val_loss"].mean()
        here = final[final["density"] == density]
        sides = [(here[here["arm"] == arm], colour, "o") for arm, colour in others.items()]
        if len(static):
            sides.append((static[static["density"] == density], _GREY, "s"))
        _final(end, sides, of_rate, without=f"no cells of {baseline}")
    for axes in grid[0]:
        axes.axvline(0, color=_GREY, linewidth=0.8, linestyle=":", zorder=1)
        axes.xaxis.set_major_locator(MultipleLocator(8))
        axes.set_xlabel("steps from the update")
    for axes in grid[1]:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.axhline(1, color=_GREY, linewidth=0.8, zorder=1)
        axes.set_xlabel("steps after the update")
    low, high = grid[1, 0].get_ylim()
    grid[1, 0].set_ylim(min(low, 0.45), max(high, 2.2))  # at least the ticks 0.5, 1 and 2
    for axes in grid[2]:
        axes.set_xlabel(f"maskable_lr\nmean loss of {baseline}")
    for axes in (*grid[0], *grid[2]):
        axes.axhline(0, color=zero, zorder=1.5)
    grid[0, 0].set_ylabel(f"Change of training loss\nsince the update, less that of\n{baseline} (nats per token)")
    grid[1, 0].set_ylabel("Update size, regrown / kept")
    grid[2, 0].set_ylabel(f"Final held-out loss, less that of\n{baseline} at the same seed\n(nats per token)")

    handles = [Line2D([], [], color=colour, marker="o", label=arm) for arm, colour in found.colours.items()]
    if len(zeros) > 1:
        handles.append(Line2D([], [], color=zero, label=f"{baseline} of the same method"))
    if set(static["density"]) & set(shown):
        handles.append(Line2D([], [], color=_GREY, marker="s", linestyle="None", label="static mask"))
    handles.append(Line2D([], [], color="black", linewidth=2, label="thick: mean of seeds"))
    methods = sorted(cells["method"].unique())
    arms = "Newborn weights" if len(methods) == 1 else "Method, newborn weights"
    figure.legend(handles=handles, loc="outside right upper", title=arms)
    title = f"{', '.join(methods)}: {found.label}"
    dense = found.controls[found.controls["density"] == 1].groupby("maskable_lr")["val_loss"].mean()
    if len(dense):
        title += f"; final loss of the dense model at its best rate: {dense.min():.3f}"
    lost = sorted(set(table["cell"]) - set(runs["cell"]))
    if lost:
        policies = table[table["cell"].isin(lost)].drop_duplicates("cell")["newborn"].value_counts()
        title += "\nDiverged, not shown: " + ", ".join(f"{count} {policy}" for policy, count in policies.items())
    if len(shown) < len(densities):
        title += f"\nShown: {len(shown)} of {len(densities)} densities"
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, wrap=True)
    return figure


def with_several_policies(runs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of cells whose method grows weights and has, in their configuration, several policies for these."""
    growing = [name for name, method in METHODS.items() if method.grows]
    configuration = ["method", "size", "unique_tokens", "epochs"]
    rows = table.merge(runs.loc[runs["method"].isin(growing), ["cell", *configuration]], on="cell")
    several = rows.groupby(configuration)["newborn"].transform("nunique") > 1
    return table[table["cell"].isin(rows.loc[several, "cell"])]


def main_rate(cells: pd.DataFrame) -> float:
    """The learning rate that most cells of one density have; of several the middle one."""
    cells_of = cells.groupby("maskable_lr")["cell"].nunique()
    most = sorted(cells_of[cells_of == cells_of.max()].index)
    return float(most[len(most) // 2])


def baseline_of(rows: pd.DataFrame) -> str:
    """`reset`; where no cell has it, the first policy that any has."""
    there = set(rows["newborn"])
    return next(policy for policy in ("reset", *POLICIES) if policy in there)


def less(rows: pd.DataFrame, baseline: pd.DataFrame, quantity: str, pair: list[str]) -> pd.DataFrame:
    """The rows with `difference`: the quantity less its mean over the rows of the baseline that agree in `pair`.

    Where the baseline has none, the difference is missing.
    """
    mean = baseline.groupby(pair)[quantity].mean().rename("of_baseline").reset_index()
    rows = rows.merge(mean, on=pair, how="left")
    return rows.assign(difference=rows[quantity] - rows["of_baseline"])


def _lines(axes: Axes, rows: pd.DataFrame, quantity: str, colours: Mapping[str, str], *, without: str) -> None:
    """A thick line an arm, the mean of its cells, which are thin lines; or, without any, words."""
    rows = rows.dropna(subset=[quantity])
    if not len(rows):
        _say(axes, without)
        return
    for arm, colour in colours.items():
        some = rows[rows["arm"] == arm]
        if some["cell"].nunique() > 1:
            for _, cell in some.groupby("cell"):
                axes.plot(cell["offset"], cell[quantity], color=colour, linewidth=0.5, alpha=0.45)
        mean = some.groupby("offset")[quantity].mean()
        axes.plot(mean.index, mean, color=colour, label=arm)


def _final(axes: Axes, sides: Sequence[tuple[pd.DataFrame, str, str]], of_rate: pd.Series, *, without: str) -> None:
    """A point a pair and a bar at their mean, at each rate of the baseline; or, without any rate, words.

    Args:
        sides: cells with `difference`, their colour and marker; drawn side by side.
        of_rate: rate → the baseline's mean loss.
    """
    rates = list(of_rate.index)
    if not rates:
        _say(axes, without)
    slots = np.linspace(-0.3, 0.3, len(sides) + 2)[1:-1]
    for slot, (cells, colour, marker) in zip(slots, sides, strict=True):
        pairs = cells.dropna(subset=["difference"])
        places = pairs["maskable_lr"].map(rates.index) + slot
        axes.plot(
            places, pairs["difference"], marker, color=colour, markersize=4, alpha=0.55, markeredgewidth=0, zorder=3
        )
        mean = pairs.groupby(places)["difference"].mean()
        axes.hlines(mean, mean.index - 0.07, mean.index + 0.07, color=colour, linewidth=2)
    axes.set_xticks(range(len(rates)), [f"{rate:.2g}\n{loss:.3f}" for rate, loss in of_rate.items()])
    axes.set_xlim(-0.5, max(len(rates), 1) - 0.5)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_GREY)

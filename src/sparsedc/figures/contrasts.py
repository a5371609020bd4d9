"""Sparse less dense loss against density, as measured: a row for each comparison, a column for each budget."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparsedc.contrasts import COMPARISONS, compared, lower, tally
from sparsedc.figures import style
from sparsedc.words import count_label

MOST_COLUMNS = 4
#: share of the narrowest step between densities that the points of one density fill
FILLED = 0.62
#: of the smallest and the largest model's marker, points²
AREAS = (9.0, 42.0)


def plot(runs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """A point is one contrast, filled where it has a verdict; points of a density stand side by side by epochs.

    Args:
        table: as `sparsedc.contrasts.contrasts` makes it.
    """
    known = compared(table)
    comparisons = [name for name in COMPARISONS if (known["comparison"] == name).any()]
    if not comparisons:
        figure, axes = plt.subplots(figsize=(6.0, 3.2))
        style.notice(axes, "No finished sparse cell has a dense one to be compared with.")
        return figure
    budgets = sorted(known["unique_tokens"].unique())
    shown = style.spread_over(budgets, MOST_COLUMNS)
    figure, grid = plt.subplots(
        len(comparisons),
        len(shown),
        figsize=(max(1.5 + 2.7 * len(shown), 6.4), 1.6 + 1.9 * len(comparisons)),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    colours = _epoch_colours(known)
    methods = sorted(known["method"].unique())
    markers = dict(zip(methods, style.METHOD_MARKERS * len(methods), strict=False))
    at = np.log2(np.sort(known["density"].unique()))
    step = FILLED * min([1.0, *np.diff(at)])
    places = dict(zip(colours, np.linspace(-step / 2, step / 2, len(colours) + 2)[1:-1].tolist(), strict=True))
    band, areas = _band(known), style.marker_areas(runs, *AREAS)
    for row, comparison in enumerate(comparisons):
        for column, budget in enumerate(shown):
            axes = grid[row, column]
            chosen = known[(known["comparison"] == comparison) & (known["unique_tokens"] == budget)]
            if band and len(chosen):
                axes.axhspan(-band, band, color="#DDDDDD", alpha=0.7, linewidth=0)
            axes.axhline(0, color="#555555", linewidth=0.9)
            _points(axes, chosen, colours, markers, places, areas)
            heading = [f"U = {count_label(budget)} tokens"] if row == 0 else []
            axes.set_title("\n".join([*heading, _counted(chosen)]), fontsize=8.5)
        grid[row, 0].set_ylabel(COMPARISONS[comparison].replace(" ", "\n", 1).replace(", ", ",\n"), fontsize=8.5)
    for axes in grid.flat:
        style.density_axis(axes, 2.0 ** (at[0] - 0.6))
        axes.set_xlim(2.0 ** (at[0] - 0.6), 2.0 ** (at[-1] + 0.6))
    figure.supxlabel("Density of the sparse model", fontsize=10.5)
    figure.supylabel("Held-out loss, sparse − dense (nats per token)", fontsize=10.5)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=f"{epochs:.3g}")
        for epochs, colour in colours.items()
    ]
    noisy = bool(known["se"].notna().any())
    if noisy:
        handles += [
            Line2D([], [], color="#666666", marker="o", linestyle="", label="verdict"),
            Line2D([], [], color="#666666", marker="o", linestyle="", markerfacecolor="white", label="undecided"),
        ]
    if band:
        handles.append(Patch(color="#DDDDDD", label="noise: 2 SE of a sparse\nless a dense single run"))
    if len(methods) > 1:
        handles += [Line2D([], [], color="#666666", marker=markers[m], linestyle="", label=m) for m in methods]
    figure.legend(handles=handles, loc="outside right upper", title="Epochs")
    title = "Below 0 the sparse model is ahead of its dense equal."
    title += ("\n" if len(shown) < 3 else " ") + "Larger points are larger models."
    if not noisy:
        title += "\nNo configuration was run with several seeds: no verdicts."
    if len(shown) < len(budgets):
        title += f"\nShown: {len(shown)} of {len(budgets)} budgets"
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, wrap=True)
    return figure


def _points(
    axes: Axes,
    chosen: pd.DataFrame,
    colours: dict[float, str],
    markers: dict[str, str],
    places: dict[float, float],
    areas: dict[str, float],
) -> None:
    for (epochs, method), group in chosen.groupby(["epochs", "method"]):
        colour, decided = colours[float(str(epochs))], group["verdict"] != "undecided"
        axes.scatter(
            group["density"] * 2.0 ** places[float(str(epochs))],
            group["difference"],
            s=group["size"].map(areas),
            marker=markers[str(method)],
            facecolors=np.where(decided, colour, "white").tolist(),
            edgecolors=colour,
            linewidths=0.9,
            zorder=3,
        )


def _counted(chosen: pd.DataFrame) -> str:
    """What a panel's verdicts are, in its title."""
    if not len(chosen):
        return "no such cells"
    if chosen["se"].isna().all():
        return f"sparse lower in {lower(chosen)}"
    return ", ".join(f"{word} {n}" for word, n in tally(chosen).items())


def _epoch_colours(known: pd.DataFrame) -> dict[float, str]:
    """Epochs → colour, from light to dark."""
    epochs = sorted(known["epochs"].unique())
    spread = style.shades("viridis_r", 0.12, 0.95)(np.linspace(0, 1, len(epochs)))
    return {value: to_hex(rgba) for value, rgba in zip(epochs, spread, strict=True)}


def _band(known: pd.DataFrame) -> float | None:
    """Two standard errors of the difference between two runs of one seed each, a sparse and a dense one; None without
    noise, or where only interpolations are known."""
    equal = known[(known["matched"] == "equal") & (known["se"] > 0)]
    if not len(equal):
        return None
    one = equal.iloc[0]
    return float(2 * np.sqrt(one["sparse_se"] ** 2 * one["sparse_seeds"] + one["dense_se"] ** 2 * one["dense_seeds"]))

"""Held-out loss against epochs, by density: one panel for each model size and unique-token budget."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsedc.figures import style
from sparsedc.law.fit import Fit
from sparsedc.law.fitting import design_of
from sparsedc.words import count_label, density_label, status_label

MOST_ROWS, MOST_COLUMNS = 5, 4


def plot(runs: pd.DataFrame, fit: Fit, budgets: Sequence[float]) -> Figure:
    """Points are measured (mean over seeds), lines are the chosen law's prediction for the same models.

    Points stand a little left or right of their epochs, by density, so that none hides another.
    """
    table = runs
    colours = style.density_colours(table)
    several = table.groupby("density")["method"].nunique().max() > 1
    methods = sorted(table["method"].unique())
    markers = dict(zip(methods, style.METHOD_MARKERS * len(methods), strict=False)) if several else {}

    # Sizes and budgets of extrapolation cells alone would be nearly empty panels: prediction_vs_truth shows those.
    grid_cells = table[table["role"] == "fit"] if (table["role"] == "fit").any() else table
    sizes = style.sizes(grid_cells)
    chosen = [sizes[int(i)] for i in style.spread_over(list(range(len(sizes))), MOST_ROWS)]
    budgets = sorted(grid_cells["unique_tokens"].unique())
    shown = style.spread_over(budgets, MOST_COLUMNS)

    figure, grid = plt.subplots(
        len(chosen),
        len(shown),
        figsize=(max(1.2 + 2.3 * len(shown), 5.8), 1.3 + 1.95 * len(chosen)),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    epochs = np.geomspace(table["epochs"].min(), table["epochs"].max(), 60)
    shifts = style.dodge(list(colours), table["epochs"].to_numpy())
    for row, size in enumerate(chosen):
        for column, budget in enumerate(shown):
            axes = grid[row, column]
            cells = table[(table["size"] == size) & (table["unique_tokens"] == budget)]
            _panel(axes, cells, fit, epochs, colours, shifts, markers)
            axes.set_title(f"{size}, U = {count_label(budget)} tokens")
            if not len(cells):
                axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color="#777777")
    for axes in grid.flat:  # last: shared axes take the limits of all panels
        style.epoch_axis(axes, axes.xaxis, table["epochs"].to_numpy())
    figure.supxlabel("Epochs over the unique tokens", fontsize=10.5)
    figure.supylabel("Held-out loss (nats per token)", fontsize=10.5)

    handles = [
        Line2D([], [], color=colour, marker="" if markers else "o", label=density_label(density))
        for density, colour in colours.items()
    ]
    handles += [
        Line2D([], [], color="#666666", marker=marker, linestyle="", label=method) for method, marker in markers.items()
    ]
    figure.legend(handles=handles, loc="outside right upper", title="Density")
    omitted = [
        f"{len(part)} of {len(whole)} {what}"
        for part, whole, what in ((chosen, sizes, "sizes"), (shown, budgets, "budgets"))
        if len(part) < len(whole)
    ]
    title = "Points: measured, beside their epochs by density." + ("\n" if len(shown) < 3 else " ")
    title += f"Lines: the law ({fit.form}, {status_label(fit)}),\ndashed beyond measured epochs"
    if fit.draws:
        title += f"; bands: {100 * (fit.level or 0.95):.0f} % of its refits"
    if omitted:
        title += f"\nShown: {' and '.join(omitted)}"
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, wrap=True)  # the legend is on the right
    return figure


def _panel(
    axes: Axes,
    cells: pd.DataFrame,
    fit: Fit,
    epochs: np.ndarray,
    colours: dict[float, str],
    shifts: dict[float, float],
    markers: dict[str, str],
) -> None:
    first, last = cells["epochs"].min(), cells["epochs"].max()
    parts = (
        (np.append(epochs[epochs < first], first), "--"),
        (np.concatenate([[first], epochs[(epochs > first) & (epochs < last)], [last]]), "-"),
        (np.insert(epochs[epochs > last], 0, last), "--"),
    )
    for density, colour in colours.items():
        for method, group in cells[cells["density"] == density].groupby("method"):
            by_epochs = group.groupby("epochs")
            mean = by_epochs["val_loss"].mean()
            # Between seeds where there are several, else over held-out documents.
            between = by_epochs["val_loss"].std()
            within = by_epochs["val_loss_se"].mean() if "val_loss_se" in group else pd.Series(0.0, mean.index)
            error = between.where(by_epochs.size() > 1, within).fillna(0.0)
            marker = markers.get(str(method), "o")
            where = mean.index.to_numpy() * shifts[density]
            axes.errorbar(where, mean, yerr=error, color=colour, fmt=marker, elinewidth=0.9, capsize=2)
            at = design_of(group.iloc[:1], fit.params)
            for some, dashes in parts:
                line = fit.predict(at.N, at.U, at.U * some, at.s)
                axes.plot(some, line, dashes, color=colour, linewidth=1.1, alpha=0.75)
                if fit.draws:
                    low, high = fit.law_interval(at.N, at.U, at.U * some, at.s, fit.level or 0.95).T
                    axes.fill_between(some, low, high, color=colour, alpha=0.13, linewidth=0)

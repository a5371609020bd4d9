"""Held-out loss against epochs, by density: one panel for each model size and unique-token budget."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sparsedc.figures import style
from sparsedc.figures.words import count_label, density_label
from sparsedc.law.fit import Fit, design_of

MOST_ROWS, MOST_COLUMNS = 4, 4


def draw(runs: Path, law: Path, out_stem: Path) -> None:
    """Points are measured (mean over seeds), lines are the chosen law's prediction for the same models."""
    style.apply_style()
    table = style.read_finished(runs)
    fit = style.read_selection(law).best
    colours = style.density_colours(table)
    several = table.groupby("density")["method"].nunique().max() > 1
    methods = sorted(table["method"].unique())
    markers = dict(zip(methods, style.METHOD_MARKERS * len(methods), strict=False)) if several else {}

    # Sizes and budgets of extrapolation cells alone would be nearly empty panels: prediction_vs_truth shows those.
    grid_cells = table[table["role"] == "fit"] if (table["role"] == "fit").any() else table
    sizes: list[str] = grid_cells.sort_values(["params_total", "size"])["size"].unique().tolist()
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
    for row, size in enumerate(chosen):
        for column, budget in enumerate(shown):
            axes = grid[row, column]
            cells = table[(table["size"] == size) & (table["unique_tokens"] == budget)]
            _panel(axes, cells, fit, epochs, colours, markers)
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
    title = f"Points: measured. Lines: the law ({fit.form}, {fit.status})"
    if omitted:
        title += ("\n" if len(shown) < 3 else ". ") + f"Shown: {' and '.join(omitted)}"
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5)  # the legend is on the right
    style.save(figure, out_stem)


def _panel(
    axes: Axes,
    cells: pd.DataFrame,
    fit: Fit,
    epochs: np.ndarray,
    colours: dict[float, str],
    markers: dict[str, str],
) -> None:
    for density, colour in colours.items():
        for method, group in cells[cells["density"] == density].groupby("method"):
            by_epochs = group.groupby("epochs")
            mean = by_epochs["val_loss"].mean()
            # Between seeds where there are several, else over held-out documents.
            between = by_epochs["val_loss"].std()
            within = by_epochs["val_loss_se"].mean()
            error = between.where(by_epochs.size() > 1, within).fillna(0.0)
            marker = markers.get(str(method), "o")
            axes.errorbar(mean.index, mean, yerr=error, color=colour, fmt=marker, elinewidth=0.9, capsize=2)
            at = design_of(group.iloc[:1], fit.params)
            axes.plot(epochs, fit.predict(at.N, at.U, at.U * epochs, at.s), color=colour, linewidth=1.1, alpha=0.75)

"""What topology updates did to the loss, by policy for newborn weights: around the updates, and in the end."""

from typing import Any

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
#: Cells of a seed see the same batches: the noise of these is in both losses of a pair and leaves their difference.
_PAIR = ["method", "density", "maskable_lr", "seed"]


def plot(runs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """A column for each density; from top to bottom the loss around updates, the ratio of update sizes, the final loss.

    Losses are differences from the cell of the same method, density, learning rate and seed that has the baseline's
    policy. The upper two rows show the learning rate that most cells of a density have, a line a policy and a thin one
    a seed.
    """
    found = compared(runs, with_several_policies(runs, table))
    if found is None:
        figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
        style.notice(axes, "No method that grows weights was run\nwith several policies for newborn weights.")
        return figure
    rows = found.rows.merge(runs[["cell", "seed"]], on="cell")
    methods = sorted(rows["method"].unique())
    baseline = baseline_of(rows)
    rows = less_baseline(rows, baseline, "loss", [*_PAIR, "offset"])
    final = less_baseline(rows.drop_duplicates("cell"), baseline, "val_loss", _PAIR)
    static = found.controls[found.controls["method"] == "static"].drop(columns="method")
    static = less_baseline(
        pd.concat([final, static.merge(runs[["cell", "seed"]], on="cell").assign(newborn="static")]),
        baseline,
        "val_loss",
        [column for column in _PAIR if column != "method"],
    ).query("newborn == 'static'")
    lines = {arm: colour for arm, colour in found.colours.items() if arm in set(rows["arm"])}
    zero = [colour for arm, colour in lines.items() if arm.split(", ")[-1] == baseline]
    zero_look: dict[str, Any] = {"color": zero[0] if len(zero) == 1 else _GREY, "linewidth": 1.3, "zorder": 1.5}

    densities = sorted(rows["density"].unique(), reverse=True)
    shown = style.spread_over(densities, MOST_DENSITIES)
    figure, grid = plt.subplots(
        3, len(shown), figsize=(2.6 + 2.7 * len(shown), 8.6), sharey="row", squeeze=False, layout="constrained"
    )
    return figure

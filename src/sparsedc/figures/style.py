"""What all figures share: colours, markers, axes, reading their inputs, saving.

Colours are the palette of Okabe and Ito, made to be told apart with any colour vision.
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # figures are files; a cluster node has no display

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sparsedc.atomic import whole
from sparsedc.errors import InputError
from sparsedc.law.select import LAW, Selection
from sparsedc.runs import read_runs

PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
ROLE_MARKERS = {"fit": "o", "extrapolation": "D"}
METHOD_MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">")

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sparsedc",  # element ids by content, not by chance
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
}


def apply_style() -> None:
    """Set Matplotlib's defaults to those of this project."""
    plt.rcdefaults()
    matplotlib.rcParams.update(_STYLE)


def read_finished(path: Path) -> pd.DataFrame:
    """The finished cells of a runs table.

    Raises:
        InputError: there are none.
    """
    table = read_runs(path)
    runs: pd.DataFrame = table[(table["status"] == "ok") & np.isfinite(table["val_loss"])]
    if not len(runs):
        raise InputError("runs table", path, "holds no finished cell", "Finish some cells before drawing figures.")
    return runs


def read_selection(law: Path) -> Selection:
    """The laws in the directory that `fit_laws` wrote."""
    return Selection.load(law / LAW)


def density_colours(runs: pd.DataFrame) -> dict[float, str]:
    """Density → colour, dense first. Given the whole runs table, every figure of a study has the same colours."""
    densities = sorted(runs["density"].unique(), reverse=True)
    if len(densities) <= len(PALETTE):
        return dict(zip(densities, PALETTE, strict=False))
    spread = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(densities)))
    return {density: matplotlib.colors.to_hex(rgba) for density, rgba in zip(densities, spread, strict=True)}


def epoch_axis(axes: Axes, axis: Axis, epochs: np.ndarray) -> None:
    """A log₂ axis with a tick at each measured number of epochs, thinned where they would collide."""
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log", base=2)
    kept: list[float] = []
    for value in np.unique(epochs):
        if not kept or np.log2(value / kept[-1]) >= 0.6:
            kept.append(float(value))
    axis.set_major_locator(FixedLocator(kept))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def spread_over(values: list[float], most: int) -> list[float]:
    """At most `most` of the sorted values, the first and last among them, evenly spread."""
    if len(values) <= most:
        return values
    return [values[i] for i in np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]


def save(figure: Figure, out_stem: Path) -> None:
    """Write out_stem.svg and out_stem.png, each whole or not at all, and the same bytes for the same figure."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is laid out now; each format would do so again
    for kind in ("svg", "png"):
        metadata: dict[str, str | None] = {"Date": None} if kind == "svg" else {"Software": None}
        with whole(out_stem.with_name(f"{out_stem.name}.{kind}")) as partial:
            figure.savefig(partial, format=kind, metadata=metadata)
    plt.close(figure)

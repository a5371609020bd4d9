"""What all figures share: colours, markers, number formats, reading their inputs, saving.

Colours are the palette of Okabe and Ito, made to be told apart with any colour vision.
"""

from fractions import Fraction
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures are files; a cluster node has no display

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sparsedc.errors import InputError
from sparsedc.law.select import LAW, Selection
from sparsedc.runs import read_runs

PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
ROLE_MARKERS = {"fit": "o", "extrapolation": "D"}
METHOD_MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">")

_STYLE = {
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
    runs = read_runs(path)
    runs = runs[(runs["status"] == "ok") & np.isfinite(runs["val_loss"])]
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


def density_label(density: float) -> str:
    """1 (dense), 1/4, 0.3."""
    if density == 1:
        return "1 (dense)"
    fraction = Fraction(density).limit_denominator(64)
    if fraction.numerator == 1 and abs(float(fraction) - density) < 1e-6:
        return str(fraction)
    return f"{density:.3g}"


def count_label(count: float) -> str:
    """950, 33k, 1.3B: three significant digits and a unit."""
    for unit, symbol in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit * 0.9995:
            return f"{count / unit:.3g}{symbol}"
    return f"{count:.3g}"


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
    out_stem.parent.mkdir(parents=True, exist_ok=True)
    for kind in ("svg", "png"):
        path = out_stem.with_name(f"{out_stem.name}.{kind}")
        partial = path.with_name(path.name + ".partial")
        metadata: dict[str, str | None] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(partial, format=kind, bbox_inches="tight", metadata=metadata)
        partial.replace(path)
    plt.close(figure)

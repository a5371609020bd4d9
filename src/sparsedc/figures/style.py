"""What all figures share: colours, markers, axes, what lies beyond the fitted runs, reading their inputs, saving.

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
from sparsedc.law.fit import Fit
from sparsedc.law.frontier import Allocation
from sparsedc.law.select import LAW, SELECTION, Selection
from sparsedc.law.table import read_table
from sparsedc.words import density_label

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
    table = read_table(path)
    runs: pd.DataFrame = table[table["status"] == "ok"]
    if not len(runs):
        raise InputError("runs table", path, "holds no finished cell", "Finish some cells before drawing figures.")
    return runs


def read_fit(law: Path) -> Fit:
    """The chosen law in the directory that `sparsedc law` wrote."""
    return Fit.load(law / LAW)


def read_fits(law: Path) -> list[Fit]:
    """All fits there, the chosen law first; it alone has draws."""
    return [read_fit(law), *Selection.load(law / SELECTION).fits[1:]]


def density_colours(runs: pd.DataFrame) -> dict[float, str]:
    """Density → colour, dense first. Given the whole runs table, every figure of a study has the same colours."""
    densities = sorted(runs["density"].unique(), reverse=True)
    if len(densities) <= len(PALETTE):
        return dict(zip(densities, PALETTE, strict=False))
    spread = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(densities)))
    return {density: matplotlib.colors.to_hex(rgba) for density, rgba in zip(densities, spread, strict=True)}


def sizes(runs: pd.DataFrame) -> list[str]:
    """The model sizes of a runs table, smallest first."""
    dense_N = (runs["params_active"] / runs["density"]).groupby(runs["size"]).min()
    return [str(size) for size in dense_N.sort_values().index]


def marker_areas(runs: pd.DataFrame, least: float, most: float) -> dict[str, float]:
    """Size → area of its marker in points², smallest model first, in equal steps from one size to the next."""
    ordered = sizes(runs)
    return dict(zip(ordered, np.linspace(least, most, len(ordered)).tolist(), strict=True))


def shades(name: str, low: float, high: float) -> matplotlib.colors.Colormap:
    """The part of a colour map that is dark enough for lines on white."""
    part = plt.get_cmap(name)(np.linspace(low, high, 256))
    return matplotlib.colors.ListedColormap(part, f"{name} {low:g}-{high:g}")


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


def density_axis(axes: Axes, low: float) -> None:
    """A log₂ x axis of densities from `low` to 1, with a tick at each halving."""
    axes.set_xscale("log", base=2)
    halvings = int(np.floor(-np.log2(low) + 1e-9))
    axes.xaxis.set_major_locator(FixedLocator([2.0**-k for k in range(halvings, -1, -1)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "1" if value == 1 else density_label(value)))
    axes.set_xlim(low, 1.04)


def dodge(densities: list[float], epochs: np.ndarray) -> dict[float, float]:
    """Density → factor on epochs that keeps its points clear of the others'; the factors' geometric mean is 1.

    All of them fill at most 60 % of the narrowest gap between measured epochs.
    """
    at = np.log2(np.unique(epochs))
    width = min(0.12 * (at[-1] - at[0]), 0.6 * np.diff(at).min()) if len(at) > 1 else 0.1
    places = np.linspace(-width / 2, width / 2, len(densities)) if len(densities) > 1 else np.zeros(1)
    return dict(zip(densities, (2.0**places).tolist(), strict=True))


def plot_solid_inside(axes: Axes, x: np.ndarray, y: np.ndarray, inside: np.ndarray, **look: Any) -> None:
    """A line that is solid where the fitted runs are and dashed beyond them.

    Args:
        inside: whether each point is within the fitted runs, (n,).
    """
    label = look.pop("label", None)
    beyond = ~inside
    beyond[1:] |= ~inside[:-1]  # a segment belongs to its end that is farther out, and no gap opens between the parts
    beyond[:-1] |= ~inside[1:]
    axes.plot(x, np.where(beyond, y, np.nan), linestyle=(0, (3, 2)), **look)
    axes.plot(x, np.where(inside, y, np.nan), linestyle="-", label=label, **look)


def best_point(axes: Axes, fit: Fit, U: float, best: Allocation, x: float, colour: Any) -> None:
    """A dot at an optimum's loss, with where the law is there according to its bootstrap, if there is one."""
    if fit.draws:
        low, high = fit.law_interval(best.N, U, best.tokens, best.density, fit.level or 0.95)[0]
        axes.plot([x, x], [low, high], color=colour, linewidth=1.0)
    axes.plot(x, best.loss, "o", color=colour, markersize=5, markeredgecolor="white")


def notice(axes: Axes, text: str) -> None:
    """Say in a panel why there is nothing to draw in it."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#555555", wrap=True)


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

"""What the law leaves unexplained: the error of every cell against epochs, beside the noise between seeds."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparsedc.figures import style
from sparsedc.law.fit import Fit
from sparsedc.law.validate import Error, SeedNoise, predictions, seed_noise
from sparsedc.words import count_label, density_label, law_label

MOST_PANELS = 4
#: sizes that the legend names; the others lie between them
MOST_SIZES = 4
#: area of the smallest and the largest model's marker, points²
AREAS = (12.0, 75.0)
_LABELS = {"fit": "fit cell", "extrapolation": "extrapolation cell"}
_NOISE = "#BDBDBD"


def plot(runs: pd.DataFrame, fit: Fit, budgets: Sequence[float]) -> Figure:
    """One panel a budget of unique tokens; lines join the cells of one model, the mean of its seeds.

    Points stand a little left or right of their epochs, by density.
    """
    cells = predictions(fit, runs)
    noise = seed_noise(runs)
    colours = style.density_colours(runs)
    areas = style.marker_areas(runs, *AREAS)
    unique = sorted(cells["unique_tokens"].unique())
    shown = style.spread_over(unique, MOST_PANELS)
    shifts = style.dodge(list(colours), cells["epochs"].to_numpy())

    figure, panels = plt.subplots(
        1,
        len(shown),
        figsize=(2.4 + 3.0 * max(len(shown), 2), 4.3),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, U in zip(panels.flat, shown, strict=True):
        some = cells[cells["unique_tokens"] == U]
        _panel(axes, some, noise, colours, areas, shifts)
        axes.set_title(f"U = {count_label(U)} unique tokens\n{_errors(some)}")
    for axes in panels.flat:  # last: shared axes take the limits of all panels
        style.epoch_axis(axes, axes.xaxis, cells["epochs"].to_numpy())
    panels[0, 0].set_ylabel("Predicted − measured (nats per token)")
    figure.supxlabel("Epochs over the unique tokens", fontsize=10)
    figure.legend(handles=_handles(cells, noise, colours, areas), loc="outside right upper")
    lines = [f"{law_label(fit)}. Points: beside their epochs by density"]
    lines.append(f"All cells: {_errors(cells)}. {_noise_words(noise)}".replace("\n", ", "))
    if len(shown) < len(unique):
        lines.append(f"Shown: {len(shown)} of {len(unique)} budgets")
    figure.suptitle("\n".join(lines), fontsize=9.5, wrap=True)
    return figure


def _panel(
    axes: Axes,
    cells: pd.DataFrame,
    noise: SeedNoise | None,
    colours: dict[float, str],
    areas: dict[str, float],
    shifts: dict[float, float],
) -> None:
    if noise:
        axes.axhspan(-noise.sd, noise.sd, color=_NOISE, alpha=0.45, linewidth=0, zorder=0)
    axes.axhline(0.0, color="#777777", linewidth=0.9, zorder=1)
    for density, colour in colours.items():
        of_density = cells[cells["density"] == density]
        for role, marker in style.ROLE_MARKERS.items():
            some = of_density[of_density["role"] == role]
            tested = role == "extrapolation"
            axes.scatter(
                some["epochs"] * shifts[density],
                some["error"],
                s=some["size"].map(areas).to_numpy(dtype=np.float64),
                marker=marker,
                color=colour,
                alpha=1.0 if tested else 0.45,
                edgecolors="white" if tested else "none",
                linewidths=0.7,
                zorder=4 if tested else 3,
            )
        for _, model in of_density.groupby(["size", "method"]):
            mean = model.groupby("epochs")["error"].mean()
            axes.plot(mean.index.to_numpy() * shifts[density], mean, color=colour, linewidth=0.7, alpha=0.6, zorder=2)


def _errors(cells: pd.DataFrame) -> str:
    """RMSE by role, in nats."""
    found = []
    for role in style.ROLE_MARKERS:
        some = cells[cells["role"] == role]
        error = Error.of(some["predicted"].to_numpy(), some["observed"].to_numpy())
        if error:
            found.append(f"{role} RMSE {error.rmse:.3f} ({error.n})")
    return "\n".join(found)


def _noise_words(noise: SeedNoise | None) -> str:
    if noise is None:
        return "Noise between seeds: not known"
    return f"Noise between seeds: {noise.sd:.3f} ({noise.configurations} configurations)"


def _handles(
    cells: pd.DataFrame, noise: SeedNoise | None, colours: dict[float, str], areas: dict[str, float]
) -> list[Line2D | Patch]:
    def mark(label: str, marker: str = "o", area: float = 36.0, colour: str = "#777777") -> Line2D:
        return Line2D([], [], color=colour, marker=marker, markersize=area**0.5, linestyle="", label=label)

    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, marker="o", label=f"density {density_label(density)}")
        for density, colour in colours.items()
    ]
    named = [list(areas)[int(i)] for i in style.spread_over(list(range(len(areas))), MOST_SIZES)]
    handles += [mark(f"size {size}", area=areas[size]) for size in named]
    handles += [
        mark(_LABELS[role], marker) for role, marker in style.ROLE_MARKERS.items() if (cells["role"] == role).any()
    ]
    if noise:
        handles.append(Patch(color=_NOISE, alpha=0.45, linewidth=0, label="± noise between\nseeds (1 SD)"))
    return handles

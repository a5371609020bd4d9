"""Predicted against measured loss of every finished cell, and the error of each."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from sparsedc.figures import style
from sparsedc.figures.words import density_label
from sparsedc.law.validate import Error, predictions


def draw(runs: Path, law: Path, out_stem: Path) -> None:
    """Left, predicted against measured with the 1:1 line; right, predicted − measured against measured."""
    style.apply_style()
    table = style.read_finished(runs)
    fit = style.read_selection(law).best
    colours = style.density_colours(table)
    cells = predictions(fit, table)

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.0), layout="constrained")
    crowd = len(cells) > 150
    for role, marker in style.ROLE_MARKERS.items():
        for density, colour in colours.items():
            some = cells[(cells["role"] == role) & (cells["density"] == density)]
            look = {
                "color": colour,
                "marker": marker,
                "linestyle": "",
                "markersize": 7.0 if role == "extrapolation" else 3.4 if crowd else 4.8,
                "alpha": 1.0 if role == "extrapolation" else 0.55,
                "markeredgecolor": "#FFFFFF" if role == "extrapolation" else "none",
                "zorder": 3 if role == "extrapolation" else 2,
            }
            left.plot(some["observed"], some["predicted"], **look)
            right.plot(some["observed"], some["error"], **look)

    both = np.concatenate([cells["observed"], cells["predicted"]])
    pad = 0.04 * (both.max() - both.min()) or 0.1
    limits = (both.min() - pad, both.max() + pad)
    left.plot(limits, limits, color="#777777", linewidth=0.9, zorder=1)
    left.set(xlim=limits, ylim=limits)
    right.axhline(0.0, color="#777777", linewidth=0.9, zorder=1)
    widest = 1.15 * float(cells["error"].abs().max()) or 0.01
    right.set(ylim=(-widest, widest), xlim=limits)
    for axes in (left, right):
        axes.set_box_aspect(1)
        axes.set_xlabel("Measured held-out loss (nats per token)")
    left.set_ylabel("Predicted loss (nats per token)")
    right.set_ylabel("Predicted − measured (nats per token)")

    lines = []
    for role in style.ROLE_MARKERS:
        some = cells[cells["role"] == role]
        error = Error.of(some["predicted"].to_numpy(), some["observed"].to_numpy())
        lines.append(f"{role}: RMSE {error.rmse:.3f} ({error.n} cells)" if error else f"{role}: no cells")
    figure.suptitle(f"Law: {fit.form} ({fit.status}).  " + ";  ".join(lines), fontsize=9.5)

    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=f"density {density_label(density)}")
        for density, colour in colours.items()
    ]
    handles += [
        Line2D([], [], color="#444444", markerfacecolor="none", marker=marker, linestyle="", label=f"{role} cells")
        for role, marker in style.ROLE_MARKERS.items()
        if (cells["role"] == role).any()
    ]
    figure.legend(handles=handles, loc="outside right upper")
    style.save(figure, out_stem)

"""Predicted against measured loss of every finished cell, and the error of each."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsedc.figures import style
from sparsedc.law.fit import Fit
from sparsedc.law.validate import Error, predictions
from sparsedc.words import density_label, law_label

_LABELS = {"fit": "fit cells", "extrapolation": "extrapolation cells;\nbars: 95 % of such runs"}


def plot(runs: pd.DataFrame, fit: Fit, budgets: Sequence[float]) -> Figure:
    """Left, predicted against measured with the 1:1 line; right, predicted − measured against measured."""
    colours = style.density_colours(runs)
    cells = predictions(fit, runs)

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
            if role == "extrapolation":
                ends = np.abs(some[["low", "high"]].to_numpy().T - some["predicted"].to_numpy())
                bars = {"fmt": "none", "ecolor": colour, "elinewidth": 0.8, "capsize": 1.5, "alpha": 0.6, "zorder": 2}
                left.errorbar(some["observed"], some["predicted"], yerr=ends, **bars)
                right.errorbar(some["observed"], some["error"], yerr=ends, **bars)

    both = np.concatenate([cells["observed"], cells["predicted"]])
    span = float(np.ptp(both)) or 0.1
    tested = cells[cells["role"] == "extrapolation"]
    # Bars count as far as half the spread of the points: wider ones may leave the panel.
    low = max(min(both.min(), tested["low"].min()), both.min() - span / 2) if len(tested) else both.min()
    high = min(max(both.max(), tested["high"].max()), both.max() + span / 2) if len(tested) else both.max()
    limits = (low - 0.04 * span, high + 0.04 * span)
    left.plot(limits, limits, color="#777777", linewidth=0.9, zorder=1)
    left.set(xlim=limits, ylim=limits)
    right.axhline(0.0, color="#777777", linewidth=0.9, zorder=1)
    errors = float(cells["error"].abs().max())
    ends = tested[["low", "high"]].sub(tested["observed"], axis=0).abs().to_numpy()
    widest = 1.15 * (min(max(errors, ends.max()), 3 * errors) if len(tested) else errors) or 0.01
    right.set(ylim=(-widest, widest), xlim=(both.min() - 0.04 * span, both.max() + 0.04 * span))
    for axes in (left, right):
        axes.set_box_aspect(1)
        axes.set_xlabel("Measured held-out loss (nats per token)")
    left.set_ylabel("Predicted loss (nats per token)")
    right.set_ylabel("Predicted − measured (nats per token)")

    lines = []
    for role in style.ROLE_MARKERS:
        some = cells[cells["role"] == role]
        error = Error.of(some["predicted"].to_numpy(), some["observed"].to_numpy())
        if error:
            r2 = "" if error.r2 is None else f", R² {error.r2:.4f}"
            lines.append(f"{role}: RMSE {error.rmse:.3f}{r2} ({error.n} cell{'s' if error.n > 1 else ''})")
    figure.suptitle("\n".join([law_label(fit), *lines]), fontsize=9.5, wrap=True)

    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=f"density {density_label(density)}")
        for density, colour in colours.items()
    ]
    handles += [
        Line2D([], [], color="#444444", markerfacecolor="none", marker=marker, linestyle="", label=_LABELS[role])
        for role, marker in style.ROLE_MARKERS.items()
        if (cells["role"] == role).any()
    ]
    figure.legend(handles=handles, loc="outside right upper")
    return figure

"""How density enters the law: its factor f(s) on the model-size term, and R_D*(s) and R_N*(s)."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsedc.figures import scope, style
from sparsedc.law.fit import Fit
from sparsedc.law.forms import DataConstrained, Floats, Frantar, Unlimited, get_form
from sparsedc.words import law_label

_PANELS = (
    ("f(s)", "Density factor $f(s)$"),
    ("R_D*(s)", "Repeats worth having, $R_D^*(s)$"),
    ("R_N*(s)", "Excess parameters worth having, $R_N^*(s)$"),
)


def plot(runs: pd.DataFrame, fit: Fit, budgets: Sequence[float]) -> Figure:
    """One panel a function of density, dashed beyond the fitted densities, with a band where there is a bootstrap."""
    measured = scope.densities(runs, 99)
    lowest = (fit.ranges or {}).get("s", (min(measured), 1.0))[0]
    s = np.geomspace(min(lowest, 0.5) / 2, 1.0, 241)
    fitted = s >= lowest * (1 - 1e-6)
    values = functions(fit.form, fit.parameters, s)
    draws = {name: np.array(drawn)[:, None] for name, drawn in (fit.draws or {}).items()}
    spread = functions(fit.form, draws, s) if draws else {}

    figure, panels = plt.subplots(1, 3, figsize=(10.4, 3.7), layout="constrained")
    for axes, (name, title) in zip(panels, _PANELS, strict=True):
        axes.set_title(title)
        if name not in values:
            style.notice(axes, f"The form {fit.form}\nhas no {name}")
            continue
        band = np.quantile(spread[name], _tails(fit), axis=0) if name in spread else None
        if band is not None:
            axes.fill_between(s, *band, color=style.PALETTE[1], alpha=0.18, linewidth=0)
        for rival in fit.rivals:
            other = functions(fit.form, rival["parameters"], s)[name]
            axes.plot(s, other, color="#999999", linewidth=0.9, linestyle=":")
        style.plot_solid_inside(axes, s, values[name], fitted, color=style.PALETTE[1], linewidth=1.8)
        at = functions(fit.form, fit.parameters, np.array(measured))[name]
        axes.plot(measured, at, "o", color=style.PALETTE[1], markersize=4)
        style.density_axis(axes, s[0])
        axes.set_xlabel("Density s")
        _limit(axes, values[name], band)
    figure.suptitle(_title(fit, bool(spread)), fontsize=9.5)
    return figure


def functions(form: str, theta: Mapping[str, Any], s: Floats) -> dict[str, Floats]:
    """f(s), R_D*(s) and R_N*(s), those that the form has; the values of `theta` broadcast against s.

    A form without a density factor has f = 1, and one that does not know repetition has no R*.
    """
    law = get_form(form)
    found: dict[str, Any] = {}
    if isinstance(law, (DataConstrained, Frantar)):
        found["f(s)"] = law.factor(theta, s)
    if isinstance(law, DataConstrained) and not isinstance(law.stars, Unlimited):
        found["R_N*(s)"], found["R_D*(s)"] = law.stars(theta, s)
    rows = np.broadcast_shapes(s.shape, *(np.shape(value) for value in theta.values()))
    return {name: np.broadcast_to(np.asarray(value, dtype=np.float64), rows) for name, value in found.items()}


def _tails(fit: Fit) -> tuple[float, float]:
    level = fit.level or 0.95
    return (1 - level) / 2, (1 + level) / 2


def _limit(axes: Axes, values: Floats, band: Floats | None) -> None:
    """Keep a band that the runs leave wide open from flattening the curve."""
    top, bottom = values.max(), values.min()
    if band is not None:
        low, high = band
        reach = max(2.0 * (top - bottom), top)
        top, bottom = max(top, min(high.max(), top + reach)), min(bottom, max(low.min(), bottom - reach))
    pad = 0.08 * (top - bottom) or 0.1 * top
    axes.set_ylim(max(bottom - pad, 0.0), top + pad)


def _title(fit: Fit, band: bool) -> str:
    parts = [f"{law_label(fit)}. Dots: densities of the study; dashes: beyond the fitted ones"]
    if band and fit.draws:
        count = len(next(iter(fit.draws.values())))
        parts.append(f"Band: {100 * (fit.level or 0.95):.0f} % of {count} bootstrap refits")
    if fit.rivals:
        parts.append("dotted: other optima that fit nearly as well")
    return ". ".join(parts[:1]) + ("\n" + "; ".join(parts[1:]) if len(parts) > 1 else "")

"""How density enters the law: its factor f(s) on the model-size term."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsedc.figures import scope, style
from sparsedc.law.design import Floats
from sparsedc.law.fit import Fit
from sparsedc.law.forms import DataConstrained, Frantar, get_form
from sparsedc.law.repetition import Unlimited
from sparsedc.words import law_label


def plot(runs: pd.DataFrame, fit: Fit, budgets: Sequence[float]) -> Figure:
    """f(s), dashed beyond the fitted densities, with a band where there is a bootstrap."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    if "f(s)" not in functions(fit.form, fit.parameters, np.ones(1)):
        style.notice(axes, f"The form {fit.form}\nhas no f(s)")
        return figure
    measured = scope.densities(runs, 99)
    lowest = (fit.ranges or {}).get("s", (min(measured), 1.0))[0]
    s = np.geomspace(min(lowest, 0.5) / 2, 1.0, 241)
    fitted = s >= lowest * (1 - 1e-6)
    values = functions(fit.form, fit.parameters, s)["f(s)"]
    band = None
    if fit.draws:
        draws = {name: np.array(drawn)[:, None] for name, drawn in fit.draws.items()}
        band = np.quantile(functions(fit.form, draws, s)["f(s)"], _tails(fit), axis=0)
        axes.fill_between(s, *band, color=style.PALETTE[1], alpha=0.18, linewidth=0)
    for rival in fit.rivals:
        other = functions(fit.form, rival["parameters"], s)["f(s)"]
        axes.plot(s, other, color="#999999", linewidth=0.9, linestyle=":")
    style.plot_solid_inside(axes, s, values, fitted, color=style.PALETTE[1], linewidth=1.8)
    at = functions(fit.form, fit.parameters, np.array(measured))["f(s)"]
    axes.plot(measured, at, "o", color=style.PALETTE[1], markersize=4)
    style.density_axis(axes, s[0])
    axes.set_xlabel("Density s")
    axes.set_ylabel("Density factor $f(s)$")
    _limit(axes, values, band)
    figure.suptitle(_title(fit, band is not None), fontsize=9.5, wrap=True)
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
    lines = [law_label(fit), "Dots: densities of the study; dashes: beyond the fitted ones"]
    parts = []
    if band and fit.draws:
        count = len(next(iter(fit.draws.values())))
        parts.append(f"Band: {100 * (fit.level or 0.95):.0f} % of {count} bootstrap refits")
    if fit.rivals:
        parts.append("dotted: other optima that fit nearly as well")
    return "\n".join([*lines, "; ".join(parts)] if parts else lines)

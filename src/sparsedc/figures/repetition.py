"""What a repeat and an excess parameter are worth against density: R_D*(s) and R_N*(s) of every form that has them.

R repeats are worth R* (1 − e^(−R/R*)) fresh passes. Where R* is far above every R that was run, no run tells it from
infinity: values beyond `REACH` are drawn as an arrow at the edge, and said to be open.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sparsedc.figures import scope, style
from sparsedc.figures.density_factor import functions
from sparsedc.law.design import Floats
from sparsedc.law.fit import Fit
from sparsedc.law.fitting import design_of
from sparsedc.law.forms import DataConstrained, get_form
from sparsedc.law.problem import WEAK
from sparsedc.law.published import published_fit
from sparsedc.law.repetition import Unlimited
from sparsedc.words import count_label, density_label, law_label, status_label

PANELS = {
    "R_D*(s)": "Repeats worth having, $R_D^*(s)$",
    "R_N*(s)": "Excess parameters worth having, $R_N^*(s)$",
}
#: an R* outside is open on that side: worth nothing, or as much as anybody could run
REACH = (0.05, 200.0)
#: an R* whose interval spans more than this factor is weakly determined, as a parameter is
WIDE = math.exp(4 * WEAK)
CHOSEN = style.PALETTE[1]
#: colour and marker of the other forms, in their order
OTHERS = tuple((colour, marker) for marker in "sDP" for colour in style.PALETTE[2:])
DASHES = (0, (4, 2))


@dataclass(frozen=True)
class Star:
    """R_D* or R_N* of one fit at n densities."""

    value: Floats  # (n,)
    low: Floats | None  # ends of its bootstrap interval, (n,), each; None without a bootstrap
    high: Floats | None
    sure: npt.NDArray[np.bool_]  # whether the runs determine it, (n,)


def plot(runs: pd.DataFrame, fits: Sequence[Fit], budgets: Sequence[float]) -> Figure:
    """One panel for R_D*, one for R_N*; the first of `fits` is the chosen law, with its interval where it has one."""
    chosen, *others = fits
    others = [fit for fit in others if limits_repetition(fit)]
    if not others and not limits_repetition(chosen):
        figure, axes = plt.subplots(figsize=(6.4, 2.4), layout="constrained")
        forms = ", ".join(fit.form for fit in fits)
        style.notice(
            axes, f"No form that was fitted has an R*: {forms}.\nThey do not say how many repeats are worth having."
        )
        return figure
    measured = np.array(sorted(scope.densities(runs, 99)))
    everywhere = np.geomspace(min(measured[0], 0.5), 1.0, 241)
    s = everywhere[everywhere >= measured[0]]
    looks = dict(zip([fit.form for fit in others], cycle(OTHERS), strict=False))

    figure, panels = plt.subplots(1, 2, figsize=(9.4, 4.9), layout="constrained")
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        if chosen.status != "published":
            reference = published_fit()
            curve = functions(reference.form, reference.parameters, everywhere)[name]
            axes.plot(everywhere, curve, "-.", color="#777777", linewidth=1.0)
        for place, fit in enumerate(others, 1):
            star, at = star_of(fit, name, s), star_of(fit, name, measured)
            _thin(axes, star, at, s, measured, *looks[fit.form])
            _arrows(axes, measured, at, looks[fit.form][0], place)
        most = most_run(runs, chosen, name, measured)
        axes.plot(measured, most, "_", color="black", markersize=11, markeredgewidth=1.4)
        said = []
        if limits_repetition(chosen):
            star, at = star_of(chosen, name, s), star_of(chosen, name, measured)
            _thick(axes, star, at, s, measured)
            _arrows(axes, measured, at, CHOSEN, 0)
            said = _words(measured, at) + ([_excess(most)] if name == "R_N*(s)" else [])
        _axes(axes, everywhere[0])
        axes.set_title(title)
        axes.text(0.03, 0.03, "\n".join(said), transform=axes.transAxes, fontsize=8, linespacing=1.3)
    handles = _handles(chosen, others, looks)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(_title(fits), fontsize=9.5, wrap=True)
    return figure


def limits_repetition(fit: Fit) -> bool:
    """Whether the form has R*, which chinchilla's and such with a penalty in its place have not."""
    form = get_form(fit.form)
    return isinstance(form, DataConstrained) and not isinstance(form.stars, Unlimited)


def star_of(fit: Fit, name: str, s: Floats) -> Star:
    """R_D*(s) or R_N*(s) of a fit, its interval, and whether the runs determine it.

    With a bootstrap its interval says so, at each density; without one the status of the fit does. The interval spans
    rival optima, as those of parameters do.
    """
    value = functions(fit.form, fit.parameters, s)[name]
    if fit.draws is None:
        return Star(value, None, None, ~_open(value) & (fit.status in ("ok", "published")))
    draws = {key: np.array(drawn)[:, None] for key, drawn in fit.draws.items()}
    tail = (1 - (fit.level or 0.95)) / 2
    low, high = np.quantile(functions(fit.form, draws, s)[name], (tail, 1 - tail), axis=0)
    rivals = [functions(fit.form, rival["parameters"], s)[name] for rival in fit.rivals]
    low, high = np.minimum.reduce([low, value, *rivals]), np.maximum.reduce([high, value, *rivals])
    settled = fit.status not in ("at bound", "not identifiable")  # else the refits, too, are at the edge of the search
    return Star(value, low, high, ~_weak(low, high) & ~_open(low) & ~_open(high) & settled)


def most_run(runs: pd.DataFrame, fit: Fit, name: str, s: Floats) -> Floats:
    """The most repeats of fit cells of each density, or how far their size exceeded the law's N_opt, (n,); 0 if none.

    An R* far above is read off its beginning alone. NaN where nobody knows.
    """
    fitted = runs[runs["role"] == "fit"]
    form = get_form(fit.form)
    if not len(fitted) or (name == "R_N*(s)" and not limits_repetition(fit)):
        return np.full(s.shape, np.nan)
    design = design_of(fitted, fit.params)
    excess = design.R_D
    if name == "R_N*(s)" and isinstance(form, DataConstrained):
        excess = np.expm1(np.maximum(design.log_N - form.log_N_opt(fit.parameters, design.log_U, design.s), 0.0))
    return np.array([excess[design.s == density].max(initial=0.0) for density in s])


def _open(values: Floats) -> npt.NDArray[np.bool_]:
    return (values <= REACH[0]) | (values >= REACH[1])


def _weak(low: Floats, high: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(high > WIDE * low)


def _thick(axes: Axes, star: Star, at: Star, s: Floats, measured: Floats) -> None:
    """The chosen law along s, and at the study's densities: hollow where it is not determined."""
    if star.low is not None and star.high is not None:
        axes.fill_between(s, star.low, star.high, color=CHOSEN, alpha=0.16, linewidth=0)
    if at.low is not None and at.high is not None:
        axes.vlines(measured, at.low, at.high, color=CHOSEN, linewidth=1.0, alpha=0.6)
    beyond = ~star.sure
    beyond[1:] |= ~star.sure[:-1]
    axes.plot(s, star.value, color=CHOSEN, linewidth=1.3, linestyle=DASHES, zorder=3)
    axes.plot(s, np.where(beyond, np.nan, star.value), color=CHOSEN, linewidth=2.2, zorder=3)
    for sure, fill in ((True, CHOSEN), (False, "white")):
        some = at.sure == sure
        axes.plot(measured[some], at.value[some], "o", color=CHOSEN, markerfacecolor=fill, zorder=4)


def _thin(axes: Axes, star: Star, at: Star, s: Floats, measured: Floats, colour: str, marker: str) -> None:
    """Another form, the same way."""
    sure = bool(star.sure.all())
    fill = colour if sure else "white"
    axes.plot(s, star.value, color=colour, linewidth=1.0, linestyle="-" if sure else DASHES)
    axes.plot(measured, at.value, marker, color=colour, markerfacecolor=fill, markersize=3.5, zorder=2)


def _arrows(axes: Axes, s: Floats, star: Star, colour: str, place: int) -> None:
    """At the edge that an interval, or without one a value, reaches beyond; the first place is at the edge itself."""
    low, high = (star.value if end is None else end for end in (star.low, star.high))
    inwards = 0.025 + 0.045 * place
    look: dict[str, Any] = {"color": colour, "markersize": 5.0 if place else 8.0, "zorder": 5}
    for beyond, marker, edge in ((low <= REACH[0], "v", inwards), (high >= REACH[1], "^", 1 - inwards)):
        for density in s[beyond]:
            axes.plot(density, edge, marker=marker, transform=axes.get_xaxis_transform(), **look)


def _axes(axes: Axes, lowest: float) -> None:
    """Logarithmic, as far as there is something between the ends of `REACH`, and room for words below."""
    drawn = [line.get_ydata() for line in axes.lines if line.get_transform() == axes.transData]
    drawn += [np.asarray(path.vertices)[:, 1] for band in axes.collections for path in band.get_paths()]
    values = np.concatenate(drawn).astype(np.float64)
    values = values[(values > REACH[0]) & (values < REACH[1])]
    low, high = (values.min(), values.max()) if len(values) else REACH
    axes.set_yscale("log")
    axes.set_ylim(low / 4, high * 1.6)
    axes.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    style.density_axis(axes, lowest / 1.04)
    axes.set_xlabel("Density s")


def _words(s: Floats, star: Star) -> list[str]:
    """The chosen law's value at the highest and the lowest density, in numbers."""
    return [f"s = {density_label(s[i])}: {_one(star, i)}" for i in dict.fromkeys((len(s) - 1, 0))]


def _one(star: Star, i: int) -> str:
    """In numbers and words: what stands at the ends of the search is no number."""
    value = count_label(star.value[i])
    if star.low is None or star.high is None:
        return value if star.sure[i] else "open" if _open(star.value)[i] else f"{value}, not determined"
    low, high = star.low[i], star.high[i]
    below, above = low <= REACH[0], high >= REACH[1]
    if below and above:
        return "open on both sides"
    if above:
        return f"at least {count_label(min(low, REACH[1]))}, open above"
    if below:
        return f"at most {count_label(max(high, REACH[0]))}, open below"
    return f"{value} ({count_label(low)} to {count_label(high)})" + (", weakly determined" if _weak(low, high) else "")


def _excess(most: Floats) -> str:
    """What the excess of the runs was by the chosen law, where no mark can say it."""
    if np.nanmax(most, initial=0.0) >= REACH[1]:
        return f"(runs were up to {count_label(np.nanmax(most))} times the law's N_opt)"
    return "(no run was larger than the law's N_opt)" if (most == 0).all() else ""


def _title(fits: Sequence[Fit]) -> str:
    chosen = fits[0]
    lines = [f"{law_label(chosen)}, chosen of {len(fits)} forms" if len(fits) > 1 else law_label(chosen)]
    if chosen.draws and limits_repetition(chosen):
        lines[0] += f"; band: {100 * (chosen.level or 0.95):.0f} % of its refits"
    if chosen.status != "published":
        lines.append("Dashed and hollow: weakly determined, or of a law at a bound. Arrow: open on that side")
    if len(fits) > 1:
        lines.append("The other forms are drawn without their intervals")
    lacking = [fit.form for fit in fits if not limits_repetition(fit)]
    if lacking:
        lines.append(f"Without R*: {', '.join(lacking)}")
    return "\n".join(lines)


def _handles(chosen: Fit, others: Sequence[Fit], looks: dict[str, tuple[str, str]]) -> list[Line2D]:
    handles: list[Line2D] = []
    look: dict[str, Any]
    if limits_repetition(chosen):
        label = f"{chosen.form}, {'as published' if chosen.status == 'published' else 'the chosen law'}"
        handles.append(Line2D([], [], color=CHOSEN, linewidth=2.2, marker="o", label=label))
    for fit in others:
        colour, marker = looks[fit.form]
        look = {"color": colour, "linestyle": "-" if fit.status == "ok" else DASHES, "linewidth": 1.0}
        label = f"{fit.form} ({status_label(fit)})"
        handles.append(Line2D([], [], marker=marker, markersize=3.5, label=label, **look))
    if chosen.status != "published":
        label = "published law, whose N is counted otherwise"
        handles.append(Line2D([], [], color="#777777", linestyle="-.", linewidth=1.0, label=label))
        look = {"color": "black", "linestyle": "", "marker": "_", "markersize": 11, "markeredgewidth": 1.4}
        handles.append(Line2D([], [], label="the most that was run (of excess, by the chosen law)", **look))
    return handles

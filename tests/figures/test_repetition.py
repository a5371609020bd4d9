"""What a repeat and an excess parameter are worth: the numbers drawn are the fits', and what is not known looks so."""

from dataclasses import replace

import numpy as np
import pytest

from sparsedc.figures import repetition, style
from sparsedc.figures.repetition import CHOSEN, REACH, most_run, star_of
from sparsedc.law.bootstrap import bootstrap
from sparsedc.law.design import Design
from sparsedc.law.fitting import fit_law
from sparsedc.law.forms import get_form
from sparsedc.law.published import published_fit
from sparsedc.law.select import published_study, select_law

from .studies import LAWS, known_fit
from .test_figures import plotted, words

S = np.array([0.25, 0.5, 1.0])


@pytest.fixture(scope="module")
def refitted(simulate):
    runs = simulate("power")
    return runs, bootstrap(runs, fit_law(runs, "power", params="body"), n=40, workers=1)


def lines(axes, colour):
    return [line for line in axes.lines if line.get_color() == colour]


def markers(axes, kinds):
    return [line for line in axes.lines if line.get_marker() in kinds]


def test_values_and_intervals_are_those_of_the_fit(refitted):
    _, fit = refitted
    assert fit.status == "ok"
    for name, parameter in (("R_D*(s)", "R_D_star"), ("R_N*(s)", "R_N_star")):
        star = star_of(fit, name, S)
        low, high = fit.intervals[parameter]
        assert np.allclose(star.value, fit.parameters[parameter])
        assert np.allclose(star.low, min(low, fit.parameters[parameter]), rtol=1e-6)
        assert np.allclose(star.high, max(high, fit.parameters[parameter]), rtol=1e-6)


def test_the_figure_draws_and_says_these_numbers(refitted):
    runs, fit = refitted
    figure = plotted("repetition", runs, [fit])
    for axes, parameter in zip(figure.axes, ("R_D_star", "R_N_star"), strict=True):
        low, high = fit.intervals[parameter]
        (thick,) = [line for line in lines(axes, CHOSEN) if line.get_linewidth() == 2.2]
        assert np.allclose(thick.get_ydata(), fit.parameters[parameter])
        drawn = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (drawn.min(), drawn.max()) == pytest.approx((low, high), rel=1e-6)
        said = "\n".join(text.get_text() for text in axes.texts)
        for value in (fit.parameters[parameter], low, high):
            assert repetition.count_label(value) in said
    style.plt.close(figure)


def test_curves_of_the_published_law():
    fit = published_fit()
    star = star_of(fit, "R_D*(s)", S)
    assert [round(float(value), 2) for value in star.value] == [7.04, 6.91, 4.40]
    assert star.low is None
    assert star.sure.all()
    _, runs = published_study()
    said = words(plotted("repetition", runs, [fit]))
    assert "4.4" in said
    assert "published law, whose N" not in said  # it is the one that is shown


def test_a_repeat_that_no_run_bounds_is_open_and_has_no_line(simulate):
    """Its refits end at the bound of the search, as they do where R_D* is too large to tell from infinity."""
    runs = simulate("power")
    fit = known_fit("power", runs, draws=20)
    ends = np.geomspace(1.0, 1e6, 20)
    fit = replace(fit, draws=fit.draws | {"R_D_star": tuple(ends)})
    figure = plotted("repetition", runs, [fit])
    left, right = figure.axes
    assert len(markers(left, "^")) == 3  # one a density
    assert not markers(right, "^v")
    said = "\n".join(text.get_text() for text in left.texts)
    assert f"at least {np.quantile(ends, 0.025):.3g}, open above" in said
    (thick,) = [line for line in lines(left, CHOSEN) if line.get_linewidth() == 2.2]
    assert np.isnan(thick.get_ydata()).all()
    assert left.get_ylim()[1] < REACH[1]
    style.plt.close(figure)


@pytest.mark.parametrize(
    ("draws", "status", "sure"),
    [
        ((3.0, 5.0), "ok", True),
        ((3.0, 5.0), "weakly determined", True),  # in other parameters
        ((3.0, 5.0), "at bound", False),
        ((2.0, 9.0), "ok", False),
        ((0.01, 5.0), "ok", False),
        (None, "ok", True),
        (None, "weakly determined", False),
        (None, "at bound", False),
        (None, "not identifiable", False),
    ],
)
def test_lines_are_solid_only_where_the_runs_determine_them(draws, status, sure, simulate):
    fit = replace(known_fit("power", simulate("power")), status=status, at_bound=("E",))
    if draws:
        values = {name: (value, value) for name, value in LAWS["power"].items()} | {"R_D_star": draws}
        fit = replace(fit, draws=values, level=1.0)
    assert (star_of(fit, "R_D*(s)", S).sure == sure).all()


def test_an_interval_spans_rival_optima(simulate):
    fit = known_fit("power", simulate("power"), draws=20)
    fit = replace(fit, rivals=({"objective": 0.1, "parameters": LAWS["power"] | {"R_D_star": 95.0}},))
    star = star_of(fit, "R_D*(s)", S)
    assert np.allclose(star.high, 95.0)
    assert not star.sure.any()


def test_what_was_run_by_density(simulate):
    runs = simulate("power")
    runs = runs[(runs["density"] == 1) | (runs["epochs"] <= 2)]
    fit = known_fit("power", runs)
    assert np.allclose(most_run(runs, fit, "R_D*(s)", S), [1, 1, 7], atol=0.01)
    excess = most_run(runs, fit, "R_N*(s)", S)
    for s, value in zip(S, excess, strict=True):
        design = Design.of(400_000 * s, 32_768, 32_768, s)  # the largest model on the fewest tokens
        best = np.exp(get_form("power").log_N_opt(LAWS["power"], design.log_U, design.s))[0]
        assert value == pytest.approx(400_000 * s / best - 1)
    assert np.isnan(most_run(runs.assign(role="extrapolation"), fit, "R_D*(s)", S)).all()
    assert np.isnan(most_run(runs, known_fit("chinchilla", runs), "R_N*(s)", S)).all()


def test_every_fitted_form_that_has_them_is_drawn(simulate):
    runs = simulate("power")
    fits = [known_fit(form, runs) for form in ("power", "muennighoff", "chinchilla", "overfit")]
    fits[1] = replace(
        fits[1], status="at bound", at_bound=("R_N_star",), parameters=LAWS["muennighoff"] | {"R_N_star": 1e6}
    )
    figure = plotted("repetition", runs, fits)
    assert [len(markers(axes, "^")) for axes in figure.axes] == [0, 3]
    said = words(figure)
    assert "Without R*: chinchilla, overfit" in said
    assert "muennighoff (at bound: R_N_star)" in said
    assert "The other forms are drawn without their intervals" in said
    assert "published law, whose N is counted otherwise" in said


def test_names_of_many_forms_are_not_cut_off_and_each_looks_different(simulate):
    runs = simulate("power")
    bound = {"status": "at bound", "at_bound": ("E", "R_N_star", "kappa", "lambda")}
    coupled = ("power:untied,coupled", "power:untied,coupled,overfit", "muennighoff:coupled")
    forms = ("power", *coupled, "power:untied", "muennighoff", "muennighoff:untied", "sparse", "sparse:untied,step")
    first, *others = (
        fit_law(runs, form, params="body", starts=2) if form not in LAWS else known_fit(form, runs) for form in forms
    )
    figure = plotted("repetition", runs, [first, *(replace(fit, **bound) for fit in others)])
    figure.canvas.draw()
    page, (legend,) = figure.get_window_extent(), figure.legends
    assert page.x0 <= legend.get_window_extent().x0
    assert legend.get_window_extent().x1 <= page.x1
    marked = [line for line in legend.get_lines() if "at bound" in line.get_label()]
    assert len({(line.get_color(), line.get_marker()) for line in marked}) == len(forms) - 1


def test_a_chosen_law_without_them_leaves_the_others(simulate):
    runs = simulate("overfit")
    said = words(plotted("repetition", runs, [known_fit("overfit", runs), known_fit("power", runs)]))
    assert "power (ok)" in said
    assert "the chosen law" not in said.replace("excess, by the chosen law", "")
    assert "has an R*: overfit" in words(plotted("repetition", runs, [known_fit("overfit", runs)]))


def test_a_dense_study_is_drawn(simulate):
    runs = simulate("muennighoff", densities=[1.0])
    selection = select_law(runs, ["muennighoff", "chinchilla"], params="body", starts=4)
    assert "s = 1 (dense)" in words(plotted("repetition", runs, selection.fits))

"""What the figure of contrasts shows: points where the differences are, filled where they have a verdict."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from measured import alike, noisy, run, table
from sparsedc.contrasts import COMPARISONS, contrasts
from sparsedc.figures import contrasts as figure_of
from sparsedc.figures import style
from sparsedc.law.validate import SeedNoise
from sparsedc.noise import Noise

GRID = [(size, density, epochs) for size in "abc" for density in (1.0, 0.5, 0.25) for epochs in (1.0, 4.0)]


def drawn(runs, noise=None):
    found = contrasts(runs, noise)
    style.apply_style()
    figure = figure_of.plot(runs, found)
    figure.draw_without_rendering()
    style.plt.close(figure)
    return found, figure


def words(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.fixture
def runs():
    losses = {1.0: 4.0, 0.5: 3.99, 0.25: 4.2}
    return table(
        *(run(losses[density] - 0.1 * epochs, size, density, epochs) for size, density, epochs in GRID), *noisy(9)
    )


def test_points_stand_where_the_differences_are(runs):
    found, figure = drawn(runs)
    (axes,) = (axes for axes in figure.axes if "sparse 0, dense 6, undecided 6" in axes.get_title())
    points = np.concatenate([np.asarray(some.get_offsets()) for some in axes.collections])
    total = found[(found["comparison"] == "equal_total") & found["difference"].notna()]
    assert sorted(points[:, 1]) == pytest.approx(sorted(total["difference"]))
    at = 2.0 ** np.round(np.log2(points[:, 0]))  # nearer to their own density than to the next
    assert sorted(at) == sorted(total["density"])


def test_filled_points_are_verdicts(runs):
    found, figure = drawn(runs)
    faces = [to_hex(face) for axes in figure.axes for some in axes.collections for face in some.get_facecolors()]
    shown = found[found["difference"].notna()]
    assert faces.count("#ffffff") == (shown["verdict"] == "undecided").sum() > 0
    assert len(faces) == len(shown)
    assert all(said in words(figure) for said in ("verdict", "undecided", "larger models"))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_band_is_two_standard_errors_of_two_single_runs(seeds, runs):
    more = [runs.assign(seed=seed, cell=runs["cell"] + f"-{seed}") for seed in range(seeds)]
    noise = Noise(SeedNoise(0.02, 9, 9), SeedNoise(0.01, 9, 9))
    _, figure = drawn(pd.concat(more, ignore_index=True), noise)
    (band,) = figure.axes[0].patches
    assert (band.get_y(), band.get_height()) == pytest.approx((-0.02 * 5**0.5, 0.04 * 5**0.5))


def test_without_seeds_there_is_no_band_and_no_verdict(runs):
    _, figure = drawn(runs[runs["unique_tokens"] == 1_000_000])
    assert not any(axes.patches for axes in figure.axes)
    assert "No configuration was run with several seeds: no verdicts." in words(figure)
    assert "noise:" not in words(figure)
    assert "sparse lower in 6 of 12" in figure.axes[0].get_title()


def test_comparisons_and_budgets_without_contrasts_have_no_panel(runs):
    _, figure = drawn(runs[(runs["size"] == "a") & (runs["epochs"] == 1)])
    assert [axes.get_ylabel() for axes in figure.axes] == ["equal\ntotal parameters", "equal\nFLOPs,\nzeros multiplied"]
    many = [run(4.0, density=density, U=U) for U in range(1, 7) for density in (1.0, 0.5)]
    _, figure = drawn(table(*many))
    assert len(figure.axes) == 2 * figure_of.MOST_COLUMNS
    assert "Shown: 4 of 6 budgets" in words(figure)


def test_several_methods_have_markers_of_their_own(runs):
    static = runs[runs["density"] == 0.5].assign(method="static", cell=lambda t: t["cell"] + "-static")
    _, figure = drawn(pd.concat([runs, static], ignore_index=True), alike(0.01, 5))
    assert {"set", "static"} <= set(words(figure).splitlines())


def test_nothing_to_compare_is_said(runs):
    for density in (1.0, 0.5):
        _, figure = drawn(runs[runs["density"] == density])
        assert "No finished sparse cell has a dense one" in words(figure)


def test_every_comparison_has_its_row(runs):
    _, figure = drawn(runs)
    assert len(figure.axes) == len(COMPARISONS)

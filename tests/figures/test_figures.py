import shutil
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from sparsedc.errors import InputError
from sparsedc.figures import FIGURES, get_figure, style
from sparsedc.figures.summary import summary_table
from sparsedc.figures.words import count_label, density_label
from sparsedc.law.published import WHEN_DATA_IS_SCARCE
from sparsedc.law.select import fit_laws
from sparsedc.law.simulate import simulate_runs
from sparsedc.runs import read_runs, write_runs

LAW = WHEN_DATA_IS_SCARCE | {"E": 3.2, "A": 9.0, "B": 60.0, "gamma2": 3.0}
TINY = {
    "body": [50_000, 130_000, 400_000],
    "densities": [1.0, 0.5, 0.25],
    "unique_tokens": [32_768, 262_144],
    "epochs": [1, 2, 4, 8],
    "embedding": 131_072,
}


def write_table(folder, keep=slice(None), **changes):
    runs = simulate_runs("sparse", LAW, noise=0.005, **(TINY | changes))
    write_runs(runs[keep], folder / "runs.csv")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_table(folder, extrapolation_body=[900_000])
    fit_laws(folder / "runs.csv", folder / "law", ["muennighoff"], "body", 1e-3)
    return folder


def draw(figure, study, stem="figure"):
    get_figure(figure)(study / "runs.csv", study / "law", study / "figures" / stem)
    return study / "figures" / f"{stem}.svg", study / "figures" / f"{stem}.png"


def assert_drawn(svg, png):
    root = ElementTree.parse(svg).getroot()
    assert root.tag.endswith("svg")
    assert len(list(root.iter())) > 100
    pixels = matplotlib.image.imread(png)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels[:, :, 0])) > 10
    assert not list(svg.parent.glob("*.partial"))


@pytest.mark.parametrize("figure", FIGURES)
def test_figure_of_a_tiny_study(figure, tiny):
    svg, png = draw(figure, tiny, figure)
    assert_drawn(svg, png)
    again, _ = draw(figure, tiny, f"{figure}-again")
    assert svg.read_bytes() == again.read_bytes()
    assert b"<dc:date>" not in svg.read_bytes()


UNUSUAL = {
    "one size, dense only": ({"body": [50_000], "densities": [1.0]}, FIGURES),
    "sparse only, one budget, one epoch": ({"densities": [0.25], "unique_tokens": [32_768], "epochs": [1]}, FIGURES),
    "one cell": ({"keep": slice(0, 1)}, FIGURES),
    "many densities, two seeds": (
        {"densities": list(np.linspace(0.1, 1, 10)), "seeds": 2, "body": [50_000], "unique_tokens": [32_768]},
        FIGURES,
    ),
    "more sizes and budgets than panels": (
        {
            "body": [10_000 * 2**i for i in range(7)],
            "unique_tokens": [32_768 * 2**i for i in range(6)],
            "epochs": [1, 8],
            "densities": [1.0],
        },
        ["loss_by_epochs"],
    ),
}


@pytest.mark.parametrize(("changes", "figures"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_studies_are_drawn(changes, figures, tiny, tmp_path):
    write_table(tmp_path, **changes)
    shutil.copytree(tiny / "law", tmp_path / "law")
    for figure in figures:
        assert_drawn(*draw(figure, tmp_path, figure))


@pytest.mark.parametrize("figure", FIGURES)
def test_study_without_a_finished_cell(figure, tiny, tmp_path):
    shutil.copytree(tiny / "law", tmp_path / "law")
    write_runs(read_runs(tiny / "runs.csv").assign(status="diverged"), tmp_path / "runs.csv")
    with pytest.raises(InputError, match="no finished cell"):
        draw(figure, tmp_path)


def test_several_methods_at_one_density_get_markers_of_their_own(tiny, tmp_path):
    runs = read_runs(tiny / "runs.csv")
    static = runs[runs["density"] == 0.5].assign(method="static", cell=lambda t: t["cell"] + "-static")
    both = pd.concat([runs, static], ignore_index=True)
    write_runs(both, tmp_path / "runs.csv")
    shutil.copytree(tiny / "law", tmp_path / "law")
    assert_drawn(*draw("loss_by_epochs", tmp_path))


def test_unknown_figure_and_missing_law(tiny, tmp_path):
    with pytest.raises(InputError, match="isoloss"):
        get_figure("pie")
    shutil.copy(tiny / "runs.csv", tmp_path / "runs.csv")
    with pytest.raises(InputError, match="no such file"):
        draw("isoloss", tmp_path)


def test_summary_says_what_was_run_and_how_good_the_law_is(tiny):
    html = summary_table(read_runs(tiny / "runs.csv"), tiny / "law")
    table = ElementTree.fromstring(html)
    rows = {row.find("th").text: row.find("td").text for row in table.iter("tr")}
    assert rows["Cells"] == "75: 72 to fit, 3 held out to test the law"
    assert rows["Densities"] == "1 (dense), 1/2, 1/4"
    assert rows["Model sizes"] == "0.05M, 0.13M, 0.4M, 0.9M"
    assert "muennighoff" in rows["Form of the law that fits best"]
    assert "RMSE over 3 cells" in rows["Typical error on cells it never saw"]
    assert "nearest run" in rows["Typical error on cells it never saw"]


def test_labels():
    labels = [density_label(s) for s in (1.0, 0.5, 0.0625, 0.3, 1 / 3)]
    assert labels == ["1 (dense)", "1/2", "1/16", "0.3", "1/3"]
    assert [count_label(n) for n in (950, 999_900, 32_768, 1.3e9, 2e12)] == ["950", "1M", "32.8k", "1.3B", "2T"]


def test_spread_keeps_both_ends():
    assert style.spread_over([1, 2, 3, 4, 5, 6, 7], 3) == [1, 4, 7]
    assert style.spread_over([1, 2], 4) == [1, 2]

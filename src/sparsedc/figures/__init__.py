"""Figures: one module each, drawn from a runs table and a fitted law, or from another table of the study.

A figure's module has `plot(runs, fit, budgets)`, which returns a Matplotlib figure; that of a `COMPARING` one takes all
fits for one, and that of an `OBSERVED` one is `plot(runs, table)`. Adding one is adding its module here, its caption in
workflow/report/, and its name and title to `FIGURES`.
"""

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sparsedc.errors import InputError, one_of

if TYPE_CHECKING:
    from sparsedc.spec import Spec

#: Names of the figures, which are those of their modules → their titles in the report.
FIGURES = {
    "loss_by_epochs": "Loss by epochs: what was measured",
    "contrasts": "Contrasts: who was ahead, sparse or dense",
    "prediction_vs_truth": "Prediction vs truth: how far to trust the law",
    "residuals": "Residuals: what the law leaves unexplained",
    "isoloss": "IsoLoss: measured and predicted loss by size and epochs",
    "isoflop": "IsoFLOP: how to spend a compute budget",
    "optimal_density": "Optimal density: how sparse, and what it saves",
    "density_factor": "Density factor: how sparsity enters the law",
    "repetition": "Repetition: what a repeat and an excess parameter are worth",
    "topology": "Topology: what the updates explored and replaced",
    "stability": "Stability: what the updates did to the loss",
}
#: Those that show cells to which the law was fitted, and which a study of published constants therefore lacks.
MEASURED = frozenset({"loss_by_epochs"})
#: Those of topology updates and of contrasts: each is drawn from the table of its name beside the runs table, and needs
#: no law.
OBSERVED = frozenset({"contrasts", "topology", "stability"})
#: Those that show all forms that were fitted, the chosen one first.
COMPARING = frozenset({"repetition"})


class Draw(Protocol):
    """Draws one figure; see `get_figure`."""

    def __call__(self, runs: Path, law: Path | None, out_stem: Path, unique_tokens: Sequence[float] = ()) -> None: ...


def drawn(cells: Iterable["Spec"]) -> list[str]:
    """The figures that have something to show of a study with these cells; of published constants there are none."""
    from sparsedc.sparsity.methods import METHODS

    cells = list(cells)
    updated = any(METHODS[cell.method].dynamic for cell in cells)
    arms = {(cell.method, cell.training.newborn) for cell in cells if METHODS[cell.method].grows}
    several = len(arms) > len({method for method, _ in arms})
    both = len({cell.density == 1 for cell in cells}) == 2
    shows = {**dict.fromkeys(MEASURED, bool(cells)), "contrasts": both, "topology": updated, "stability": several}
    return [figure for figure in FIGURES if shows.get(figure, True)]


def get_figure(name: str) -> Draw:
    """What draws that figure: from a runs table and the directory that `sparsedc law` wrote to out_stem.svg and .png.

    `unique_tokens` are the budgets that the law is asked about; those of the fit cells if there are none. An `OBSERVED`
    figure asks no law. The figure's module is imported when it is drawn, so that a command line starts without
    Matplotlib.

    Raises:
        InputError: there is no such figure, or it needs a law and is given none.
    """
    if name not in FIGURES:
        raise InputError("figure", name, "no such figure", one_of(name, FIGURES))

    def draw(runs: Path, law: Path | None, out_stem: Path, unique_tokens: Sequence[float] = ()) -> None:
        from sparsedc.contrasts import read_contrasts
        from sparsedc.figures import style
        from sparsedc.observations import read_observations

        style.apply_style()
        plot = import_module(f"sparsedc.figures.{name}").plot
        if name in OBSERVED:
            read_beside = read_contrasts if name == "contrasts" else read_observations
            figure = plot(style.read_finished(runs), read_beside(runs.with_name(f"{name}.csv")))
        elif law is None:
            raise InputError("law", "(absent)", f"{name} shows a law", "Name the folder that `law compare` wrote.")
        else:
            read = style.read_fits if name in COMPARING else style.read_fit
            figure = plot(style.read_finished(runs), read(law), tuple(unique_tokens))
        style.save(figure, out_stem)

    return draw

"""Figures: one module each, drawn from a runs table and a fitted law.

A figure's module has `plot(runs, fit, budgets)`, which returns a Matplotlib figure. Adding one is adding its module
here, its caption in workflow/report/, and its name and title to `FIGURES`.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from sparsedc.errors import InputError

#: Names of the figures, which are those of their modules → their titles in the report.
FIGURES = {
    "loss_by_epochs": "Loss by epochs: what was measured",
    "prediction_vs_truth": "Prediction vs truth: how far to trust the law",
    "isoloss": "IsoLoss: what the law says of size and epochs",
    "isoflop": "IsoFLOP: how to spend a compute budget",
    "optimal_density": "Optimal density: how sparse, and what it saves",
    "density_factor": "Density factor: how sparsity enters the law",
}
#: Those that show cells to which the law was fitted, and which a study of published constants therefore lacks.
MEASURED = frozenset({"loss_by_epochs"})


class Draw(Protocol):
    """Draws one figure; see `get_figure`."""

    def __call__(self, runs: Path, law: Path, out_stem: Path, unique_tokens: Sequence[float] = ()) -> None: ...


def get_figure(name: str) -> Draw:
    """What draws that figure: from a runs table and the directory that `sparsedc law` wrote to out_stem.svg and .png.

    `unique_tokens` are the budgets that the law is asked about; those of the fit cells if there are none. The figure's
    module is imported when it is drawn, so that a command line starts without Matplotlib.

    Raises:
        InputError: there is no such figure.
    """
    if name not in FIGURES:
        raise InputError("figure", name, "no such figure", f"Use {' | '.join(FIGURES)}.")

    def draw(runs: Path, law: Path, out_stem: Path, unique_tokens: Sequence[float] = ()) -> None:
        from sparsedc.figures import style

        style.apply_style()
        figure = import_module(f"sparsedc.figures.{name}").plot(
            style.read_finished(runs), style.read_fit(law), tuple(unique_tokens)
        )
        style.save(figure, out_stem)

    return draw

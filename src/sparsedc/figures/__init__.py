"""Figures: one module each, drawn from the runs table and the directory that `fit_laws` wrote.

A figure's module has `draw(runs, law, out_stem)`, which writes out_stem.svg and out_stem.png. Adding a figure is
adding its module here, its caption in workflow/report/, and its name and title to `FIGURES`.
"""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from sparsedc.errors import InputError

#: Names of the figures, which are those of their modules → their titles in the report.
FIGURES = {
    "loss_by_epochs": "Loss by epochs: what was measured",
    "prediction_vs_truth": "Prediction vs truth: how far to trust the law",
    "isoloss": "Isoloss: what the law says of size and epochs",
}


class Draw(Protocol):
    """What every figure's module offers as `draw`."""

    def __call__(self, runs: Path, law: Path, out_stem: Path) -> None: ...


def get_figure(name: str) -> Draw:
    """The `draw` of that figure; its module is imported only now, so that a command line starts without Matplotlib.

    Raises:
        InputError: there is no such figure.
    """
    if name not in FIGURES:
        raise InputError("figure", name, "no such figure", f"Use {' | '.join(FIGURES)}.")
    return cast(Draw, import_module(f"sparsedc.figures.{name}").draw)

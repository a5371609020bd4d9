"""The study in one table, in plain words, as HTML for the report."""

from html import escape
from pathlib import Path

import pandas as pd

from sparsedc.errors import InputError
from sparsedc.figures.words import count_label, density_label
from sparsedc.law.fit import Status
from sparsedc.law.select import LAW, Selection

_STATUS: dict[Status, str] = {
    "ok": "the runs determine all of its parameters",
    "weakly determined": "the runs leave some of its parameters very uncertain",
    "at bound": "some of its parameters ended at the edge of the search and are no estimates",
    "not identifiable": "the runs cannot tell its parameters apart, so neither they nor far predictions hold",
}


def summary_table(runs: pd.DataFrame, law_dir: Path) -> str:
    """An HTML table of what was run, which form describes it best, and how well it predicts larger models.

    Args:
        runs: a runs table, as `sparsedc.runs.read_runs` reads it.
        law_dir: where `fit_laws` wrote.

    Raises:
        InputError: the table is empty, or there is no law.
    """
    if not len(runs):
        raise InputError("runs table", "0 cells", "there is nothing to sum up", "Run some cells.")
    selection = Selection.load(law_dir / LAW)
    best = selection.best
    rows = [
        ("Cells", _cells(runs)),
        ("Model sizes", ", ".join(runs.sort_values("params_total")["size"].unique())),
        ("Densities", ", ".join(density_label(s) for s in sorted(runs["density"].unique(), reverse=True))),
        ("Unique tokens (U)", ", ".join(count_label(U) for U in sorted(runs["unique_tokens"].unique()))),
        ("Epochs", ", ".join(f"{epochs:.3g}" for epochs in sorted(runs["epochs"].unique()))),
        ("Tokens trained on, all cells", count_label(int(runs["tokens"].sum()))),
        ("Form of the law that fits best", f"{best.form}: {_STATUS[best.status]}"),
        *([("Because", "; ".join(best.reasons))] if best.reasons else []),
        ("Typical error on the runs it was fitted to", f"{best.rmse:.3f} nats per token (RMSE)"),
        ("Typical error on cells it never saw", _extrapolation(selection)),
    ]
    body = "\n".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f"<table>\n{body}\n</table>\n"


def _cells(runs: pd.DataFrame) -> str:
    counts = runs["role"].value_counts()
    text = f"{len(runs)}: {counts.get('fit', 0)} to fit, {counts.get('extrapolation', 0)} held out to test the law"
    unfinished = int((runs["status"] != "ok").sum())
    return text + (f"; {unfinished} diverged and were left out" if unfinished else "")


def _extrapolation(selection: Selection) -> str:
    error = selection.extrapolation.get(selection.best.form)
    if error is None:
        return "not tested: the study has no finished extrapolation cells"
    forms = {fit.form for fit in selection.fits}
    others = [
        f"{name} {other.rmse:.3f}"
        for name, other in selection.extrapolation.items()
        if other is not None and name not in forms
    ]
    cells = "1 cell" if error.n == 1 else f"{error.n} cells"
    return f"{error.rmse:.3f} nats per token (RMSE over {cells}); for comparison: {', '.join(others)}"

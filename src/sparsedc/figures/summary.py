"""The study in one table, in plain words, as HTML for the report."""

import math
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from sparsedc.contrasts import COMPARISONS, compared, contrasts, lower, tally
from sparsedc.errors import InputError
from sparsedc.law.fit import Status
from sparsedc.law.select import SELECTION, Selection
from sparsedc.law.validate import Error, pooled_rmse
from sparsedc.noise import NO_NOISE
from sparsedc.words import count_label, density_label

_STYLE = (
    "body { font-family: sans-serif; line-height: 1.4; margin: 1em; } "
    "table { border-collapse: collapse; max-width: 60em; } "
    "th, td { padding: 0.4em 0.8em; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; } "
    "th { width: 16em; }"
)
DECISIVE = 6  # cells: with fewer, even being closer on each of them is chance at 5 % (a sign test of both sides)
_BASELINES = {"mean": "mean of the fitted losses", "dense law": "law of dense models"}
_STATUS: dict[Status, str] = {
    "ok": "the runs determine all of its parameters",
    "weakly determined": "the runs leave some of its parameters very uncertain",
    "at bound": "some of its parameters ended at the edge of the search and are no estimates",
    "not identifiable": "the runs cannot tell its parameters apart, so neither they nor far predictions hold",
    "published": "its constants are as its authors published them",
}
_LEFT_OUT = {"size": "one size", "density": "one density", "unique_tokens": "one U", "compute": "the most compute"}


def summary_table(runs: pd.DataFrame, law_dir: Path) -> str:
    """An HTML page with one table: what was run, which form describes it best, how well it predicts larger models.

    Args:
        runs: a runs table, as `sparsedc.law.table.read_table` reads it.
        law_dir: where `sparsedc law compare` or `sparsedc law published` wrote.

    Raises:
        InputError: the table is empty, or there is no law.
    """
    if not len(runs):
        raise InputError("runs table", "0 cells", "there is nothing to sum up", "Run some cells.")
    selection = Selection.load(law_dir / SELECTION)
    about = _published(selection) if selection.best.status == "published" else _fitted(selection)
    dense_N = (runs["params_active"] / runs["density"]).groupby(runs["size"]).min()
    rows = [
        ("Verdict", about.pop("Verdict")),
        ("Cells", _cells(runs)),
        ("Model sizes", ", ".join(dense_N.sort_values().index)),
        ("Densities", ", ".join(density_label(s) for s in sorted(runs["density"].unique(), reverse=True))),
        ("Unique tokens (U)", ", ".join(count_label(U) for U in sorted(runs["unique_tokens"].unique()))),
        ("Epochs", ", ".join(f"{epochs:.3g}" for epochs in sorted(runs["epochs"].unique()))),
        ("Tokens trained on, all cells", count_label(int(runs["tokens"].sum()))),
        *_lowest(runs),
        *([] if selection.best.status == "published" else _contrasts(runs)),
        *about.items(),
    ]
    body = "\n".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"/><title>Summary</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<table>\n{body}\n</table>\n</body>\n</html>\n"
    )


def _fitted(selection: Selection) -> dict[str, str]:
    """What a study that fitted its law says of it."""
    best = selection.best
    rows = {
        "Verdict": verdict(selection),
        "Form of the law that fits best": f"{best.form}: {_STATUS[best.status]}",
        "Why it is not to be trusted further": "; ".join(best.reasons),
        "Typical error on the runs it was fitted to": f"{best.rmse:.3f} nats per token (RMSE)",
        "Typical error on runs that a refit did not see": _left_out(selection),
        "Spread between seeds": _noise(selection),
        "Typical error on cells it never saw": _extrapolation(selection),
    }
    return {name: text for name, text in rows.items() if text}


def _published(selection: Selection) -> dict[str, str]:
    """What a study of published constants says of them."""
    fit = selection.best
    error = selection.extrapolation[fit.form]
    tested = f"error {error.rmse:.3f} nats per token, R² {error.r2:.4f} on {error.n} runs" if error else "not tested"
    return {
        "Verdict": f"Published constants, and nothing was fitted here: {tested}",
        "Form of the law": f"{fit.form}: {_STATUS[fit.status]}",
        "What is known of them": "; ".join(fit.reasons),
    }


def _left_out(selection: Selection) -> str:
    """Errors of the chosen form where it was fitted again without some of the runs."""
    folded = selection.cross_validation.get(selection.best.form, {})
    errors = {kind: pooled_rmse(folded.get(kind, ())) for kind in _LEFT_OUT}
    shown = [f"{error:.3f} without {_LEFT_OUT[kind]}" for kind, error in errors.items() if error is not None]
    return f"{', '.join(shown)} (nats per token, RMSE)" if shown else ""


def _noise(selection: Selection) -> str:
    noise = selection.noise
    return f"{noise.sd:.3f} nats per token, over {noise.configurations} configurations" if noise else ""


def verdict(selection: Selection) -> str:
    """Whether the chosen law predicts the extrapolation cells better than every baseline, in plain words."""
    law = selection.extrapolation.get(selection.best.form)
    if law is None:
        return "The law was not tested: the study has no finished extrapolation cells"
    others = _baselines(selection)
    name = min(others, key=lambda name: others[name].rmse)
    beats = law.rmse < others[name].rmse
    sign = "high" if law.mean > 0 else "low"
    biased = math.isclose(abs(law.mean), law.mean_abs, rel_tol=1e-9)  # only where all errors are of one sign
    one, few = law.n == 1, law.n < DECISIVE
    return (
        f"The law {'beats' if beats else 'does not beat'} the {_BASELINES.get(name, name)} "
        f"on the {'one cell' if one else f'{law.n} cells'} it never saw: "
        f"error {law.rmse:.3f} against {others[name].rmse:.3f} nats per token"
        + (f"; it predicts {'it' if one else 'all of them'} too {sign}" if biased else "")
        + ("; so few cells do not decide between them" if few else "")
        + ("" if selection.best.usable else "; but the runs do not determine the law")
    )


def _baselines(selection: Selection) -> dict[str, Error]:
    forms = {fit.form for fit in selection.fits}
    return {name: error for name, error in selection.extrapolation.items() if error is not None and name not in forms}


def _lowest(runs: pd.DataFrame) -> list[tuple[str, str]]:
    finished = runs[(runs["status"] == "ok") & np.isfinite(runs["val_loss"])]
    if not len(finished):
        return []
    lowest = finished.loc[finished["val_loss"].idxmin()]
    return [("Lowest held-out loss", f"{lowest['cell']}, {lowest['val_loss']:.3f} nats per token")]


def _contrasts(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Who was ahead at each comparison that the study allows."""
    rows = []
    known = compared(contrasts(runs))
    for comparison, words in COMPARISONS.items():
        part = known[known["comparison"] == comparison]
        counts = tally(part)
        text = f"sparse ahead in {counts['sparse']}, dense in {counts['dense']}, undecided in {counts['undecided']}"
        if (part["reason"] == NO_NOISE).all():
            text = f"sparse lower in {lower(part)}; no verdicts, as {NO_NOISE}"
        if len(part):
            rows.append((f"Sparse against dense, {words}", text))
    return rows


def _cells(runs: pd.DataFrame) -> str:
    counts = runs["role"].value_counts()
    text = f"{len(runs)}: {counts.get('fit', 0)} to fit, {counts.get('extrapolation', 0)} held out to test the law"
    unfinished = int((runs["status"] != "ok").sum())
    return text + (f"; {unfinished} diverged and were left out" if unfinished else "")


def _extrapolation(selection: Selection) -> str:
    error = selection.extrapolation.get(selection.best.form)
    if error is None:
        return "not tested: the study has no finished extrapolation cells"
    others = [f"{name} {other.rmse:.3f}" for name, other in _baselines(selection).items()]
    cells = "1 cell" if error.n == 1 else f"{error.n} cells"
    return f"{error.rmse:.3f} nats per token (RMSE over {cells}); for comparison: {', '.join(others)}"

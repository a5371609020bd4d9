"""Does a runs table hold what its study says, cell by cell? For one that comes back from elsewhere.

What was trained under an earlier version of the numerics, or with other settings, is not of the study any more: its
cells have other fingerprints. That a loss is right, nothing but training again can tell.
"""

import math
from typing import NamedTuple

import pandas as pd

from sparsedc.errors import InputError
from sparsedc.runs import planned
from sparsedc.study import Study

#: numbers with a fraction may differ by this share, as other programs write fewer digits than keep a float64
TOLERANCE = 1e-6
COLLECT = "Collect the table anew."
REMEDY = "Give the table the study's own rows, or the study file that they were trained from."


class Audit(NamedTuple):
    """How far a table has come; every row that it has is as its spec says."""

    done: int
    diverged: int  # of these
    missing: tuple[str, ...]  # cells of the study that have no row, in training order


def audit(study: Study, runs: pd.DataFrame) -> Audit:
    """Compare each row with the spec of its cell: its fingerprint, and all columns that follow from it.

    Args:
        runs: as from `sparsedc.runs.read_runs`.

    Raises:
        InputError: a row is of no cell of the study or of another spec, differs from it in a value, or lacks a loss
            that is a number above 0; or losses are of different held-out texts, or of unknown ones.
    """
    for row in runs.to_dict("records"):
        name = row["cell"]
        if name not in study.cells:
            raise InputError("cell", name, f"is no cell of the study {study.name}", REMEDY)
        cell = study.cells[name]
        expected = {"fingerprint": cell.fingerprint, "study": study.name, "role": cell.role, **planned(cell.spec)}
        diverged = row["status"] == "diverged"
        if diverged and 0 <= row["steps"] <= expected["steps"]:  # it stopped on its way
            expected |= {"steps": row["steps"], "tokens": row["steps"] * row["batch_tokens"]}
        for column, value in expected.items():
            if not _agree(row[column], value):
                raise InputError(column, row[column], f"cell {name} should have {value}", REMEDY)
        for column in ("val_loss", "val_loss_se", "train_loss"):
            loss = row[column]
            if math.isnan(loss) != diverged:
                raise InputError(column, loss, f"cell {name} is said to be {row['status']}", COLLECT)
            if not diverged and not 0 < loss < math.inf:
                raise InputError(column, loss, f"of cell {name} must be a number above 0", COLLECT)
        if pd.isna(row["held_out"]):
            raise InputError("held_out", "(empty)", f"nothing says on what text cell {name} was judged", COLLECT)
    texts = runs["held_out"].unique()
    if len(texts) > 1:
        remedy = "Evaluate all cells of a study on one text."
        raise InputError("held_out", ", ".join(texts), "losses are of several held-out texts", remedy)
    done = set(runs["cell"])
    missing = tuple(name for name in study.cells if name not in done)
    return Audit(len(runs), int((runs["status"] == "diverged").sum()), missing)


def _agree(found: object, expected: object) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return abs(found - expected) <= TOLERANCE * abs(expected)
    return bool(found == expected)

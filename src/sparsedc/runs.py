"""The runs table: one row a cell, the only thing that passes from the half that trains to the half that fits.

Whoever has such a table — ours, a published one, a colleague's — can do everything right of it. This module
imports no torch.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparsedc.atomic import whole
from sparsedc.errors import InputError, one_of
from sparsedc.words import some

if TYPE_CHECKING:
    from sparsedc.spec import Spec

#: Columns in order, with their pandas dtype. Units: losses in nats per token, `seconds` of training wall clock,
#: FLOPs in total over the cell's training.
COLUMNS: dict[str, str] = {
    # what the cell is
    "cell": "string",
    "study": "string",
    "role": "string",  # fit | extrapolation
    "held_out": "string",  # first 16 digits of the sha256 of the held-out tokens: losses compare only where it is equal
    "method": "string",
    "size": "string",
    "density": "float64",
    "unique_tokens": "int64",
    "epochs": "float64",
    "tokens": "int64",
    "seed": "int64",
    # counts
    "params_total": "int64",
    "params_embedding": "int64",
    "params_head": "int64",
    "params_maskable": "int64",
    "params_active": "int64",  # all parameters that are not masked out, embedding and head included
    "params_active_mean": "float64",  # the same, averaged over training steps
    "flops_dense": "float64",  # what dense hardware spends: zeros are multiplied too
    "flops_sparse": "float64",  # what ideal sparse hardware would spend
    # hyperparameters that were tuned
    "lr": "float64",  # peak learning rate of embedding, head and norms
    "maskable_lr": "float64",  # peak learning rate of the maskable matrices
    "weight_decay": "float64",
    "batch_tokens": "int64",
    "steps": "int64",
    # results
    "val_loss": "float64",
    "val_loss_se": "float64",  # standard error over held-out documents
    "train_loss": "float64",
    "status": "string",  # ok | diverged
    # provenance
    "seconds": "float64",
    "tokens_per_second": "float64",
    "device": "string",
    "torch": "string",
    "commit": "string",
    "fingerprint": "string",  # sha256 of the cell's spec
}

WHOLE = {column: "Int64" for column, dtype in COLUMNS.items() if dtype == "int64"}  # refuses fractions; int64 cuts them


ROLES = ("fit", "extrapolation")
STATUSES = ("ok", "diverged")


def planned(spec: "Spec") -> dict[str, Any]:
    """What a cell's spec says of its row, before anything is trained."""
    return {
        "method": spec.method,
        "size": spec.size,
        "density": spec.density,
        "unique_tokens": spec.unique_tokens,
        "epochs": spec.epochs,
        "tokens": spec.tokens,
        "seed": spec.seed,
        "params_total": spec.counts.total,
        "params_embedding": spec.counts.embedding,
        "params_head": spec.counts.head,
        "params_maskable": spec.counts.maskable,
        "params_active": spec.counts.active(spec.active_maskable),
        "params_active_mean": spec.counts.total - spec.counts.maskable + spec.active_maskable_mean,
        "flops_dense": spec.flops(sparse=False),
        "flops_sparse": spec.flops(sparse=True),
        "lr": spec.training.lr,
        "maskable_lr": spec.maskable_lr,
        "weight_decay": spec.training.weight_decay,
        "batch_tokens": spec.training.batch_tokens,
        "steps": spec.steps,
    }


def read_runs(path: Path) -> pd.DataFrame:
    """Read a runs table written by `write_runs`.

    Raises:
        InputError: the file is missing, not a table, or lacks a column, or a cell stands in it twice.
    """
    try:
        # Text stays text, a commit such as 12345e678901 too; and fractions are read from text to the last bit.
        table = pd.read_csv(path, dtype={column: "string" for column in COLUMNS if column not in WHOLE})
    except FileNotFoundError as error:
        raise InputError("runs table", path, "no such file", "Build it with `snakemake`.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError("runs table", path, "not a CSV table", "Name a CSV file with a header line.") from error
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise InputError(
            "runs table", path, f"lacks the column(s) {some(missing)}", "See docs/runs.md for the columns."
        )
    for column, known in (("role", ROLES), ("status", STATUSES)):
        unknown = table.loc[~table[column].isin(known), column].fillna("(blank)")
        if len(unknown):
            raise InputError(column, unknown.iloc[0], f"is unknown in {path}", one_of(unknown.iloc[0], known))
    doubled = table.loc[table["cell"].duplicated(), "cell"]
    if len(doubled):
        raise InputError("cell", doubled.iloc[0], f"stands more than once in {path}", "Keep one row a cell.")
    for column, dtype in COLUMNS.items():
        try:
            table = table.astype({column: WHOLE.get(column, dtype)}).astype({column: dtype})
        except (ValueError, TypeError) as error:
            problem = f"holds a value of the wrong type in {column} ({error})"
            raise InputError("runs table", path, problem, "Correct it.") from error
    return table[list(COLUMNS)]


def write_runs(table: pd.DataFrame, path: Path) -> None:
    """Write a runs table with its columns in canonical order, whole or not at all."""
    with whole(path) as partial:
        table[list(COLUMNS)].to_csv(partial, index=False)

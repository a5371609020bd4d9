"""Two tables beside the runs table: what topology updates did to the cells that have them.

`topology.csv` has one row a cell and update, `stability.csv` one row a cell and step around its updates. Both join the
runs table by `cell`, and are collected with it. This module imports no torch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from sparsedc.atomic import whole
from sparsedc.config import Hyperparameters
from sparsedc.errors import InputError
from sparsedc.sparsity.methods import METHODS

TOPOLOGY, STABILITY = "topology.csv", "stability.csv"

#: How regrown weights start: the cell's policy, in both tables.
_NEWBORN: dict[str, str] = {
    "cell": "string",
    "newborn": "string",  # reset | naive | linear | compounding; none where nothing grows
    "ramp_steps": "Int64",  # empty where the policy has none
}
#: Table → its columns in order, with their pandas dtype. Shares are of the weights of all maskable matrices together.
COLUMNS: dict[str, dict[str, str]] = {
    TOPOLOGY: {
        **_NEWBORN,
        "step": "int64",  # after which the update was
        "drop_fraction": "float64",  # share of the active weights that the update dropped
        "active_share": "float64",  # active weights over all; the density that the update left
        "replaced_share": "float64",  # newly active weights over active ones
        "age_min": "float64",  # of the active weights just before the update, in optimizer steps
        "age_q25": "float64",
        "age_median": "float64",
        "age_q75": "float64",
        "age_max": "float64",
        "overlap": "float64",  # initially active weights that are active after the update, over all of these
        "explored": "float64",  # weights that were ever active, over all: in-time over-parameterisation
        "layer_density_min": "float64",
        "layer_density_max": "float64",
    },
    STABILITY: {
        **_NEWBORN,
        "offset": "int64",  # steps from the update; the loss of step 0 is measured before it
        "loss": "float64",  # mean over updates of the training loss less that of the 9 steps up to the update
        "update_ratio": "float64",  # RMS step of the weights regrown at the update over that of the kept ones
    },
}


def observed(cell: str, metrics: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Table → its rows of one cell, from the cell's metrics; none of a cell whose topology never changes."""
    topology, around = metrics.get("topology"), metrics.get("around_updates")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    if topology:
        rows[TOPOLOGY] += _updates(topology)
    if around:
        rows[STABILITY] += _offsets(around)
    if not any(rows.values()):
        return rows
    training = Hyperparameters.model_validate(metrics["spec"]["training"])
    newborn = training.newborn if METHODS[metrics["spec"]["method"]].grows else None
    ramped = newborn in ("linear", "compounding")
    of_cell = {"cell": cell, "newborn": newborn, "ramp_steps": training.ramp_steps if ramped else None}
    return {name: [{**of_cell, **row} for row in some] for name, some in rows.items()}


def write_observations(name: str, table: pd.DataFrame, folder: Path) -> None:
    """Write one of the two tables, whole or not at all."""
    with whole(folder / name) as partial:
        table[list(COLUMNS[name])].astype(COLUMNS[name]).to_csv(partial, index=False)


def read_observations(path: Path) -> pd.DataFrame:
    """Read one of the two tables by its name.

    Raises:
        InputError: there is no such file, or it is not that table.
    """
    columns = COLUMNS[path.name]
    try:
        return pd.read_csv(path, dtype={"cell": "string", "newborn": "string"})[list(columns)].astype(columns)
    except FileNotFoundError as error:
        raise InputError(
            path.stem, path, "no such file", "`sparsedc runs collect` writes it beside the runs table."
        ) from error
    except (KeyError, ValueError, TypeError) as error:  # what pandas raises of a file that is no CSV is a ValueError
        raise InputError(path.stem, path, f"is not the table of docs/runs.md ({error})", "Collect it anew.") from error


def _updates(topology: dict[str, Any]) -> Iterator[dict[str, Any]]:
    blocks = topology["blocks"]
    for update in topology["updates"]:
        active = update["active"]
        densities = [some / of for some, of in zip(active, blocks, strict=True)]
        ages = dict(zip(("age_min", "age_q25", "age_median", "age_q75", "age_max"), update["ages"], strict=True))
        yield {
            **{key: update[key] for key in ("step", "drop_fraction", "overlap", "explored")},
            **ages,
            "active_share": sum(active) / sum(blocks),
            "replaced_share": sum(update["replaced"]) / sum(active),
            "layer_density_min": min(densities),
            "layer_density_max": max(densities),
        }


def _offsets(around: dict[str, Any]) -> Iterator[dict[str, Any]]:
    loss = dict(zip(around["offset"], around["loss"], strict=True))
    ratio = dict(zip(around["ratio_offset"], around["update_ratio"], strict=True))
    for offset in sorted(loss.keys() | ratio.keys()):
        yield {"offset": offset, "loss": loss.get(offset), "update_ratio": ratio.get(offset)}

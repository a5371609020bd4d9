"""A runs table against its study: the committed tables agree with theirs, and no value may differ unnoticed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsedc.audit import audit
from sparsedc.errors import InputError
from sparsedc.runs import COLUMNS, planned, read_runs
from sparsedc.study import Study, load_study

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(small: dict[str, Any]) -> Study:
    return load_study(small)


@pytest.fixture
def runs(study: Study) -> pd.DataFrame:
    trained = {
        "held_out": "h", "val_loss": 4.0, "val_loss_se": 0.01, "train_loss": 3.9, "status": "ok", "seconds": 1.0,
        "tokens_per_second": 1.0, "device": "d", "torch": "t", "commit": "c",
    }  # fmt: skip
    rows = [
        {**trained, **planned(cell.spec), "cell": name, "study": study.name, "role": cell.role,
         "fingerprint": cell.fingerprint}
        for name, cell in study.cells.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


@pytest.mark.parametrize("name", ["h100", "h100-as-published", "h100-controls", "stability"])
def test_committed_tables_are_those_of_their_studies(name: str) -> None:
    found = audit(load_study(ROOT / "studies" / f"{name}.yaml"), read_runs(ROOT / "results" / name / "runs.csv"))
    assert found.done > 0


def test_missing_and_diverged_cells_are_told(study: Study, runs: pd.DataFrame) -> None:
    assert audit(study, runs) == (4, 0, ())
    first, second, *_ = study.cells
    runs.loc[runs["cell"] == second, ["status", "val_loss", "val_loss_se", "train_loss", "steps"]] = [
        "diverged", np.nan, np.nan, np.nan, 3,
    ]  # fmt: skip
    runs.loc[runs["cell"] == second, "tokens"] = 3 * runs["batch_tokens"]
    assert audit(study, runs[runs["cell"] != first]) == (3, 1, (first,))


@pytest.mark.parametrize("column", [column for column in COLUMNS if column not in (
    "held_out", "val_loss", "val_loss_se", "train_loss", "status", "seconds", "tokens_per_second", "device", "torch",
    "commit",
)])  # fmt: skip
def test_each_value_that_is_not_its_specs_is_named(column: str, study: Study, runs: pd.DataFrame) -> None:
    wrong: Any = f"other {column}" if COLUMNS[column] == "string" else runs.loc[2, column] * 3 + 1
    runs.loc[2, column] = wrong
    with pytest.raises(InputError) as caught:
        audit(study, runs)
    assert (caught.value.field, caught.value.value) == (column, wrong)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"val_loss": np.nan}, "val_loss"),
        ({"status": "diverged"}, "val_loss"),
        ({"val_loss": np.inf}, "val_loss"),
        ({"train_loss": -1.0}, "train_loss"),
        ({"val_loss_se": 0.0}, "val_loss_se"),
        ({"held_out": "other"}, "held_out"),
        ({"held_out": None}, "held_out"),
        (
            {"status": "diverged", "val_loss": np.nan, "val_loss_se": np.nan, "train_loss": np.nan, "steps": 99},
            "steps",
        ),
    ],
)
def test_losses_that_cannot_be_compared(changes: dict[str, Any], field: str, study: Study, runs: pd.DataFrame) -> None:
    for column, value in changes.items():
        runs.loc[1, column] = value
    with pytest.raises(InputError) as caught:
        audit(study, runs)
    assert caught.value.field == field

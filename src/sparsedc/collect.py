"""The one writer of runs.csv, and of the two tables beside it: from the cells' metrics to rows."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sparsedc.errors import InputError
from sparsedc.observations import COLUMNS as OBSERVATIONS
from sparsedc.observations import observed, read_observations, write_observations
from sparsedc.runs import COLUMNS, read_runs, write_runs

#: Columns that the trainer knows; the others come from the study.
TRAINED = [column for column in COLUMNS if column not in ("cell", "study", "role")]


def collect_runs(cells: Path, out: Path, *, so_far: bool = False) -> None:
    """Collect the metrics of every cell of a study: its runs table, and topology.csv and stability.csv beside that.

    All metrics are read before the first table is written.

    Args:
        cells: the study's cells.tsv, in results/<study>/; metrics lie in cells/<cell>/metrics.json beside it.
        out: the runs table to write.
        so_far: leave out cells that have no metrics yet.

    Raises:
        InputError: a cell's metrics are missing, unreadable, or those of another spec than the study's.
    """
    try:
        index = pd.read_csv(cells, sep="\t", dtype={"cell": str, "fingerprint": str})
    except OSError as error:
        raise InputError("cells table", cells, "cannot be read", "`sparsedc study index` writes it.") from error
    rows = []
    observations: dict[str, list[dict[str, Any]]] = {name: [] for name in OBSERVATIONS}
    tokens: dict[tuple[str, str], Path] = {}  # checksums of train and held-out tokens -> one cell that has them
    for cell in index.itertuples():
        path = cells.parent / "cells" / str(cell.cell) / "metrics.json"
        if so_far and not path.exists():
            continue
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            row = {column: metrics["row"][column] for column in TRAINED}
            for name, some in observed(str(cell.cell), metrics).items():
                observations[name] += some
            tokens.setdefault((metrics["train_sha256"], metrics["held_out_sha256"]), path)
        except OSError as error:
            raise InputError("cell", cell.cell, "has no metrics", "Run snakemake to train it.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("metrics", path, f"cannot be read ({error!r})", "Delete it and run snakemake.") from error
        if row["fingerprint"] != cell.fingerprint:
            raise InputError(
                "fingerprint", row["fingerprint"], f"{path} was trained from another spec than {cell.cell}'s",
                "Delete it and run snakemake.",
            )  # fmt: skip
        rows.append({**row, "cell": cell.cell, "study": cells.resolve().parent.name, "role": cell.role})
    if len(tokens) > 1:
        raise InputError(
            "tokens", " and ".join(str(path) for path in list(tokens.values())[:2]), "these cells saw different tokens",
            "Delete the one trained on old text and run snakemake.",
        )  # fmt: skip
    for name, some in observations.items():
        write_observations(name, pd.DataFrame(some, columns=list(OBSERVATIONS[name])), out.parent)
    write_runs(pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS), out)


def merge_runs(tables: list[Path], out: Path) -> None:
    """Merge runs tables by cell; of a cell that stands in several, the first table's row counts.

    Beside `out` are merged the observations that lie beside the tables: of each cell those beside the table whose row
    counts. Everything is read before the first table is written, so that `out` may be one of the merged.

    Raises:
        InputError: a cell stands in two tables that were evaluated on different held-out text.
    """
    everything = pd.concat([read_runs(path).assign(table=place) for place, path in enumerate(tables)])
    texts = everything.groupby("cell")["held_out"].nunique()
    if (texts > 1).any():
        raise InputError(
            "cell", texts.index[texts > 1][0], "was evaluated on different held-out text in two tables",
            "Merge tables of the same corpus.",
        )  # fmt: skip
    merged = everything.drop_duplicates("cell", keep="first")
    observations = {name: _merged_observations(name, tables, merged) for name in OBSERVATIONS}
    for name, rows in observations.items():
        if rows is not None:
            write_observations(name, rows, out.parent)
    write_runs(merged.sort_values("cell"), out)
    print(f"{len(merged)} cells in {out}")


def _merged_observations(name: str, tables: list[Path], merged: pd.DataFrame) -> pd.DataFrame | None:
    """None where no such table lies beside any of the runs tables."""
    beside = {place: path.parent / name for place, path in enumerate(tables)}
    parts = []
    for place, path in beside.items():
        if path.exists():
            rows = read_observations(path)
            parts.append(rows[rows["cell"].isin(merged.loc[merged["table"] == place, "cell"])])
    return pd.concat(parts).sort_values("cell", kind="stable") if parts else None

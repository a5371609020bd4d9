"""The one writer of runs.csv, and of the two tables beside it: from the cells' metrics to rows."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sparsedc.errors import InputError
from sparsedc.observations import COLUMNS as OBSERVATIONS
from sparsedc.observations import observed, write_observations
from sparsedc.runs import COLUMNS, read_runs, write_runs

#: Columns that the trainer knows; the others come from the study.
TRAINED = [column for column in COLUMNS if column not in ("cell", "study", "role")]


def collect_runs(cells: Path, out: Path) -> None:
    """Collect the metrics of every cell of a study: its runs table, and topology.csv and stability.csv beside that.

    All metrics are read before the first table is written.

    Args:
        cells: the study's cells.tsv, in results/<study>/; metrics lie in cells/<cell>/metrics.json beside it.
        out: the runs table to write.

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
        write_observations(name, some, out.parent)
    write_runs(pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS), out)


def merge_runs(tables: list[Path], out: Path) -> None:
    """Merge runs tables by cell; of a cell that stands in several, the first table's row counts.

    Raises:
        InputError: a cell stands in two tables that were evaluated on different held-out text.
    """
    everything = pd.concat([read_runs(table) for table in tables])
    texts = everything.groupby("cell")["held_out"].nunique()
    if (texts > 1).any():
        raise InputError(
            "cell", texts.index[texts > 1][0], "was evaluated on different held-out text in two tables",
            "Merge tables of the same corpus.",
        )  # fmt: skip
    merged = everything.drop_duplicates("cell", keep="first")
    write_runs(merged.sort_values("cell"), out)
    print(f"{len(merged)} cells in {out}")

"""The one writer of runs.csv, and of the two tables beside it: from the cells' metrics to rows."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sparsedc.errors import InputError
from sparsedc.observations import COLUMNS as OBSERVATIONS
from sparsedc.observations import observed, read_observations, write_observations
from sparsedc.runs import COLUMNS, read_runs, write_runs

#: Of rows that are alike in these, one is a copy of the other: a second training takes another time.
TRAINING = ["cell", "fingerprint", "seconds"]
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
        InputError: a cell's metrics are missing, unreadable, or those of another spec than the study's; or `out` has
            rows of cells of the study without metrics, which would be lost.
    """
    index = _read_index(cells)
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
    if so_far:
        _check_kept(out, set(index["cell"]), {row["cell"] for row in rows})
        print(f"{len(rows)} of {len(index)} cells in {out}")
    for name, some in observations.items():
        write_observations(name, pd.DataFrame(some, columns=list(OBSERVATIONS[name])), out.parent)
    write_runs(pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS), out)


def _read_index(cells: Path) -> pd.DataFrame:
    """Which cells there are, with their fingerprints and roles."""
    remedy = "`sparsedc study index` writes it."
    try:
        index = pd.read_csv(cells, sep="\t", dtype={"cell": str, "fingerprint": str})
    except OSError as error:
        raise InputError("cells table", cells, "cannot be read", remedy) from error
    except ValueError as error:  # as are pandas' own errors, and those of decoding
        raise InputError("cells table", cells, "is not a table of tabs", remedy) from error
    if index.empty or not {"cell", "fingerprint", "role"} <= set(index.columns):
        raise InputError("cells table", cells, "lists no cells", remedy)
    return index


def _check_kept(out: Path, cells: set[str], collected: set[str]) -> None:
    """A table of cells that were trained elsewhere is not to be overwritten by one without them."""
    if not collected:
        raise InputError("cells", len(cells), "none has metrics yet", "Run snakemake to train them.")
    if out.exists():
        lost = (cells - collected).intersection(read_runs(out)["cell"])
        if lost:
            remedy = "Collect to another file, and merge the two with `sparsedc runs merge`."
            raise InputError("cell", min(lost), f"stands in {out} and has no metrics here", remedy)


def merge_runs(tables: list[Path], out: Path) -> None:
    """Merge runs tables by cell; of a cell that stands in several, the first table's row counts.

    Beside `out` are merged the observations that lie beside the tables: of each cell those beside the first table that
    has any and the row that counts. Everything is read before the first table is written, so that `out` may be one of
    the merged.

    Raises:
        InputError: a cell stands in two tables that were evaluated on different held-out text; or beside `out` lie
            observations of a cell that is none of the merged, which would be lost.
    """
    read = [read_runs(path) for path in tables]
    everything = pd.concat(read)
    texts = everything.groupby("cell")["held_out"].nunique()
    if (texts > 1).any():
        raise InputError(
            "cell", texts.index[texts > 1][0], "was evaluated on different held-out text in two tables",
            "Merge tables of the same corpus.",
        )  # fmt: skip
    merged = everything.drop_duplicates("cell", keep="first")
    observations = {name: _merged_observations(name, tables, read, merged) for name in OBSERVATIONS}
    for name in OBSERVATIONS:
        path = out.parent / name
        if path.exists():
            others = set(read_observations(path)["cell"]) - set(merged["cell"])
            if others:
                raise InputError("cell", min(others), f"stands in {path} and in none of the tables", "Write elsewhere.")
    for name, found in observations.items():
        if found is not None:
            write_observations(name, found, out.parent)
    write_runs(merged.sort_values("cell"), out)
    print(f"{len(merged)} cells in {out}")


def _merged_observations(
    name: str, tables: list[Path], read: list[pd.DataFrame], merged: pd.DataFrame
) -> pd.DataFrame | None:
    """None where no such table lies beside any of the runs tables."""
    counted = pd.MultiIndex.from_frame(merged[TRAINING])
    parts: list[pd.DataFrame] = []
    known: set[str] = set()
    for path, table in zip(tables, read, strict=True):
        if (path.parent / name).exists():
            same = pd.MultiIndex.from_frame(table[TRAINING]).isin(counted)
            rows = read_observations(path.parent / name)
            rows = rows[rows["cell"].isin(set(table.loc[same, "cell"]) - known)]
            known |= set(rows["cell"])
            parts.append(rows)
    return pd.concat(parts).sort_values("cell", kind="stable") if parts else None

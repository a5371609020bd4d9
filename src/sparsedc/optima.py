"""How sparse, and over how many passes, by the measured runs alone: where losses are lowest, and what is as good.

The density of the lowest loss at each size, U and epochs; the epochs of the lowest at each size, density and U. Others
are told from the best by the noise between seeds, see `sparsedc.noise`: one is left out if its loss is beyond the
noise above any other, each of which is tested at its share of the level (Bonferroni). Of all that are left out over
densities, and of those over epochs, at most `LEVEL` are expected to be as good as the best (Benjamini and Hochberg).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsedc.atomic import whole
from sparsedc.noise import LEVEL, Noise, adjusted, compare, configurations, lowest
from sparsedc.words import density_label, text_grid, varying

#: The table of optima, one row each, with pandas dtypes; docs/runs.md says more.
COLUMNS: dict[str, str] = {
    "over": "string",  # density | epochs
    "held_out": "string",
    "method": "string",
    "size": "string",
    "density": "float64",  # blank where the optimum is over it
    "unique_tokens": "Int64",
    "epochs": "float64",  # the same
    "tried": "Int64",  # how many densities, or numbers of epochs
    "first": "float64",  # the smallest of them
    "last": "float64",  # the largest: dense where it was run, or most epochs
    "best": "float64",
    "alike": "string",  # those that are not told from the best, itself among them, with blanks between
    "loss": "float64",  # of the best, nats per token
    "rise": "float64",  # the loss at the last above it
    "rise_se": "float64",  # blank where the last is the best
}


def optima(runs: pd.DataFrame, noise: Noise | None = None) -> pd.DataFrame:
    """The columns of `COLUMNS`, with a row wherever there are several densities, or numbers of epochs, to choose from.

    Dense cells count among the densities of every method.

    Args:
        runs: as `sparsedc.law.table.read_table` reads them.
        noise: in place of that of these runs.
    """
    known = configurations(runs, noise)
    dense = known[known["density"] == 1]
    arms = [
        pd.concat([arm, dense.assign(method=method)]) for method, arm in known.groupby("method") if method != "dense"
    ]
    by_method = pd.concat(arms) if arms else known.iloc[:0]
    rows = [
        *_over("density", by_method, ["held_out", "method", "size", "unique_tokens", "epochs"]),
        *_over("epochs", known, ["held_out", "method", "size", "density", "unique_tokens"]),
    ]
    order = ["over", "held_out", "method", "unique_tokens", "total", "epochs", "density"]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "total"]).sort_values(order)
    return table.drop(columns="total").reset_index(drop=True).astype(COLUMNS)


def _over(over: str, known: pd.DataFrame, fixed: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    tests = []  # of each level in each row: the p of what it has, or more, if it were as good as any other
    for place, group in known.groupby(fixed):
        levels = pd.DataFrame([lowest(cells) for _, cells in group.groupby(over)])
        if len(levels) == 1:
            continue
        best, last = lowest(levels), levels.iloc[-1]
        for level in levels[over]:
            p = compare(group[group[over] == level], group[group[over] != level]).p_above
            tests.append((len(found), level, p))
        row = dict(zip(fixed, place, strict=True)) | {"over": over, "total": group["total"].iloc[0]}
        row |= {"tried": len(levels), "first": levels[over].iloc[0], "last": last[over], "best": best[over]}
        row |= {"loss": best["loss"], "rise": last["loss"] - best["loss"]}
        if last[over] != best[over]:
            row["rise_se"] = np.sqrt(best["variance"] + last["variance"])
        found.append(row)
    tested = pd.DataFrame(tests, columns=["row", "level", "p"])
    tested = tested[~(adjusted(tested["p"]) <= LEVEL)]
    for number, row in enumerate(found):
        row["alike"] = " ".join(f"{level:g}" for level in tested.loc[tested["row"] == number, "level"])
    return found


def write_optima(table: pd.DataFrame, path: Path) -> None:
    """Write a table of optima, whole or not at all."""
    with whole(path) as partial:
        table.to_csv(partial, index=False)


def render(table: pd.DataFrame) -> str:
    """Optima as text."""
    parts = []
    for over, other in (("density", "epochs"), ("epochs", "density")):
        found = table[table["over"] == over]
        if len(found):
            words = f"{over.capitalize()} of the lowest loss (and those not told from it), by {other}:"
            parts.append(f"{words}\n{_grid(found, over, other)}")
    return "\n\n".join(parts)


def _grid(found: pd.DataFrame, over: str, other: str) -> str:
    labels = {"density": density_label, "epochs": "{:.3g}".format}
    keys = [*varying(found, "held_out", "method"), "unique_tokens", "size"]
    cells = {}
    for row in found.to_dict("records"):
        best, *alike = (labels[over](level) for level in (row["best"], *map(float, row["alike"].split())))
        several = f" ({alike[0]} to {alike[-1]})" if len(alike) > 1 else ""
        # At the end of what was tried, what lies beyond may be better; beyond dense there is nothing.
        most = row["best"] == row["last"] and (over, row["last"]) != ("density", 1)
        end = "≤" if row["best"] == row["first"] else "≥" if most else ""
        cells[(*(row[key] for key in keys), row[other])] = (end + best + several).replace(" (dense)", "")
    return text_grid(cells, keys, labels[other], descending=other == "density")

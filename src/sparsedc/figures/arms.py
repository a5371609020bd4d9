"""What the figures of topology updates compare: arms, which are methods and policies for newborn weights, at one size,
budget and number of epochs."""

from dataclasses import dataclass

import pandas as pd

from sparsedc.figures import style
from sparsedc.words import count_label

#: in the order in which figures list them: from the mildest start of a newborn weight to the harshest
POLICIES = ("compounding", "linear", "reset", "naive")
_CONFIGURATION = ["size", "unique_tokens", "epochs"]


@dataclass(frozen=True)
class Compared:
    """The cells of one configuration."""

    rows: pd.DataFrame  # of the table of topology updates, each with its cell's columns of the runs table and `arm`
    controls: pd.DataFrame  # finished cells of the same configuration whose topology never changes
    colours: dict[str, str]  # arm → colour, in the legend's order
    label: str  # which configuration, of how many


def compared(runs: pd.DataFrame, table: pd.DataFrame) -> Compared | None:
    """The configuration that most cells with topology updates have, of several the one of most tokens; None if no
    finished cell has any.

    Args:
        runs: the finished cells of a runs table.
        table: topology.csv or stability.csv of the same study.
    """
    runs = runs.astype({"maskable_lr": "float64"})
    columns = ["cell", "method", "density", "maskable_lr", "tokens", "val_loss", *_CONFIGURATION]
    rows = table.merge(runs[columns], on="cell")
    if not len(rows):
        return None
    by_configuration = rows.groupby(_CONFIGURATION).agg(cells=("cell", "nunique"), tokens=("tokens", "max"))
    chosen = by_configuration.sort_values(["cells", "tokens"]).index[-1]
    rows = _of(rows, chosen)
    several = rows["method"].nunique() > 1, rows["newborn"].nunique() > 1
    parts = [part for part, wanted in zip(("method", "newborn"), several, strict=True) if wanted] or ["method"]
    # Where nothing is born, as under gmp, there is no policy.
    rows["arm"] = [
        ", ".join(part for part in row if isinstance(part, str)) for row in rows[parts].itertuples(index=False)
    ]
    places = rows["newborn"].map({policy: place for place, policy in enumerate(POLICIES)})
    order = rows.assign(place=places).sort_values(["method", "place"])["arm"].unique()
    controls = _of(runs, chosen)
    size, U, epochs = chosen
    label = f"{size}, U = {count_label(U)} tokens, {epochs:.3g} epoch{'s' if epochs != 1 else ''}"
    if len(by_configuration) > 1:
        label += f" (one of {len(by_configuration)} configurations)"
    return Compared(
        rows=rows,
        controls=controls[~controls["cell"].isin(table["cell"])],
        colours={arm: style.PALETTE[(i + 1) % len(style.PALETTE)] for i, arm in enumerate(order)},  # black: controls
        label=label,
    )


def _of(table: pd.DataFrame, chosen: tuple[str, int, float]) -> pd.DataFrame:
    agree = (table[_CONFIGURATION] == list(chosen)).all(axis=1)
    return table[agree].copy()

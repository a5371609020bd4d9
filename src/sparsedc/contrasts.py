"""Who wins, sparse or dense, by how much, and is it beyond the noise: from the measured runs alone, without a law.

A sparse model is set against dense ones that are its equal in one respect, see `COMPARISONS`; everything else that the
study varies on purpose, U above all, is the same. A contrast is the difference of the two losses, sparse − dense, in
nats per token: below 0 sparse is ahead.

Noise, and what it means to be the lowest of several, are those of `sparsedc.noise`. The difference is that of the two
lowest losses; its interval allows for their choice.

**Verdicts** hold the false discovery rate of each comparison, over all of its contrasts in the table, to `LEVEL`
(Benjamini and Hochberg 1995): of the verdicts other than undecided, at most that share is expected to be wrong, and
where nothing differs that is the chance of any. Contrasts that share a dense cell depend on each other positively,
under which the procedure holds in practice; a proof there is for one-sided tests. Intervals are of single contrasts.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsedc.atomic import whole
from sparsedc.errors import InputError
from sparsedc.noise import LEVEL, NO_NOISE, Mask, Noise, adjusted, compare, configurations, lowest
from sparsedc.words import text_grid, varying

#: Comparison → what is equal, as tables and figures call it.
#: equal_total: dense-equivalent size and epochs; the two have the same shape.
#: equal_active: active parameters (those at the end of training, where they fall), and epochs. Where no dense size is
#:     within `TOLERANCE`, the dense loss is interpolated in ln N between the next two. As far as is known the loss is
#:     convex in ln N, so that this is too high: it favours sparse. Therefore sparse is ahead only if it is also below
#:     the parabolas through these two and the next size on either side, if there is one.
#: equal_body: the same of the parameters outside embedding and head. A sparse model has those of a larger dense one,
#:     so that what it owes to them is counted against it in `equal_active` and not here.
#: equal_flops_dense: training FLOPs on hardware that multiplies zeros.
#: equal_flops_sparse: training FLOPs on ideal hardware, where a masked weight costs nothing.
#:     In these two the lowest loss of any size and number of epochs counts, at no more than a compute C: of dense
#:     cells, and of the sparse ones of one method and density. C is that of each sparse cell that is lower than all of
#:     its kind at no more compute. Where no dense cell has just C, the lowest dense loss is interpolated in ln C
#:     between the next computes that dense cells have; dense is then ahead only by the lowest at the lower of these.
#:     What dense models could reach at C, those tell that have more: sparse is ahead only if it is below all dense
#:     losses up to the next compute, C or above, of a dense cell with at least as many epochs. Cells of fewer do not
#:     tell, as a smaller model that repeats its data may be better than these; and where there is none of as many,
#:     nothing does, and sparse is never ahead.
COMPARISONS = {
    "equal_total": "equal total parameters",
    "equal_active": "equal active parameters",
    "equal_body": "equal active parameters of the body",
    "equal_flops_dense": "equal FLOPs, zeros multiplied",
    "equal_flops_sparse": "equal FLOPs, zeros free",
}
#: parameters or FLOPs that differ by less, as a share, are equal
TOLERANCE = 0.02
VERDICTS = ("sparse", "dense", "undecided")

#: The table of contrasts, one row each, with pandas dtypes; docs/runs.md says more.
COLUMNS: dict[str, str] = {
    "comparison": "string",
    # the sparse cell; of several settings of rates, or at equal FLOPs of sizes and epochs, the one of the lowest loss
    "held_out": "string",
    "method": "string",
    "size": "string",
    "density": "float64",
    "unique_tokens": "Int64",
    "epochs": "float64",
    "dense": "string",  # the dense size or sizes, with their shares where interpolated, and epochs where others
    "matched": "string",  # equal | interpolated
    "sparse_at": "float64",  # what is equal: parameters, or FLOPs
    "dense_at": "float64",
    "sparse_loss": "float64",  # mean over seeds, nats per token
    "dense_loss": "float64",
    "sparse_seeds": "Int64",
    "dense_seeds": "Int64",  # of both sizes together where interpolated
    "sparse_of": "Int64",  # how many configurations it is the lowest of
    "dense_of": "Int64",  # the sizes of an interpolation together
    "difference": "float64",  # sparse − dense, nats per token
    "sparse_se": "float64",  # standard error of the mean, from the noise of its side
    "dense_se": "float64",
    "se": "float64",  # of the difference of these two
    "low": "float64",  # 95 % interval of the difference, the choice of the lowest included
    "high": "float64",  # ∞ where nothing tells how low dense might be
    "p": "float64",  # two-sided
    "p_adjusted": "float64",  # Benjamini–Hochberg, within the comparison
    "verdict": "string",
    "reason": "string",  # why undecided
    "seeded": "string",  # sides of which the size was run with several seeds: both | sparse | dense | neither
}
#: (of sparse, of dense) whether the size was run with several seeds → the word for it
SEEDED = {(True, True): "both", (True, False): "sparse", (False, True): "dense", (False, False): "neither"}


# ------------------------------------------------------------------------------------------------------- contrasts


@dataclass(frozen=True)
class _Dense:
    """The dense side of a contrast: of configurations, or of interpolations, with the columns of `_interpolated`, the
    one that is stated, and those that decide."""

    cells: pd.DataFrame
    stated: "pd.Series[Any] | None" = None
    matched: str = "equal"
    attained: Mask | None = None  # see `compare`
    reason: str = ""  # why there is none, or why sparse cannot be ahead

    @classmethod
    def of(cls, cells: pd.DataFrame) -> "_Dense":
        """Of the configurations that are the sparse one's equals."""
        return cls(cells, lowest(cells))

    @classmethod
    def none(cls, reason: str) -> "_Dense":
        return cls(pd.DataFrame(), reason=reason)


def contrasts(runs: pd.DataFrame, noise: Noise | None = None) -> pd.DataFrame:
    """Every sparse configuration against dense, at each of `COMPARISONS`: the columns of `COLUMNS`.

    A sparse cell without a dense equal has a row, too, whose reason says what is missing. Methods are contrasted with
    dense one by one. Only cells of the same held-out text meet.

    Args:
        runs: as `sparsedc.law.table.read_table` reads them.
        noise: in place of that of these runs.
    """
    known = configurations(runs, noise)
    rows = []
    for _, at_U in known.groupby(["held_out", "unique_tokens"]):
        dense = at_U[at_U["density"] == 1]
        for _, arm in at_U[at_U["density"] < 1].groupby(["method", "density"]):
            for (size, epochs), sparse in arm.groupby(["size", "epochs"]):
                beside = dense[dense["epochs"] == epochs]
                rows.append(_row("equal_total", _labelled(sparse, "total"), _same_size(beside, str(size))))
                for comparison in ("equal_active", "equal_body"):
                    count = comparison.removeprefix("equal_")
                    if sparse[count].notna().all():
                        rows.append(_row(comparison, _labelled(sparse, count), _same(beside, sparse, count)))
            for comparison in ("equal_flops_dense", "equal_flops_sparse"):
                flops = comparison.removeprefix("equal_")
                costed = arm[arm[flops] > 0]
                for C in _improvements(costed, flops):
                    within = costed[costed[flops] <= C * (1 + TOLERANCE)]
                    rows.append(_row(comparison, _labelled(within, flops), _up_to(dense, within, flops, C)))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    if len(table):
        table["p_adjusted"] = table.groupby("comparison")["p"].transform(adjusted)
    undecided = ~(table["p_adjusted"] <= LEVEL)
    table.loc[undecided, "verdict"] = "undecided"
    table.loc[table["difference"].notna() & table["se"].isna(), "reason"] = NO_NOISE
    table.loc[undecided & (table["reason"] == ""), "reason"] = "within the noise"
    order = table["comparison"].map({name: place for place, name in enumerate(COMPARISONS)})
    keys = ["order", "held_out", "method", "unique_tokens", "sparse_at", "density", "epochs"]
    return table.assign(order=order).sort_values(keys).drop(columns="order").reset_index(drop=True)


def _labelled(cells: pd.DataFrame, at: str) -> pd.DataFrame:
    return cells.assign(at=cells[at], label=cells["size"])


def _row(comparison: str, sparse: pd.DataFrame, dense: _Dense) -> dict[str, Any]:
    best, stated = lowest(sparse), dense.stated
    row: dict[str, Any] = {
        name: best[name] for name in ("held_out", "method", "size", "density", "unique_tokens", "epochs")
    }
    row |= {f"sparse_{name}": best[name] for name in ("at", "loss", "seeds")}
    row |= {"comparison": comparison, "sparse_of": len(sparse), "dense_of": 0, "p": np.nan, "reason": dense.reason}
    if stated is None:
        return row
    row |= {f"dense_{name}": stated[name] for name in ("at", "loss", "seeds")}
    row |= {f"{side}_se": np.sqrt(cell["variance"]) for side, cell in (("sparse", best), ("dense", stated))}
    found = compare(sparse, dense.cells, dense.attained)
    return row | {
        "dense": stated["label"],
        "matched": dense.matched,
        "dense_of": len(dense.cells) if dense.attained is None else int(dense.attained.sum()),
        "difference": best["loss"] - stated["loss"],
        "se": np.sqrt(best["variance"] + stated["variance"]),
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "verdict": "sparse" if found.p_below < found.p_above else "dense",
        "reason": dense.reason if best["loss"] < stated["loss"] else "",
        "seeded": SEEDED[bool(best["seeded"]), bool(stated["seeded"])],
    }


def _interpolated(cells: pd.DataFrame, x: str, at: float) -> dict[str, object]:
    """The loss at x = `at` by the polynomial in ln x through these two or three cells; a row as `_Dense` has them."""
    places = np.log(cells[x].to_numpy(dtype=np.float64))
    shares = np.array(
        [np.prod([(np.log(at) - other) / (own - other) for other in places if other != own]) for own in places]
    )
    return {
        "loss": float((shares * cells["loss"]).sum()),
        "variance": float((shares**2 * cells["variance"]).sum(skipna=False)),
        "freedom": cells["freedom"].iloc[0],  # all are dense, with one noise
        "noise": cells["noise"].iloc[0],
        "seeds": cells["seeds"].sum(),
        "seeded": cells["seeded"].all(),
        "at": at,
        "label": " + ".join(f"{share:.2f} × {label}" for share, label in zip(shares, cells["label"], strict=True)),
    }


def _same_size(dense: pd.DataFrame, size: str) -> _Dense:
    same = dense[dense["size"] == size]
    return _Dense.of(_labelled(same, "total")) if len(same) else _Dense.none("no dense cell of this size, U and epochs")


def _same(dense: pd.DataFrame, sparse: pd.DataFrame, count: str) -> _Dense:
    """Dense cells of about as many parameters by `count`; or, of the next two sizes, each pair of settings
    interpolated."""
    n = float(sparse[count].iloc[0])
    dense = _labelled(dense, count)
    off = np.log(dense[count] / n)
    if (off.abs() <= np.log1p(TOLERANCE)).any():
        return _Dense.of(dense[off.abs() == off.abs().min()])
    sizes = [cells for _, cells in dense.groupby(count)]
    below = sum(float(cells[count].iloc[0]) < n for cells in sizes)
    if not 0 < below < len(sizes):
        extreme = "few" if sizes and not below else "many"
        reason = f"no dense cell of as {extreme} active parameters at this U and epochs"
        return _Dense.none(reason if sizes else "no dense cell of this U and epochs")
    settings = itertools.product(sizes[below - 1].index, sizes[below].index)
    pairs = pd.DataFrame([_interpolated(dense.loc[list(pair)], count, n) for pair in settings])
    of_size = pd.DataFrame([lowest(cells) for cells in sizes])
    wider = [of_size[max(below - 2, 0) : below + 1], of_size[below - 1 : below + 2]]
    curved = [_interpolated(three, count, n) for three in wider if len(three) == 3]
    return _Dense(
        pd.concat([pairs, pd.DataFrame(curved)], ignore_index=True),
        lowest(pairs),
        "interpolated",
        np.arange(len(pairs) + len(curved)) < len(pairs),
    )


def _improvements(arm: pd.DataFrame, flops: str) -> list[float]:
    """The computes of those cells that have the lowest loss of all at no more compute."""
    cost, loss = arm[flops].to_numpy(), arm["loss"].to_numpy()
    reached = np.array([loss[cost <= own * (1 + TOLERANCE)].min() for own in cost])
    return sorted(set(cost[loss == reached].tolist()))


def _up_to(dense: pd.DataFrame, sparse: pd.DataFrame, flops: str, C: float) -> _Dense:
    """Dense cells of any size and epochs, at a compute of C or less, and above it those that tell what dense might
    reach there: up to the next of at least as many epochs as the sparse side's lowest."""
    costed = dense[dense[flops] > 0]
    labels = [f"{size}, {epochs:g} ep." for size, epochs in zip(costed["size"], costed["epochs"], strict=True)]
    costed = costed.assign(at=costed[flops], label=labels)
    cost = costed[flops].to_numpy()
    within, beyond = cost <= C * (1 + TOLERANCE), cost >= C / (1 + TOLERANCE)
    if not within.any() or not beyond.any():
        extreme = "little" if beyond.any() else "much"
        return _Dense.none(f"no dense cell of as {extreme} compute at this U" if len(cost) else "no dense FLOPs known")
    stated, matched = lowest(costed[within]), "equal"
    if not (within & beyond).any():
        matched = "interpolated"
        levels = cost[within].max(), cost[beyond].min()
        ends = [lowest(costed[cost <= level]) for level in levels]
        if ends[0].name != ends[1].name:
            stated = pd.Series(_interpolated(pd.DataFrame(ends).assign(**{flops: levels}), flops, C))
    telling = cost[beyond & (costed["epochs"].to_numpy() >= lowest(sparse)["epochs"])]
    allowed = within | (cost <= min(telling, default=np.inf))
    cells, attained = costed[allowed], within[allowed]
    if len(telling):
        return _Dense(cells, stated, matched, attained)
    cells = pd.concat([cells, cells[:1].assign(loss=-np.inf)])
    reason = "no dense cell of as much compute and as many epochs tells what dense might reach"
    return _Dense(cells, stated, matched, np.append(attained, False), reason)


# ----------------------------------------------------------------------------------------------- reading and telling


def write_contrasts(table: pd.DataFrame, path: Path) -> None:
    """Write a table of contrasts, whole or not at all."""
    with whole(path) as partial:
        table.to_csv(partial, index=False)


def read_contrasts(path: Path) -> pd.DataFrame:
    """Read a table of contrasts.

    Raises:
        InputError: there is no such file, or it is not that table.
    """
    remedy = "Make it with `sparsedc runs contrast`."
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in COLUMNS if name != "reason"})
    except FileNotFoundError as error:
        raise InputError("contrasts", path, "no such file", remedy) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError("contrasts", path, "not a CSV table", remedy) from error
    if list(table.columns) != list(COLUMNS):
        raise InputError("contrasts", path, "is not the table of contrasts", remedy)
    try:
        return table.astype(COLUMNS)
    except (ValueError, TypeError) as error:
        raise InputError("contrasts", path, f"holds a value of the wrong type ({error})", remedy) from error


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """The contrasts that have a dense side."""
    return table[table["difference"].notna()]


def tally(table: pd.DataFrame) -> dict[str, int]:
    """Verdict → how many of these contrasts have it."""
    counts = table["verdict"].value_counts()
    return {verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS}


def lower(table: pd.DataFrame) -> str:
    """In how many of these contrasts the sparse loss is the lower one, which without noise is all that can be said."""
    return f"{int((table['difference'] < 0).sum())} of {len(table)}"


def render(table: pd.DataFrame, noise: Noise | None) -> str:
    """Verdicts counted, as text."""
    if not len(table):
        return "No contrasts: the table has no finished sparse cell."
    said = f"No verdicts: {NO_NOISE}, so that nothing says what a difference is worth."
    what = "Contrasts with sparse lower"
    if noise:
        said = f"{noise.words()}.\n"
        said += f"At most {LEVEL:.0%} of a comparison's verdicts are expected to be wrong (Benjamini–Hochberg)."
        what = "Contrasts with sparse ahead / dense ahead / undecided"
    parts, known = [said], compared(table)
    if len(known):
        keys = ["comparison", *varying(known, "held_out", "method"), "unique_tokens"]
        words = {  # as the table is in order of comparisons, so are the lines
            (COMPARISONS[str(key[0])], *key[1:]): " / ".join(map(str, tally(part).values())) if noise else lower(part)
            for key, part in known.groupby([*keys, "epochs"], sort=False)
        }
        grid = text_grid(words, keys, "{:.3g}".format)
        parts.append(f"{what}, by epochs:\n{grid}")
    decided = known[known["verdict"] != "undecided"]
    if len(decided):
        counts = decided["seeded"].value_counts()
        of_sides = ", ".join(f"{side} {counts.get(side, 0)}" for side in SEEDED.values())
        parts.append(f"Verdicts by the sides of which the size was run with several seeds: {of_sides}.")
    if len(known) < len(table):
        parts.append(f"Of {len(table)} contrasts {len(table) - len(known)} have no dense side and are not counted.")
    return "\n\n".join(parts)

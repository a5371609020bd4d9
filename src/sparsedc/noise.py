"""Losses as measured, configuration by configuration, and what of their differences is beyond the noise between seeds.

**Noise** is the spread between seeds (`sparsedc.law.validate.seed_noise`), pooled over all configurations with several
on either side, dense or sparse: dense models can have twice the spread of sparse ones. A mean over n seeds has the
standard error sd / √n with the sd of its side, and intervals are Student's; where the two sides meet, with Welch's
degrees of freedom (Satterthwaite). A side without several seeds is taken to be as noisy as the other. Within a side all
configurations are, so that where one is noisier, its own differences are less certain than they look.

Cells are judged on the same held-out documents, so that what another choice of documents would change is common to both
and largely cancels; `val_loss_se` is therefore left out. Seeds of any two configurations are taken for independent.
Equal seeds share the order of the data, which makes intervals too wide rather than too narrow.

**A lowest loss** is a minimum over noisy ones and so too low, the more so the more there are. Where one of two has
several configurations of which its lowest counts, the other is ahead only if it is below every one of them, which needs
no correction; and the one itself is ahead only if one of them is, where each of k is tested at 1/k of the level
(Bonferroni). Intervals are the same bounds turned round.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special, stats

from sparsedc.law.counts import count_params, default_convention
from sparsedc.law.validate import CONFIGURATION, SeedNoise, seed_noise

#: expected share of false verdicts; intervals hold 1 − LEVEL
LEVEL = 0.05
NO_NOISE = "no configuration was run with several seeds"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Noise:
    """Spread of held-out loss between seeds of one configuration, pooled on either side; None where that has none."""

    dense: SeedNoise | None
    sparse: SeedNoise | None
    seeded: frozenset[tuple[str, str]] = frozenset()  # (side, size) of the configurations with several seeds

    def source(self, side: str) -> str:
        """Whose noise is taken for that of a side: its own, or that of the only one that has any."""
        return side if self.dense and self.sparse else "dense" if self.dense else "sparse"

    def of(self, side: str) -> SeedNoise:
        noise = getattr(self, self.source(side))
        assert isinstance(noise, SeedNoise)
        return noise

    def words(self) -> str:
        """Both, for people."""
        told = [
            f"{side} {noise.sd:.4f} nats (SD, {noise.freedom} degrees of freedom)"
            for side, noise in (("dense", self.dense), ("sparse", self.sparse))
            if noise
        ]
        alone = "" if len(told) == 2 else ", taken for both sides, as the other has no configuration of several seeds"
        return f"Noise between seeds: {', '.join(told)}{alone}"


def noise_of(runs: pd.DataFrame) -> Noise | None:
    """The noise that these runs are judged by; None where there is none. A side whose seeds all give one loss has
    none."""
    finished = runs[runs["status"] == "ok"]
    found: dict[str, SeedNoise | None] = {}
    seeded = set()
    for side, cells in (("dense", finished[finished["density"] == 1]), ("sparse", finished[finished["density"] < 1])):
        noise = seed_noise(cells)
        found[side] = noise if noise and noise.sd > 0 else None
        if found[side]:
            seeded |= {(side, str(size)) for size, part in cells.groupby("size") if seed_noise(part)}
    return Noise(found["dense"], found["sparse"], frozenset(seeded)) if any(found.values()) else None


def configurations(runs: pd.DataFrame, noise: Noise | None = None) -> pd.DataFrame:
    """One row a configuration with a finished cell, of whatever role.

    Runs of one configuration and seed, which differ in something that the table does not say, count as one seed, with
    their mean; where there is no column `seed`, so do all runs of a configuration.

    Args:
        runs: as `sparsedc.law.table.read_table` reads them.
        noise: in place of that of these runs.

    Returns:
        held_out, method, size, density, unique_tokens, epochs, active (parameters), body (of these without embedding
        and head; NaN where the table does not tell), total (dense-equivalent parameters, of the body where it is
        told), flops_dense, flops_sparse, loss (mean over seeds) and seeds. Of that mean further, without noise all NaN
        or empty: variance (nats²), freedom (degrees of it), noise (whose the variance is, `dense` or `sparse`) and
        seeded (whether its size, on its side, was among those that the noise is from).
    """
    noise = noise or noise_of(runs)
    finished = runs[runs["status"] == "ok"].reset_index(drop=True)
    active = count_params(finished, "active")
    body = count_params(finished, "body") if default_convention(finished) == "body" else np.full_like(active, np.nan)
    known = finished.assign(
        held_out=finished["held_out"].fillna("") if "held_out" in finished else "",
        unique_tokens=finished["unique_tokens"].round().astype("int64"),
        epochs=finished["epochs"].round(3),  # in a table that gives tokens only, whole steps make them uneven
        active=active,
        body=body,
        seed=finished["seed"].fillna("") if "seed" in finished else "",
    )
    for column in ("flops_dense", "flops_sparse"):
        known[column] = known.get(column, np.nan)
    N = known["body"].fillna(known["active"])
    by_size = known.assign(dense=N.where(known["density"] == 1), ratio=N / known["density"])
    medians = by_size.groupby("size")[["dense", "ratio"]].transform("median")
    known["total"] = medians["dense"].fillna(medians["ratio"])  # a ratio is off by the norms, which no mask covers
    same = [column for column in CONFIGURATION if column in known] + ["epochs"]
    of_seed = known.groupby([*same, "seed"], dropna=False, sort=False)
    counts = ["active", "body", "total", "flops_dense", "flops_sparse"]
    by_seed = of_seed[["val_loss", *counts]].mean().reset_index()
    groups = by_seed.groupby(same, dropna=False, sort=False)
    each = {"loss": ("val_loss", "mean"), "seeds": ("val_loss", "size"), **{name: (name, "first") for name in counts}}
    found = groups.agg(**each).reset_index()
    sides = ["dense" if density == 1 else "sparse" for density in found["density"]]
    found["variance"] = np.array([noise.of(side).sd ** 2 if noise else np.nan for side in sides]) / found["seeds"]
    found["freedom"] = np.array([noise.of(side).freedom if noise else np.nan for side in sides])
    found["noise"] = [noise.source(side) if noise else "" for side in sides]
    of_size = zip(sides, found["size"].astype(str), strict=True)
    found["seeded"] = np.array([noise is not None and place in noise.seeded for place in of_size], dtype=bool)
    where = ["held_out", "method", "size", "density", "unique_tokens", "epochs"]
    return found[[*where, *counts, "loss", "seeds", "variance", "freedom", "noise", "seeded"]]


def lowest(cells: pd.DataFrame) -> "pd.Series[Any]":
    """The row of the lowest loss."""
    return cells.iloc[int(cells["loss"].to_numpy().argmin())]


@dataclass(frozen=True)
class Difference:
    """How the lowest of some losses compares with the lowest of others, in nats per token."""

    low: float  # of the interval of the first less the second
    high: float
    p_below: float  # one-sided: of losses like these, or more so, if the first is not below the second
    p_above: float

    @property
    def p(self) -> float:
        """Two-sided."""
        return float(np.minimum(1.0, 2 * np.minimum(self.p_below, self.p_above)))


def compare(some: pd.DataFrame, others: pd.DataFrame, attained: Mask | None = None) -> Difference:
    """Whether the lowest loss of `some` is below that of `others`, or above it; all NaN without noise.

    Args:
        some, others: with columns loss, variance, freedom and noise, as `configurations` has them. A loss of −∞ is one
            that nobody knows.
        attained: which of the others may show them to be lower; the rest are what they might at best have reached, and
            `some` are to be below these, too.
    """
    attained = np.ones(len(others), dtype=bool) if attained is None else attained
    own, other = (
        {name: cells[name].to_numpy() for name in ("loss", "variance", "freedom", "noise")} for cells in (some, others)
    )
    own = {name: values[:, None] for name, values in own.items()}
    difference, variance = own["loss"] - other["loss"], own["variance"] + other["variance"]
    welch = variance**2 / (own["variance"] ** 2 / own["freedom"] + other["variance"] ** 2 / other["freedom"])
    # Two variances from one estimate have its degrees of freedom and no more.
    freedom = np.where(own["noise"] == other["noise"], own["freedom"], welch)
    se = np.sqrt(variance)
    n_some, n_others = len(some), int(attained.sum())
    reach_some, reach_others = (-special.stdtrit(freedom, LEVEL / 2 / n) * se for n in (n_some, n_others))
    below, above = special.stdtr(freedom, difference / se), special.stdtr(freedom, -difference / se)
    return Difference(
        low=float((difference - reach_others)[:, attained].min(axis=0).max()),
        high=float((difference + reach_some).max(axis=1).min()),
        p_below=float(np.minimum(1.0, n_some * below.max(axis=1).min())),
        p_above=float(np.minimum(1.0, n_others * above[:, attained].max(axis=0).min())),
    )


def adjusted(p: pd.Series) -> pd.Series:
    """Benjamini and Hochberg's, of those that are there."""
    known = p.dropna()
    if not len(known):
        return p
    return pd.Series(stats.false_discovery_control(known.to_numpy()), known.index).reindex(p.index)

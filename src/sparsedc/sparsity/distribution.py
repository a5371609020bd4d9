"""How many weights each layer keeps: a distribution of one overall density over the layers.

A distribution is a function of a layer's shape that says in what proportion layers share the active weights;
`layer_counts` does the rest: caps, exact totals, rounding. Arithmetic is on integers and fractions, so that
counts are the same on every machine and whatever order the layers come in. This module imports no torch.
"""

from collections.abc import Callable
from fractions import Fraction
from math import floor

from sparsedc.errors import InputError


def uniform(rows: int, columns: int) -> int:
    """Every layer at the same density: active weights in proportion to size."""
    return rows * columns


def erk(rows: int, columns: int) -> int:
    """Erdős–Rényi-kernel (Mocanu et al. 2018; Evci et al. 2020, arXiv 1911.11134).

    Density in proportion to (rows + columns) / (rows · columns), so active weights in proportion to
    rows + columns: the same number for each input and output unit, and small layers stay denser.
    """
    return rows + columns


DISTRIBUTIONS: dict[str, Callable[[int, int], int]] = {"uniform": uniform, "erk": erk}


def layer_counts(shapes: dict[str, tuple[int, int]], density: float, distribution: str) -> dict[str, int]:
    """Active weights of each layer, which sum to exactly round(density × all weights).

    A layer whose share exceeds its size is full, and the others share the rest in the same proportion.
    Fractions are rounded by largest remainder, ties by layer name.

    Args:
        shapes: (rows, columns) of each maskable layer, by name.
        density: active share of all maskable weights, in (0, 1].
        distribution: a key of DISTRIBUTIONS.

    Raises:
        InputError: an unknown distribution, a density outside (0, 1] or one that leaves a layer empty.
    """
    if distribution not in DISTRIBUTIONS:
        raise InputError(
            "distribution", distribution, "unknown distribution", f"Use one of {', '.join(DISTRIBUTIONS)}."
        )
    if not 0 < density <= 1:
        raise InputError("density", density, "not in (0, 1]", "Give the share of weights to keep, such as 0.25.")
    if not shapes or any(rows < 1 or columns < 1 for rows, columns in shapes.values()):
        raise InputError("shapes", shapes, "no layers, or an empty one", "Give at least one (rows, columns).")

    names = sorted(shapes)
    sizes = {name: shapes[name][0] * shapes[name][1] for name in names}
    shares = {name: DISTRIBUTIONS[distribution](*shapes[name]) for name in names}
    total = round(density * sum(sizes.values()))

    quotas = _share_out(total, shares, sizes)
    counts = {name: floor(quotas[name]) for name in names}
    by_remainder = sorted(names, key=lambda name: counts[name] - quotas[name])  # stable: ties by name
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1

    if empty := [name for name in names if counts[name] == 0]:
        raise InputError(
            "density",
            density,
            f"leaves {len(empty)} of {len(names)} layers without a weight, {empty[0]} among them",
            "Use a higher density, a larger model or another distribution.",
        )
    return counts


def _share_out(total: int, shares: dict[str, int], sizes: dict[str, int]) -> dict[str, Fraction]:
    """Split `total` in proportion to `shares`, nobody above their size; sums to `total` exactly.

    Filling a layer only raises what the others get, so a layer that was full stays full, and since `total`
    is at most the sum of sizes some layer always stays free until the split fits.
    """
    full: dict[str, Fraction] = {}
    while True:
        free = [name for name in shares if name not in full]
        unit = (total - sum(full.values(), Fraction())) / sum(shares[name] for name in free)
        over = [name for name in free if unit * shares[name] > sizes[name]]
        if not over:
            return full | {name: unit * shares[name] for name in free}
        full |= {name: Fraction(sizes[name]) for name in over}

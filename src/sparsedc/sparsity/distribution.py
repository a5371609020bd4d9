"""How many blocks of weights each layer keeps: a distribution of one overall density over the layers.

A distribution is a function of a layer that says in what proportion layers share the active weights;
`layer_counts` does the rest: caps, exact totals, rounding. Weights are kept or left out in blocks, of one weight
unless said otherwise. Arithmetic is on integers and fractions, so that counts are the same on every machine and
whatever order the layers come in. This module imports no torch.
"""

from collections.abc import Callable
from fractions import Fraction
from math import floor, inf

from sparsedc.errors import InputError, one_of


def uniform(name: str, rows: int, columns: int, ratio: Fraction) -> int:
    """Every layer at the same density: active weights in proportion to size."""
    return rows * columns


def erk(name: str, rows: int, columns: int, ratio: Fraction) -> int:
    """Erdős–Rényi-kernel (Mocanu et al. 2018; Evci et al. 2020, arXiv 1911.11134).

    Density in proportion to (rows + columns) / (rows · columns), so active weights in proportion to
    rows + columns: the same number for each input and output unit, and small layers stay denser.
    """
    return rows + columns


def attention(name: str, rows: int, columns: int, ratio: Fraction) -> Fraction:
    """One density for the projections of attention and one for all others, `ratio` times as high in attention."""
    return rows * columns * (ratio if _in_attention(name) else Fraction(1))


def _in_attention(name: str) -> bool:
    return "self_attn" in name


Distribution = Callable[[str, int, int, Fraction], int | Fraction]
DISTRIBUTIONS: dict[str, Distribution] = {"uniform": uniform, "erk": erk, "attention": attention}


def active_blocks(blocks: int, density: float) -> int:
    """How many of so many blocks are active at a density."""
    return round(density * blocks)


def layer_counts(
    shapes: dict[str, tuple[int, int]],
    density: float,
    distribution: str,
    *,
    block: tuple[int, int] = (1, 1),
    attention_ratio: float = 1.0,
) -> dict[str, int]:
    """Active blocks of each layer, which sum to exactly round(density × all blocks).

    A layer whose share exceeds its size is full, and the others share the rest in the same proportion.
    Fractions are rounded by largest remainder, ties by layer name.

    Args:
        shapes: (rows, columns) of each maskable layer, by name.
        density: active share of all maskable weights, in (0, 1].
        distribution: a key of DISTRIBUTIONS.
        block: (rows, columns) of the weights that are active together; it tiles every layer.
        attention_ratio: of the distribution `attention`, density in attention over density elsewhere, before caps.

    Raises:
        InputError: an unknown distribution, a density outside (0, 1], a density or ratio that leaves a layer empty, a
            block that does not tile a layer, or a ratio that is not positive.
    """
    if distribution not in DISTRIBUTIONS:
        raise InputError("distribution", distribution, "unknown distribution", one_of(distribution, DISTRIBUTIONS))
    if not 0 < density <= 1:
        raise InputError("density", density, "not in (0, 1]", "Give the share of weights to keep, such as 0.25.")
    if not shapes or any(rows < 1 or columns < 1 for rows, columns in shapes.values()):
        raise InputError("shapes", shapes, "no layers, or an empty one", "Give at least one (rows, columns).")
    if not 0 < attention_ratio < inf:
        raise InputError(
            "attention_ratio", attention_ratio, "not above 0", "Give density in attention over density elsewhere."
        )

    names = sorted(shapes)
    sizes = {name: _blocks_in(name, shapes[name], block) for name in names}
    ratio = Fraction(str(attention_ratio))  # 0.1 means a tenth, not the binary fraction beside it
    shares = {name: DISTRIBUTIONS[distribution](name, *shapes[name], ratio) for name in names}
    total = active_blocks(sum(sizes.values()), density)

    quotas = _share_out(total, shares, sizes)
    counts = {name: floor(quotas[name]) for name in names}
    by_remainder = sorted(names, key=lambda name: counts[name] - quotas[name])  # stable: ties by name
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1

    if empty := [name for name in names if counts[name] == 0]:
        problem = f"leaves {len(empty)} of {len(names)} layers without a {_called(block)}, {empty[0]} among them"
        if distribution == "attention" and ratio != 1 and total * min(sizes.values()) >= sum(sizes.values()):
            raise InputError(
                "attention_ratio", attention_ratio, f"at density {density}, {problem}",
                "Give one nearer to 1, or use a larger model or smaller blocks.",
            )  # fmt: skip
        raise InputError(
            "density", density, problem, "Use a higher density, a larger model, smaller blocks or another distribution."
        )
    return counts


def attention_ratios(
    shapes: dict[str, tuple[int, int]], density: float, block: tuple[int, int] = (1, 1)
) -> tuple[Fraction, Fraction | float]:
    """The lowest and the highest `attention_ratio` that a model can have at a density.

    At these all layers but those of attention are full, or all of attention; beyond, `layer_counts` gives the same
    counts whatever the ratio.
    """
    sizes = {name: _blocks_in(name, shape, block) for name, shape in shapes.items()}
    within = sum(size for name, size in sizes.items() if _in_attention(name))
    elsewhere = sum(sizes.values()) - within
    total = active_blocks(within + elsewhere, density)
    lowest = max(Fraction(total - elsewhere, within), Fraction(0))
    return lowest, Fraction(elsewhere, total - within) if total > within else inf


def _blocks_in(name: str, shape: tuple[int, int], block: tuple[int, int]) -> int:
    """How many blocks tile a layer."""
    if min(block) < 1 or shape[0] % block[0] or shape[1] % block[1]:
        raise InputError(
            "block",
            f"{block[0]} × {block[1]}",
            f"does not tile {name}, which has {shape[0]} rows and {shape[1]} columns",
            "Give rows and columns that divide those of every maskable matrix.",
        )
    return shape[0] // block[0] * (shape[1] // block[1])


def _called(block: tuple[int, int]) -> str:
    return "weight" if block == (1, 1) else f"block of {block[0]} × {block[1]}"


def _share_out(total: int, shares: dict[str, int | Fraction], sizes: dict[str, int]) -> dict[str, Fraction]:
    """Split `total` in proportion to `shares`, nobody above their size; sums to `total` exactly.

    Filling a layer only raises what the others get, so a layer that was full stays full, and since `total`
    is at most the sum of sizes some layer always stays free until the split fits.
    """
    full: dict[str, Fraction] = {}
    while True:
        free = [name for name in shares if name not in full]
        unit = (total - sum(full.values(), Fraction())) / sum((shares[name] for name in free), Fraction())
        over = [name for name in free if unit * shares[name] > sizes[name]]
        if not over:
            return full | {name: unit * shares[name] for name in free}
        full |= {name: Fraction(sizes[name]) for name in over}

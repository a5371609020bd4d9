"""Counts per layer: exact totals, caps, rounding against a search of all counts, ERK against bisection."""

from fractions import Fraction
from itertools import combinations, product
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedc.errors import InputError
from sparsedc.sparsity.distribution import DISTRIBUTIONS, active_blocks, attention_ratios, layer_counts

NAMES = st.builds(lambda part, name: part + name, st.sampled_from(["", "self_attn."]), st.text("abc", min_size=1))
SHAPES = st.dictionaries(NAMES, st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=8)
BLOCKS = st.sampled_from([(1, 1), (1, 16), (3, 1), (2, 5)])
RATIOS = st.sampled_from([1.0, 0.1, 0.3, 2.5, 7.0, 1e-5]) | st.floats(0.01, 100)


def tiled(shapes: dict[str, tuple[int, int]], block: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Layers of as many blocks as these have weights."""
    return {name: (rows * block[0], columns * block[1]) for name, (rows, columns) in shapes.items()}


def share(name: str, shape: tuple[int, int], distribution: str, ratio: float) -> Fraction:
    """In what proportion layers share active weights, from the definitions: density × size."""
    rows, columns = shape
    density = {
        "uniform": Fraction(1),
        "erk": Fraction(rows + columns, rows * columns),
        "attention": Fraction(repr(ratio)) if "self_attn" in name else Fraction(1),
    }
    return density[distribution] * rows * columns


def quotas_by_subsets(total: int, shares: dict[str, Fraction], sizes: dict[str, int]) -> dict[str, Fraction]:
    """Try every set of full layers: the right one leaves no other over its size, and each of its own at least there."""
    for number in range(len(sizes) + 1):
        for full in combinations(sizes, number):
            free = [name for name in sizes if name not in full]
            rest = total - sum(sizes[name] for name in full)
            unit = Fraction(rest) / sum(shares[name] for name in free) if free else None
            if unit is None and rest == 0:
                return {name: Fraction(size) for name, size in sizes.items()}
            if unit is None or any(unit * shares[name] > sizes[name] for name in free):
                continue
            if all(unit * shares[name] >= sizes[name] for name in full):
                return {name: Fraction(sizes[name]) if name in full else unit * shares[name] for name in sizes}
    raise AssertionError("no set of full layers fits")


def erk_by_bisection(shapes: dict[str, tuple[int, int]], density: float) -> dict[str, float]:
    """Σ min(size, unit · (rows + columns)) grows with `unit`: bisect it to the wanted total."""
    total = density * sum(r * c for r, c in shapes.values())
    low, high = 0.0, 1e6
    for _ in range(200):
        unit = (low + high) / 2
        if sum(min(r * c, unit * (r + c)) for r, c in shapes.values()) < total:
            low = unit
        else:
            high = unit
    return {name: min(r * c, unit * (r + c)) for name, (r, c) in shapes.items()}


@given(SHAPES, st.floats(0.01, 1), st.sampled_from(sorted(DISTRIBUTIONS)), BLOCKS, RATIOS)
def test_totals_are_exact_and_layers_within_bounds(
    shapes: dict[str, tuple[int, int]], density: float, distribution: str, block: tuple[int, int], ratio: float
) -> None:
    """`shapes` are in blocks."""
    layers = tiled(shapes, block)
    try:
        counts = layer_counts(layers, density, distribution, block=block, attention_ratio=ratio)
    except InputError:  # so few blocks that some layer would have none: see the next test
        return
    assert counts.keys() == shapes.keys()
    assert sum(counts.values()) == round(density * sum(r * c for r, c in shapes.values()))
    assert all(1 <= counts[name] <= r * c for name, (r, c) in shapes.items())
    reverse = dict(reversed(layers.items()))
    assert layer_counts(reverse, density, distribution, block=block, attention_ratio=ratio) == counts


@given(
    st.dictionaries(NAMES, st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4),
    st.floats(0.2, 1), st.sampled_from(sorted(DISTRIBUTIONS)), BLOCKS, RATIOS,
)  # fmt: skip
def test_counts_are_the_whole_numbers_closest_to_the_quotas(
    shapes: dict[str, tuple[int, int]], density: float, distribution: str, block: tuple[int, int], ratio: float
) -> None:
    """Of all counts with the right total, none has a smaller sum of squared distances from exact quotas."""
    sizes = {name: rows * columns for name, (rows, columns) in shapes.items()}
    total = round(density * sum(sizes.values()))
    layers = tiled(shapes, block)
    shares = {name: share(name, shape, distribution, ratio) for name, shape in layers.items()}
    quotas = quotas_by_subsets(total, shares, sizes)

    def distance(counts: dict[str, int]) -> Fraction:
        return sum(((counts[name] - quotas[name]) ** 2 for name in sizes), Fraction())

    candidates = (dict(zip(sizes, counts, strict=True)) for counts in product(*(range(n + 1) for n in sizes.values())))
    best = min(distance(counts) for counts in candidates if sum(counts.values()) == total)
    try:
        counts = layer_counts(layers, density, distribution, block=block, attention_ratio=ratio)
    except InputError:
        assert any(quota < 1 for quota in quotas.values())
        return
    assert distance(counts) == best


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.05, 0.3), st.floats(0.2, 3), BLOCKS)
def test_attention_has_its_ratio_where_no_layer_is_full(
    attention: int, others: int, density: float, ratio: float, block: tuple[int, int]
) -> None:
    """Densities by solving a d_a + o d_o = (a + o) d and d_a = ratio d_o; counts are within one block of them."""
    names = [f"{i}.self_attn" for i in range(attention)] + [f"{i}.mlp" for i in range(others)]
    layers = tiled(dict.fromkeys(names, (20, 30)), block)
    elsewhere = density * (attention + others) / (attention * ratio + others)
    if max(elsewhere, elsewhere * ratio) > 0.99:
        return
    counts = layer_counts(layers, density, "attention", block=block, attention_ratio=ratio)
    for name, count in counts.items():
        # One for rounding the layer's quota, one for rounding the total.
        assert abs(count - 600 * elsewhere * (ratio if "self_attn" in name else 1)) < 2


def test_attention_by_value() -> None:
    shapes = {"layers.0.self_attn.q_proj": (10, 10), "layers.0.mlp.up_proj": (20, 10)}
    # 300 weights at 0.2 are 60; shares are 0.5 × 100 and 200.
    expected = {"layers.0.self_attn.q_proj": 12, "layers.0.mlp.up_proj": 48}
    assert layer_counts(shapes, 0.2, "attention", attention_ratio=0.5) == expected
    # A ratio of 4 would give attention 2/3 of 240: it is full, and the rest is elsewhere.
    expected = {"layers.0.self_attn.q_proj": 100, "layers.0.mlp.up_proj": 140}
    assert layer_counts(shapes, 0.8, "attention", attention_ratio=4) == expected


@given(st.integers(1, 5), st.integers(1, 5), st.floats(0.05, 0.999), BLOCKS, RATIOS)
def test_ratios_within_the_bounds_are_those_that_overfill_no_layer(
    attention: int, others: int, density: float, block: tuple[int, int], ratio: float
) -> None:
    """By the quotas without any cap."""
    shapes = {f"{i}.self_attn": (20, 30) for i in range(attention)} | {f"{i}.mlp": (15, 20) for i in range(others)}
    lowest, highest = attention_ratios(tiled(shapes, block), density, block)
    sizes = {name: rows * columns for name, (rows, columns) in shapes.items()}
    total = active_blocks(sum(sizes.values()), density)

    def overfills(ratio: Fraction) -> bool:
        shares = {name: size * (ratio if "self_attn" in name else 1) for name, size in sizes.items()}
        return any(total * shares[name] > sizes[name] * sum(shares.values()) for name in sizes)

    assert (lowest <= Fraction(str(ratio)) <= highest) != overfills(Fraction(str(ratio)))
    assert 0 <= lowest <= 1 <= highest
    if lowest:
        assert not overfills(lowest)
        assert overfills(lowest * Fraction(99, 100))
    if isinstance(highest, Fraction):
        assert not overfills(highest)
        assert overfills(highest * Fraction(101, 100))


def test_bounds_of_the_ratio_by_value() -> None:
    shapes = {"self_attn": (10, 10), "mlp": (20, 10)}
    # 150 of 300: attention is full at 100 beside 50 of 200. 240: that, beside 140; elsewhere is full beside 40.
    assert attention_ratios(shapes, 0.5) == (0, 4)
    assert attention_ratios(shapes, 0.8) == (Fraction(2, 5), Fraction(10, 7))
    assert attention_ratios(shapes, 0.25) == (0, float("inf"))


def test_a_ratio_is_the_decimal_that_was_written() -> None:
    """Shares 3 and 9 of a total of 6 are a tie, 1.5 and 4.5, which goes by name; the binary 0.1 is above a tenth."""
    shapes = {"b.self_attn": (3, 10), "a.mlp": (3, 3)}
    assert layer_counts(shapes, 6 / 39, "attention", attention_ratio=0.1) == {"a.mlp": 5, "b.self_attn": 1}


def test_the_ratio_matters_to_attention_alone() -> None:
    shapes = {"self_attn": (10, 10), "mlp": (20, 30)}
    for distribution in ("uniform", "erk"):
        counts = layer_counts(shapes, 0.3, distribution)
        assert layer_counts(shapes, 0.3, distribution, attention_ratio=0.2) == counts
    assert layer_counts(shapes, 0.3, "attention") == layer_counts(shapes, 0.3, "uniform")


def test_erk_of_blocks_is_by_rows_and_columns_of_weights() -> None:
    """Shares 64 + 32 and 32 + 256 of 160 blocks at density 1/2; in blocks they would be 64 + 2 and 32 + 16."""
    layers = {"a": (64, 32), "b": (32, 256)}
    assert layer_counts(layers, 0.5, "erk", block=(1, 16)) == {"a": 80, "b": 240}


@given(shapes=SHAPES, density=st.floats(0.3, 1))
def test_erk_agrees_with_bisection(shapes: dict[str, tuple[int, int]], density: float) -> None:
    try:
        counts = layer_counts(shapes, density, "erk")
    except InputError:
        return
    expected = erk_by_bisection(shapes, density)
    # Rounding of the total moves quotas by less than one, rounding of the quotas by less than one more.
    assert all(abs(counts[name] - expected[name]) < 2 for name in shapes)


def test_erk_fills_small_layers_and_rescales_the_rest() -> None:
    # Shares are rows + columns: 4, 128 and 128. 1038 weights would give the 2×2 layer 15.97, so it is full.
    shapes = {"small": (2, 2), "a": (64, 64), "b": (64, 64)}
    assert layer_counts(shapes, 0.1267, "erk") == {"small": 4, "a": 517, "b": 517}


def test_uniform_is_the_same_density_everywhere() -> None:
    assert layer_counts({"a": (10, 10), "b": (20, 30)}, 0.25, "uniform") == {"a": 25, "b": 150}


def test_largest_remainder_breaks_ties_by_name() -> None:
    # Quotas 1.5 each, total 3.
    assert layer_counts({"b": (1, 3), "a": (3, 1)}, 0.5, "uniform") == {"a": 2, "b": 1}


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_density_one_is_dense(distribution: str) -> None:
    assert layer_counts({"a": (3, 7), "b": (1, 1)}, 1.0, distribution) == {"a": 21, "b": 1}


def test_rounded_counts_stay_within_one_of_their_quota() -> None:
    counts = layer_counts({str(i): (7, 11) for i in range(9)}, 0.3, "uniform")
    assert set(counts.values()) <= {floor(0.3 * 77), floor(0.3 * 77) + 1}


@pytest.mark.parametrize(
    ("shapes", "density", "distribution", "field"),
    [
        ({"a": (4, 4)}, 0.5, "er", "distribution"),
        ({"a": (4, 4)}, 0.0, "erk", "density"),
        ({"a": (4, 4)}, 1.1, "erk", "density"),
        ({"a": (4, 4)}, float("nan"), "erk", "density"),
        ({"a": (1, 1), "b": (100, 100)}, 0.01, "uniform", "density"),
        ({}, 0.5, "erk", "shapes"),
        ({"a": (0, 4)}, 0.5, "erk", "shapes"),
    ],
)
def test_bad_input(shapes: dict[str, tuple[int, int]], density: float, distribution: str, field: str) -> None:
    with pytest.raises(InputError) as error:
        layer_counts(shapes, density, distribution)
    assert error.value.field == field


@pytest.mark.parametrize("block", [(1, 16), (3, 1), (0, 1), (1, -1)])
def test_a_block_that_does_not_tile_a_layer(block: tuple[int, int]) -> None:
    with pytest.raises(InputError) as error:
        layer_counts({"a": (12, 32), "odd": (8, 24)}, 0.5, "uniform", block=block)
    assert error.value.field == "block"
    for word in (f"block = {block[0]} × {block[1]}", "rows and", "columns", "divide those of every maskable matrix"):
        assert word in str(error.value)
    if min(block) > 0:
        assert "odd, which has 8 rows and 24 columns" in str(error.value)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_a_ratio_that_is_not_positive(ratio: float, distribution: str) -> None:
    with pytest.raises(InputError, match=rf"attention_ratio = {ratio}: not .*density in attention over") as error:
        layer_counts({"a": (4, 4)}, 0.5, distribution, attention_ratio=ratio)
    assert error.value.field == "attention_ratio"


def test_layers_without_a_block_are_named() -> None:
    shapes = {"large": (64, 64), "small": (2, 16), "other": (2, 16)}
    with pytest.raises(InputError, match=r"density = 0\.1: leaves 1 of 3 layers without a block of 2 × 16, small") as e:
        layer_counts({**shapes, "other": (16, 16)}, 0.1, "uniform", block=(2, 16))
    assert "smaller blocks" in str(e.value)
    with pytest.raises(InputError, match="leaves 2 of 3 layers without a weight, other among them"):
        layer_counts(shapes, 0.01, "uniform")


@pytest.mark.parametrize(
    ("density", "ratio", "field"),
    [(0.25, 1e9, "attention_ratio"), (0.25, 1e-9, "attention_ratio"), (0.001, 2, "density"), (0.001, 1, "density")],
)
def test_what_leaves_a_layer_empty_is_named(density: float, ratio: float, field: str) -> None:
    """The ratio, unless the density is too low for any."""
    shapes = {"self_attn": (10, 10), "mlp": (20, 10)}
    with pytest.raises(InputError, match="of 2 layers without a weight") as raised:
        layer_counts(shapes, density, "attention", attention_ratio=ratio)
    assert raised.value.field == field

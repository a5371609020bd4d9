"""Counts and FLOPs by arithmetic, against the model that is really built and the operations that it really does."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparsedc.config import Shape
from sparsedc.errors import InputError
from sparsedc.model import (
    LADDER,
    build_model,
    count_parameters,
    find_shape,
    maskable_shapes,
    maskable_weights,
    six_nd,
    training_flops,
)

SMALL = ["13k", "50k", "100k", "200k", "400k", "800k", "1m8"]
PAPER = ["20m", "40m", "60m", "120m", "240m", "480m", "960m", "1b92", "3b84"]
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def meta_model(shape: Shape, vocab_size: int) -> torch.nn.Module:
    """The model of `build_model`, without memory for its weights."""
    with torch.device("meta"):
        return build_model(shape, vocab_size, sequence_length=64, init_std=0.02, seed=0)


def check_counts(model: torch.nn.Module, shape: Shape, vocab_size: int) -> None:
    """Brute force over the built model's parameters, sorted into the four kinds by the end of their names."""
    counts = count_parameters(shape, vocab_size)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    projections = {name: n for name, n in sizes.items() if name.split(".")[-2] in PROJECTIONS}
    norms = sum(n for name, n in sizes.items() if "norm" in name)
    assert counts.total == sum(sizes.values())
    assert counts.embedding == sizes["model.embed_tokens.weight"]
    assert counts.head == sizes["lm_head.weight"]  # there, so not tied to the embedding
    assert counts.norms == norms
    assert counts.maskable == sum(projections.values())
    shapes = maskable_shapes(shape)
    assert shapes == {n: tuple(p.shape) for n, p in model.named_parameters() if n in projections}
    assert not [name for name in sizes if name.endswith("bias")]


@pytest.mark.parametrize("vocab_size", [257, 1024])
@pytest.mark.parametrize("size", SMALL)
def test_counts_are_the_built_models(size: str, vocab_size: int) -> None:
    check_counts(build_model(LADDER[size], vocab_size, 64, 0.02, 0), LADDER[size], vocab_size)


@pytest.mark.parametrize("size", sorted(LADDER.keys() - set(SMALL), key=list(LADDER).index))
def test_counts_are_the_models_without_memory(size: str) -> None:
    check_counts(meta_model(LADDER[size], 32000), LADDER[size], 32000)


def written(size: str) -> float:
    """The number that a size's name spells: 1b92 is 1.92 × 10⁹."""
    for letter, factor in (("k", 1e3), ("m", 1e6), ("b", 1e9)):
        whole, found, part = size.partition(letter)
        if found:
            return float(f"{whole}.{part or 0}") * factor
    raise AssertionError(size)


def test_names_say_how_many_parameters() -> None:
    """Small sizes, and the paper's from 960m up, are named after their maskable parameters."""
    body = {size: count_parameters(shape, 32000).maskable for size, shape in LADDER.items()}
    for size in ("960m", "1b92", "3b84", "7b68"):
        assert body[size] == pytest.approx(written(size), rel=0.01)
    for size in LADDER.keys() - set(PAPER):
        assert body[size] == pytest.approx(written(size), rel=0.12)


def test_the_papers_body_counts() -> None:
    """depth × (4 width² + 3 width × ffn), written out for the released configurations."""
    expected = {
        "20m": 4 * (4 * 256**2 + 3 * 256 * 688),
        "40m": 8 * (4 * 512**2 + 3 * 512 * 1024),
        "60m": 11 * (4 * 640**2 + 3 * 640 * 1920),
        "120m": 15 * (4 * 768**2 + 3 * 768 * 2560),
        "240m": 18 * (4 * 896**2 + 3 * 896 * 3584),
        "480m": 21 * (4 * 1280**2 + 3 * 1280 * 4224),
        "960m": 24 * (4 * 1792**2 + 3 * 1792 * 5120),
        "1b92": 30 * (4 * 2304**2 + 3 * 2304 * 6144),
        "3b84": 34 * (4 * 3072**2 + 3 * 3072 * 8192),
        "7b68": 38 * (4 * 4096**2 + 3 * 4096 * 11008),
    }
    assert {size: count_parameters(LADDER[size], 32000).maskable for size in expected} == expected


def test_the_documented_ladder_is_the_ladder() -> None:
    """Every number of the table in docs/studies.md."""
    text = (Path(__file__).parents[1] / "docs" / "studies.md").read_text()
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `") and line.count("|") == 9
    ]
    found = {size.strip("`"): [int(number.replace(",", "")) for number in numbers] for size, *numbers in rows}
    assert list(found) == list(LADDER)
    for size, (width, depth, heads, ffn, maskable, vocabulary, total) in found.items():
        shape = Shape(width=width, depth=depth, heads=heads, ffn=ffn)
        counts = count_parameters(shape, vocabulary)
        assert (shape, maskable, total) == (LADDER[size], counts.maskable, counts.total)
        assert total == maskable + 2 * vocabulary * width + (2 * depth + 1) * width


def test_ladder_has_no_size_twice_and_heads_divide_widths() -> None:
    assert len({tuple(shape.model_dump().values()) for shape in LADDER.values()}) == len(LADDER)
    assert all(shape.width % (2 * shape.heads) == 0 for shape in LADDER.values())


@pytest.mark.parametrize("size", ["13k", "100k", "400k"])
@pytest.mark.parametrize(("sequences", "length"), [(3, 32), (1, 80)])
def test_flops_are_those_of_a_real_forward_and_backward_pass(size: str, sequences: int, length: int) -> None:
    """Attention as plain matrix products, so that the counter sees the full square and backward is twice forward."""
    shape, vocab_size = LADDER[size], 300
    model = build_model(shape, vocab_size, length, 0.02, 0)
    ids = torch.zeros(sequences, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = model(ids).logits
        # The angles of the rotary positions are an outer product of frequencies and positions, without backward.
        rotary = 2 * (shape.width // shape.heads // 2) * length
        forward = counter.get_total_flops() - rotary
        logits.float().logsumexp(-1).sum().backward()
    both = counter.get_total_flops() - rotary
    assert both == 3 * forward
    assert both == training_flops(shape, vocab_size, length, tokens=sequences * length)


def test_flops_grow_with_tokens_and_shrink_with_density() -> None:
    shape, vocab_size, length = LADDER["400k"], 1024, 128
    counts = count_parameters(shape, vocab_size)
    dense = training_flops(shape, vocab_size, length, 10_000)
    assert training_flops(shape, vocab_size, length, 30_000) == 3 * dense
    assert training_flops(shape, vocab_size, length, 10_000, counts.maskable) == dense
    sparse = [
        training_flops(shape, vocab_size, length, 10_000, round(share * counts.maskable)) for share in (0.1, 0.5, 0.9)
    ]
    assert sorted(sparse) == sparse
    assert sparse[-1] < dense
    # What a masked weight saves is one multiply-add forward and two backward.
    assert dense - training_flops(shape, vocab_size, length, 10_000, counts.maskable - 7) == 7 * 6 * 10_000


def test_six_nd_is_the_matrix_products_without_attention() -> None:
    """6 N D over head and body is the exact count less the attention's part, which shrinks as models grow."""
    assert six_nd(7e9, 1e12) == 4.2e22
    ratios = []
    for size in ("20m", "240m", "3b84"):
        counts = count_parameters(LADDER[size], 32000)
        exact = training_flops(LADDER[size], 32000, 1024, 10**6)
        ratios.append(exact / six_nd(counts.head + counts.maskable, 1e6))
    assert all(ratio > 1 for ratio in ratios)
    assert ratios == sorted(ratios, reverse=True)


def test_active_parameters_leave_out_what_is_masked() -> None:
    counts = count_parameters(LADDER["50k"], 512)
    assert counts.active(counts.maskable) == counts.total
    assert counts.active(0) == counts.embedding + counts.head + counts.norms


def state(seed: int, init_std: float = 0.02) -> dict[str, torch.Tensor]:
    return build_model(LADDER["13k"], 300, 64, init_std, seed).state_dict()


def test_a_seed_fixes_the_weights_and_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one = state(seed=5)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(456)
    again, other = state(seed=5), state(seed=6)
    assert all(one[name].equal(again[name]) for name in one)
    assert not any(one[name].equal(other[name]) for name in one if "norm" not in name)


def test_weights_start_in_fp32_at_the_given_spread() -> None:
    weights = state(seed=0, init_std=0.05)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    for name, weight in weights.items():
        if "norm" in name:
            assert weight.eq(1).all()
        else:
            assert weight.std().item() == pytest.approx(0.05, rel=0.1)
            assert weight.mean().item() == pytest.approx(0, abs=0.005)


def test_maskable_weights_are_the_models_own() -> None:
    model = build_model(LADDER["50k"], 300, 64, 0.02, 0)
    weights = maskable_weights(model, LADDER["50k"])
    assert list(weights) == list(maskable_shapes(LADDER["50k"]))
    parameters = dict(model.named_parameters())
    assert all(weights[name] is parameters[name] for name in weights)


def test_a_token_sees_only_what_came_before() -> None:
    model = build_model(LADDER["50k"], 300, 16, 0.1, 0).eval()
    ids = torch.arange(16)[None]
    changed = ids.clone()
    changed[0, 9] = 200
    with torch.no_grad():
        one, other = model(ids).logits, model(changed).logits
    assert one[:, :9].equal(other[:, :9])
    assert (one[:, 9:] != other[:, 9:]).any(-1).all()


def test_an_unknown_size_names_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"size = 9k: no such size.* 50k, .*`ladder`"):
        find_shape("9k", LADDER)

"""The LLaMA ladder: sizes by name, exact parameter counts, exact FLOPs, and the model itself.

Counts and FLOPs are plain arithmetic, so that studies are planned without importing torch; only `build_model`
needs it. Blocks are LLaMA's: RMSNorm, rotary attention with four square projections, RMSNorm, a gated
feed-forward layer of three projections; embedding and head are untied, nothing has a bias.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sparsedc.config import Shape
from sparsedc.errors import InputError, one_of

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM


def _shape(width: int, depth: int, heads: int, ffn: int) -> Shape:
    return Shape(width=width, depth=depth, heads=heads, ffn=ffn)


#: Size name -> shape. Small sizes are named after their maskable parameters, within 11 %. The nine from 20m to 3b84
#: are the released configurations of "When Data Is Scarce" (ICML 2026), under their own names; 7b68 is the shape of
#: its largest validation point (7.68B, of which no configuration was released), chosen here.
LADDER: dict[str, Shape] = {
    "13k": _shape(32, 1, 2, 96),
    "25k": _shape(32, 2, 2, 96),
    "50k": _shape(48, 2, 3, 128),
    "100k": _shape(64, 2, 4, 176),
    "200k": _shape(96, 2, 6, 256),
    "400k": _shape(128, 2, 4, 352),
    "800k": _shape(128, 4, 4, 352),
    "1m8": _shape(192, 4, 6, 512),
    "3m": _shape(256, 4, 8, 672),
    "6m": _shape(320, 5, 10, 864),
    "12m": _shape(384, 7, 6, 1024),
    "32m": _shape(512, 10, 8, 1376),
    "85m": _shape(768, 12, 12, 2048),
    "20m": _shape(256, 4, 4, 688),
    "40m": _shape(512, 8, 8, 1024),
    "60m": _shape(640, 11, 10, 1920),
    "120m": _shape(768, 15, 12, 2560),
    "240m": _shape(896, 18, 14, 3584),
    "480m": _shape(1280, 21, 20, 4224),
    "960m": _shape(1792, 24, 28, 5120),
    "1b92": _shape(2304, 30, 36, 6144),
    "3b84": _shape(3072, 34, 32, 8192),
    "7b68": _shape(4096, 38, 32, 11008),
}


@dataclass(frozen=True)
class ParameterCounts:
    """Exact parameter counts of a model, zeros of a sparse one included."""

    embedding: int
    head: int
    maskable: int  # the seven projections of every block
    norms: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.maskable + self.norms

    def active(self, active_maskable: int) -> int:
        """Parameters that are not masked out, when `active_maskable` of the maskable ones are active."""
        return self.total - self.maskable + active_maskable


@lru_cache  # the cells of a study share few
def count_parameters(shape: Shape, vocab_size: int) -> ParameterCounts:
    return ParameterCounts(
        embedding=vocab_size * shape.width,
        head=vocab_size * shape.width,
        maskable=sum(rows * columns for rows, columns in maskable_shapes(shape).values()),
        norms=(2 * shape.depth + 1) * shape.width,
    )


def maskable_shapes(shape: Shape) -> dict[str, tuple[int, int]]:
    """Name -> (rows, columns) of every maskable matrix, under its name in `LlamaForCausalLM`."""
    square, up, down = (shape.width, shape.width), (shape.ffn, shape.width), (shape.width, shape.ffn)
    projections = {f"self_attn.{name}_proj": square for name in "qkvo"}
    projections |= {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": down}
    return {
        f"model.layers.{block}.{name}.weight": size
        for block in range(shape.depth)
        for name, size in projections.items()
    }


def training_flops(
    shape: Shape, vocab_size: int, sequence_length: int, tokens: int, active_maskable: float | None = None
) -> float:
    """FLOPs of training on `tokens`: matrix products of forward and backward, a multiply-add counted as two.

    Backward costs twice the forward pass. Attention is counted over the full square of positions, as dense
    hardware computes it. Norms, activations, softmax and the optimizer are left out, as is customary.

    Args:
        active_maskable: with ideal sparse hardware, only these of the maskable weights cost anything;
            None counts every weight, as dense hardware does.
    """
    counts = count_parameters(shape, vocab_size)
    weights = counts.head + (counts.maskable if active_maskable is None else active_maskable)
    attention = 2 * shape.depth * sequence_length * shape.width  # scores, and their product with the values
    return 3.0 * 2.0 * (weights + attention) * tokens


def six_nd(params: float, tokens: float) -> float:
    """The customary approximation C = 6 N D (Kaplan et al. 2020)."""
    return 6.0 * params * tokens


def find_shape(size: str, ladder: dict[str, Shape], field: str = "size") -> Shape:
    """The shape of a size that `field` names.

    Raises:
        InputError: no such size.
    """
    if size not in ladder:
        raise InputError(field, size, "no such size", f"{one_of(size, ladder)} Or add it under `ladder`.")
    return ladder[size]


def llama_config(shape: Shape, vocab_size: int, sequence_length: int, init_std: float) -> "LlamaConfig":
    """The configuration of a size's model in transformers."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=sequence_length,
        initializer_range=init_std,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def build_model(shape: Shape, vocab_size: int, sequence_length: int, init_std: float, seed: int) -> "LlamaForCausalLM":
    """A freshly initialised fp32 model on the CPU; the same seed gives the same weights on every machine."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(llama_config(shape, vocab_size, sequence_length, init_std)).float()


def maskable_weights(model: "LlamaForCausalLM", shape: Shape) -> "dict[str, torch.nn.Parameter]":
    """The maskable parameters of a model by name, each of shape (rows, columns)."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in maskable_shapes(shape)}

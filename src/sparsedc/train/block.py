"""A LLaMA block with fewer matrix products: queries, keys and values come from one, gate and up from another.

transformers' own block multiplies its input by each matrix, and adds up the gradients that come back of each. One
product with the matrices side by side is faster, and its gradient is summed within the product, in float32.
"""

import torch
from torch import Tensor
from torch.nn import Linear, functional
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb


def block(layer: LlamaDecoderLayer, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What the layer makes of `hidden`, [sequences, sequence length, width], each position seeing those before it.

    Args:
        cos, sin: of the rotary embedding, [1, sequence length, width of a head].
    """
    attention, mlp = layer.self_attn, layer.mlp
    states = layer.input_layernorm(hidden)
    heads = (
        part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for part in side_by_side(states, attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key, value = heads
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=attention.scaling)
    hidden = hidden + attention.o_proj(seen.transpose(1, 2).flatten(2))
    gate, up = side_by_side(layer.post_attention_layernorm(hidden), mlp.gate_proj, mlp.up_proj)
    made: Tensor = hidden + mlp.down_proj(mlp.act_fn(gate) * up)
    return made


def side_by_side(states: Tensor, *projections: Linear) -> tuple[Tensor, ...]:
    """What each projection makes of the states."""
    product = functional.linear(states, torch.cat([projection.weight for projection in projections]))
    return torch.split(product, [projection.out_features for projection in projections], dim=-1)

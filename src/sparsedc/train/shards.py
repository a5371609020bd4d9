"""A dense model too large for one device, in shards: every rank holds its part of each weight, gradient and AdamW
moment, all float32, and whole weights exist a block at a time, while the block works (PyTorch's FSDP2).

Sparse cells need none of this, since their state is small. A checkpoint holds whole tensors, and so fits any number
of ranks, with shards or without.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from sparsedc.train import memory
from sparsedc.train.ranks import Ranks
from sparsedc.train.step import Loss

STATE_BYTES = 16  # a parameter: weight, gradient and two moments


def fits(parameters: int, device: torch.device) -> bool:
    """Does dense training leave half of the device's memory to activations?"""
    return STATE_BYTES * parameters <= memory.capacity(device) / 2


def shard(loss: Loss, ranks: Ranks, device: torch.device) -> None:
    """Leave each rank its part of a model that all have alike, wherever it is, and move that to `device`.

    Gradients are averaged over the ranks from here on. Parameters are other objects afterwards; every pass is the
    work of all ranks together.
    """
    mesh = init_device_mesh(device.type, (ranks.size,))
    for block in loss.body.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(loss, mesh=mesh)
    register_fsdp_forward_method(loss, "of_tokens")


def gathered(state: dict[str, Any], keep: bool) -> dict[str, Any]:
    """A state with whole tensors, in host memory, for its shards; None for these unless `keep`. All ranks call this."""

    def whole(tensor: DTensor) -> Tensor | None:
        full = tensor.full_tensor()
        return full.cpu() if keep else None

    result: dict[str, Any] = tree_map_only(DTensor, whole, state)
    return result


def placed(whole: Tensor, parameter: Tensor) -> Tensor:
    """Of a whole tensor, what belongs to a parameter that may be a shard: its part, if they are of one shape."""
    if not isinstance(parameter, DTensor) or whole.shape != parameter.shape:
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)

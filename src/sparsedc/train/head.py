"""Cross-entropy over a vocabulary, exact, without ever holding all logits: on a GPU they are most of a small model.

Gradients are made in the forward pass, a stretch of tokens at a time, in place of the logits, as in Liger-Kernel
(Hsu et al. 2024, arXiv 2410.10989).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LOGITS_AT_ONCE = 2**28


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ weight.T`, multiplied in bfloat16, on a GPU.

    Args of `apply`:
        hidden: [tokens, width].
        weight: [vocabulary, width].
        targets: [tokens], int64.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        from sparsedc.kernels import softmax_gradient_  # Triton comes with torch's CUDA builds only

        with torch.autocast("cuda", enabled=False):
            states, matrix = hidden.bfloat16(), weight.bfloat16()
            tokens = max(1, LOGITS_AT_ONCE // len(weight))
            losses, of_hidden, of_weight = [], [], None
            for part, target in zip(torch.split(states, tokens), torch.split(targets, tokens), strict=True):
                logits = part @ matrix.T
                losses.append(softmax_gradient_(logits, target, 1 / len(hidden)))
                of_hidden.append(logits @ matrix)
                product = logits.T @ part
                of_weight = product.to(weight.dtype) if of_weight is None else of_weight.add_(product)
            ctx.save_for_backward(torch.cat(of_hidden).to(hidden.dtype), of_weight)
            return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        of_hidden, of_weight = ctx.saved_tensors
        return of_hidden * gradients[0], of_weight * gradients[0], None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same by PyTorch's own operations, in whatever type autocast says."""
    return functional.cross_entropy(functional.linear(hidden, weight).float(), targets)

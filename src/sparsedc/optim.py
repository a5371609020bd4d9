"""AdamW that lets a weight be born during training.

Adam divides its moments by 1 − β^t because they start at zero. A weight that a topology update grows starts
at zero moments too, but at a late t, where that division does nothing: with a constant gradient its first
update is (1 − β₁)/√(1 − β₂) learning rates, which is 3.16 at β₂ = 0.999 (and soon 6.6) and 0.45 at β₂ = 0.95.
In groups marked `aged`, each weight counts t from its own birth, and its first update is one learning rate,
like any weight's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from sparsedc.errors import InputError


class AdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101): weight decay apart from the gradient.

    Each parameter group may set `lr`, `weight_decay` and `aged`. Groups that are not aged are stepped by
    torch's own AdamW, bit for bit. Aged groups hold the state `exp_avg`, `exp_avg_sq` and `age`, each of the
    weight's shape; `age` counts steps since birth. An inactive weight (weight, gradient and moments zero)
    stays exactly zero: 0 / (0 + eps) is 0, and so is a decayed 0.

    Args:
        params: parameters or parameter groups; float32, so that the moments are: in bfloat16, v × 0.999
            rounds back to v and second moments never decay.
        fused: step groups that are not aged with torch's fused CUDA kernel.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        aged: bool = False,
        fused: bool = False,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise InputError("betas", betas, "not in [0, 1)", "Give two decay rates, such as (0.9, 0.95).")
        for field, value in {"lr": lr, "weight_decay": weight_decay}.items():
            if not 0 <= value < math.inf:
                raise InputError(field, value, "negative or not finite", "Give a number of at least 0.")
        if not 0 < eps < math.inf:
            raise InputError("eps", eps, "not positive", "Give a small number, such as 1e-8.")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"aged": aged, "fused": fused})
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.dtype != torch.float32:
                raise InputError(
                    "params", p.dtype, "not float32", "Keep weights in float32 and use autocast for speed."
                )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["aged"]:
                self._step_aged(group, params)
            else:
                self._step_plain(group, params)
        return loss

    @torch.no_grad()
    def forget(self, param: Tensor, where: Tensor) -> None:
        """Make weights newborn: moments zero, and age zero in an aged group.

        Args:
            param: a parameter; before its first step it has no state, and nothing to forget.
            where: bool, of the parameter's shape.
        """
        for key in ("exp_avg", "exp_avg_sq", "age"):
            if key in self.state[param]:
                self.state[param][key].masked_fill_(where, 0)

    def _step_plain(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    # torch keeps the step on the CPU unless its fused kernel reads it.
                    "step": torch.zeros((), device=p.device if group["fused"] else "cpu"),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [p.grad for p in params if p.grad is not None],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            fused=group["fused"] or None,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _step_aged(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                # Age in float32: exact to 2^24 steps, and load_state_dict would cast an integer to it anyway.
                self.state[p] = {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq", "age")}
        # A GPU is quicker with one launch for all tensors, a CPU with one tensor in its cache.
        for batch in [params] if params and params[0].is_cuda else [[p] for p in params]:
            self._step_batch(group, batch)

    def _step_batch(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        grads = [p.grad for p in params if p.grad is not None]
        means = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        ages = [self.state[p]["age"] for p in params]

        torch._foreach_add_(ages, 1)
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)

        scale = torch._foreach_div(squares, _decay_minus_one(ages, beta2))
        torch._foreach_neg_(scale)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        descent = torch._foreach_div(means, _decay_minus_one(ages, beta1))

        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(params, descent, scale, lr)  # the minus is in `descent`


def _decay_minus_one(ages: list[Tensor], beta: float) -> list[Tensor]:
    """β^age − 1, minus the bias correction; 1 − β^age itself would lose five digits in float32 at age 1."""
    result = torch._foreach_mul(ages, math.log(beta) if beta > 0 else -math.inf)
    torch._foreach_expm1_(result)
    return list(result)

"""AdamW that keeps state only where weights live, and lets a weight be born during training.

Adam divides its moments by 1 − β^t because they start at zero. A weight that a topology update grows starts at zero
moments too, but at a late t, where that division does nothing: with a constant gradient its first update is
(1 − β₁)/√(1 − β₂) learning rates, which is 3.16 at β₂ = 0.999 (and soon 6.6). Here each block counts its age from
its own birth, and a policy says what Adam makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from sparsedc.config import MAX_AGE, NewbornPolicy
from sparsedc.errors import InputError, one_of

CHUNK = 2**25  # weights that are stepped at once: bounds the memory of intermediate results

Tables = tuple[Tensor, Tensor, Tensor | None]  # by age; see SparseAdamW._tables
POLICIES: tuple[NewbornPolicy, ...] = get_args(NewbornPolicy)


@dataclass(frozen=True)
class Newborn:
    """How Adam treats a weight that was born during training.

    reset: bias correction from the weight's own birth, so that its first update is one learning rate.
    naive: bias correction by the global step, as an optimizer that knows nothing of births does.
    linear: reset, and the update of a weight of age t is multiplied by min(t / ramp_steps, 1) (SMET, arXiv
        2606.00888).
    compounding: reset, and the first moment itself is multiplied by min(t / ramp_steps, 1) at every step, as SMET's
        released code does, so that the factors accumulate.

    Weights that have been active since the first step are never slowed.
    """

    policy: NewbornPolicy = "reset"
    ramp_steps: int = 100

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InputError("newborn", self.policy, "unknown policy", one_of(self.policy, POLICIES))
        if not 1 <= self.ramp_steps <= MAX_AGE:
            raise InputError("ramp_steps", self.ramp_steps, f"not in 1 … {MAX_AGE}", "Give a number of steps.")


@dataclass(frozen=True)
class UpdateSizes:
    """Of one step: root mean square of the updates, in units of the weights, scalars on the device."""

    newborn: Tensor
    kept: Tensor


class SparseAdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) on the active blocks of all layers, one after another.

    With every block active since the first step, it is torch's AdamW to the bit on a CPU.

    Attributes:
        master: float32 weights, [active blocks, area]. In bfloat16 small updates would be lost.
        mean, square: Adam's moments, float32. In bfloat16, v × 0.999 rounds back to v.
        age: steps since birth, int16, [active blocks].
        gradient: [active blocks, area], of the type of the layers' weights; after a step, these weights themselves,
            rounded to that type.
        steps: optimizer steps so far, int64 scalar on the device: a CUDA graph that steps counts itself.

    Args:
        master: initial weights.
        gradient_dtype: the type of the layers' weights.
        betas, eps, weight_decay: as in torch.optim.AdamW.
        newborn: how a weight born during training is treated.

    Raises:
        InputError: a parameter out of range, or β₂ so near 1 that its bias correction outlasts 16-bit ages.
    """

    STATE = ("master", "mean", "square", "age")

    def __init__(
        self,
        master: Tensor,
        gradient_dtype: torch.dtype,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        newborn: Newborn,
    ) -> None:
        for field, beta in zip(("beta1", "beta2"), betas, strict=True):
            if not 0 <= beta < 1:
                raise InputError(field, beta, "not in [0, 1)", "Give a decay rate, such as 0.95.")
            if beta**MAX_AGE > 2.0**-25:
                raise InputError(
                    field, beta, f"is still corrected for after {MAX_AGE} steps, where ages end", "Give 0.9994 or less."
                )
        if not 0 < eps < math.inf:
            raise InputError("eps", eps, "not positive", "Give a small number, such as 1e-8.")
        if not 0 <= weight_decay < math.inf:
            raise InputError("weight_decay", weight_decay, "negative or not finite", "Give a number of at least 0.")
        self.betas, self.eps, self.weight_decay, self.newborn = betas, eps, weight_decay, newborn
        self.steps = torch.zeros((), dtype=torch.int64, device=master.device)
        self.master = master.float()
        self.mean, self.square = torch.zeros_like(self.master), torch.zeros_like(self.master)
        self.age = torch.zeros(len(master), dtype=torch.int16, device=master.device)
        self.gradient = torch.zeros_like(self.master, dtype=gradient_dtype)
        # 1 − β^t in double precision, as torch computes it, for every age; age 0 is never stepped.
        ages = range(1, MAX_AGE + 1)
        self._correction1 = torch.tensor([1.0, *(1 - betas[0] ** t for t in ages)], dtype=torch.float64).to(
            master.device
        )
        self._correction2 = torch.tensor([1.0, *(math.sqrt(1 - betas[1] ** t) for t in ages)]).to(master.device)

    @torch.no_grad()
    def step(
        self, lr: float | Tensor, clip: Tensor | None = None, measured_age: int | Tensor | None = None
    ) -> UpdateSizes | None:
        """One step of all active weights by `gradient`, in whose place the new weights are then.

        Tensors among the arguments are scalars on the device; a CUDA graph of the step then follows their values.

        Args:
            lr: learning rate.
            clip: a factor for gradients.
            measured_age: compare the updates of weights of this age with those of older ones.
        """
        self.steps += 1
        tables = self._tables(lr)
        if clip is None:
            clip = torch.ones((), device=self.master.device)
        keep = 1 - lr * self.weight_decay
        sums = [self._step_part(part, clip, tables, keep, measured_age) for part in self._parts()]
        if measured_age is None:
            return None
        new, new_count, old, old_count = torch.stack([four for four in sums if four is not None]).sum(0)
        return UpdateSizes((new / new_count).sqrt(), (old / old_count).sqrt())

    def _step_part(
        self, part: slice, clip: Tensor, tables: Tables, keep: float | Tensor, measured_age: int | Tensor | None
    ) -> Tensor | None:
        beta1, beta2 = self.betas
        size, root, shrink = tables
        age, mean, square, master = self.age[part], self.mean[part], self.square[part], self.master[part]
        if master.is_cuda:
            from sparsedc.kernels import adamw_  # Triton comes with torch's CUDA builds only

            sums = adamw_(
                master, mean, square, age, self.gradient[part], clip, tables, self.betas, keep, self.eps, MAX_AGE,
                measured_age,
            )  # fmt: skip
            age.clamp_(max=MAX_AGE - 1).add_(1)
            return sums
        gradient = self.gradient[part].float() * clip
        age.clamp_(max=MAX_AGE - 1).add_(1)
        at = age.int()
        mean.lerp_(gradient, 1 - beta1)
        if shrink is not None:
            mean.mul_(shrink[at].unsqueeze(1))
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # In this order the result is torch's own, to the bit.
        scale = square.sqrt().div_(root[at].unsqueeze(1)).add_(self.eps)
        descent = mean * size[at].unsqueeze(1)
        master.mul_(keep).addcdiv_(descent, scale)
        self.gradient[part] = master
        return None if measured_age is None else _sums_of_squares(descent / scale, at, measured_age)

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the gradient, in float32 whatever its type."""
        norms = [torch.linalg.vector_norm(self.gradient[part], dtype=torch.float32) for part in self._parts()]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm

    def ages(self) -> Tensor:
        """How many active blocks there are of each age, int64 [oldest possible age + 1]."""
        bins = min(int(self.steps), MAX_AGE) + 1  # few enough to be counted in a GPU's shared memory, as a rule
        counts = [torch.bincount(self.age[part].int(), minlength=bins) for part in self._parts()]
        return torch.stack(counts).sum(0)

    def state_dict(self) -> dict[str, Tensor]:
        return {key: getattr(self, key) for key in ("steps", *self.STATE)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for key in ("steps", *self.STATE):
            setattr(self, key, state[key].to(self.gradient.device, copy=True))
        self.gradient = torch.zeros_like(self.master, dtype=self.gradient.dtype)

    def truncate(self, blocks: int) -> None:
        """Keep the first `blocks` blocks only, and free the rest."""
        for key in (*self.STATE, "gradient"):
            setattr(self, key, getattr(self, key)[:blocks].clone())

    def _parts(self) -> Iterator[slice]:
        blocks, area = self.master.shape
        length = max(1, CHUNK // area)
        for start in range(0, blocks, length):
            yield slice(start, min(start + length, blocks))

    def _tables(self, lr: float | Tensor) -> Tables:
        """By age: the step size with its sign, the root of the second bias correction, and what the first moment is
        multiplied by, if anything; each [MAX_AGE + 1]."""
        size, root = -lr / self._correction1, self._correction2
        oldest = self.steps.clamp(max=MAX_AGE)
        if self.newborn.policy == "naive":
            size, root = (table.gather(0, oldest.view(1)).expand_as(table) for table in (size, root))
            return size.float(), root, None
        if self.newborn.policy == "reset":
            return size.float(), root, None
        # Of the oldest age are the weights that were there from the start, and no others.
        ages = torch.arange(MAX_AGE + 1, device=size.device)
        ramp = (ages / self.newborn.ramp_steps).clamp_(max=1).masked_fill_(ages == oldest, 1)
        if self.newborn.policy == "linear":
            return (size * ramp).float(), root, None
        return size.float(), root, ramp


def _sums_of_squares(update: Tensor, age: Tensor, newborn: int | Tensor) -> Tensor:
    """Sum of squares and number of weights of the age `newborn`, then of the older ones, [4]."""
    squares, area = update.square().sum(1), update.shape[1]
    of_age, older = (age == newborn).float(), (age > newborn).float()
    return torch.stack([squares @ of_age, area * of_age.sum(), squares @ older, area * older.sum()])

"""Triton kernels: AdamW in one pass over memory, what `SparseAdamW` does in fifteen; cross-entropy and its gradient."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _adamw(  # type: ignore[no-untyped-def]
    master, mean, square, age, gradient, clip, size, root, shrink, count,
    fresh1, beta2, fresh2, keep, eps, max_age, sums, measured_age,
    AREA: tl.constexpr, SHRINK: tl.constexpr, MEASURE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    now = tl.minimum(tl.load(age + i // AREA, inside, other=0).to(tl.int32) + 1, max_age)
    g = tl.load(gradient + i, inside, other=0).to(tl.float32) * tl.load(clip)
    m = tl.load(mean + i, inside, other=0)
    m += (g - m) * fresh1
    if SHRINK:
        m *= tl.load(shrink + now, inside, other=0)
    v = tl.load(square + i, inside, other=0) * beta2 + g * g * fresh2
    scale = tl.sqrt_rn(v) / tl.load(root + now, inside, other=1) + eps
    update = m * tl.load(size + now, inside, other=0) / scale
    w = tl.load(master + i, inside, other=0) * tl.load(keep).to(tl.float32) + update
    tl.store(mean + i, m, inside)
    tl.store(square + i, v, inside)
    tl.store(master + i, w, inside)
    # The gradient has been used: its place takes the weight in the type of matrix products.
    tl.store(gradient + i, w.to(gradient.dtype.element_ty), inside)
    if MEASURE:
        measured = tl.load(measured_age)
        of_age, older = inside & (now == measured), inside & (now > measured)
        here = sums + tl.program_id(0) * 4
        tl.store(here, tl.sum(tl.where(of_age, update * update, 0.0)))
        tl.store(here + 1, tl.sum(of_age.to(tl.float32)))
        tl.store(here + 2, tl.sum(tl.where(older, update * update, 0.0)))
        tl.store(here + 3, tl.sum(older.to(tl.float32)))


def adamw_(
    master: Tensor,
    mean: Tensor,
    square: Tensor,
    age: Tensor,
    gradient: Tensor,
    clip: Tensor,
    tables: tuple[Tensor, Tensor, Tensor | None],
    betas: tuple[float, float],
    keep: float | Tensor,
    eps: float,
    max_age: int,
    measured_age: int | Tensor | None,
) -> Tensor | None:
    """One step in place, but for `age`, [blocks], which stays; afterwards `gradient` holds the rounded weights.

    Args:
        master, mean, square, gradient: [blocks, area].
        clip: a factor for gradients, scalar.
        tables: by age: step size with its sign, root of the second bias correction, factor of the first moment.
        keep: 1 − learning rate × weight decay.

    Returns:
        sum of squares and number of the updates of weights of `measured_age`, then of older ones, [4], if asked for.
    """
    size, root, shrink = tables

    def on_device(scalar: float | Tensor) -> Tensor:
        return scalar if isinstance(scalar, Tensor) else torch.tensor(scalar, device=master.device)

    count = master.numel()
    programs = triton.cdiv(count, BLOCK)
    sums = master.new_empty(programs if measured_age is not None else 0, 4)
    with torch.cuda.device(master.device):
        _adamw[(programs,)](
            master, mean, square, age, gradient, clip, size.contiguous(), root.contiguous(),
            size if shrink is None else shrink, count, 1 - betas[0], betas[1], 1 - betas[1], on_device(keep), eps,
            max_age, sums, on_device(0 if measured_age is None else measured_age),
            AREA=master.shape[1], SHRINK=shrink is not None, MEASURE=measured_age is not None, BLOCK=BLOCK,
        )  # fmt: skip
    return None if measured_age is None else sums.sum(0)


@triton.jit  # type: ignore[untyped-decorator]
def _cross_entropy(  # type: ignore[no-untyped-def]
    logits, targets, losses, columns, scale, GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    """A row is read twice; the second time it mostly comes from the cache. To keep it in registers was slower."""
    row = tl.program_id(0).to(tl.int64)
    here, target = logits + row * columns, tl.load(targets + row)
    of_target = tl.load(here + target).to(tl.float32)
    top, total = -float("inf"), 0.0
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(here + i, i < columns, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher))
        top = higher
    normalizer = top + tl.log(total)
    tl.store(losses + row, normalizer - of_target)
    if GRADIENT:
        for start in range(0, columns, BLOCK):
            i = start + tl.arange(0, BLOCK)
            x = tl.load(here + i, i < columns, other=0).to(tl.float32)
            gradient = (tl.exp(x - normalizer) - tl.where(i == target, 1.0, 0.0)) * scale
            tl.store(here + i, gradient.to(logits.dtype.element_ty), i < columns)


def cross_entropy(logits: Tensor, targets: Tensor, gradient_scale: float | None = None) -> Tensor:
    """Cross-entropy of each row, float32 [rows].

    Args:
        logits: [rows, columns], contiguous.
        targets: [rows], int64.
        gradient_scale: puts the gradient of the losses' sum, times this, in place of `logits`.
    """
    rows, columns = logits.shape
    losses = logits.new_empty(rows, dtype=torch.float32)
    block = min(8192, triton.next_power_of_2(columns))
    with torch.cuda.device(logits.device):
        _cross_entropy[(rows,)](
            logits, targets, losses, columns, gradient_scale or 0.0, GRADIENT=gradient_scale is not None, BLOCK=block,
            num_warps=max(1, block // 512),
        )  # fmt: skip
    return losses

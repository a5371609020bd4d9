"""What is told of a trained cell: its row of the runs table, and more for a curious reader."""

import math
import os
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedc.corpus.tokens import Tokens
from sparsedc.evaluate import HeldOut
from sparsedc.runs import planned
from sparsedc.spec import fingerprint
from sparsedc.train.trainer import RATIO_STEPS, Trainer

CURVE_POINTS = 200  # of the training curve that is kept
AROUND = range(-8, 33)  # steps from a topology update, whose losses are kept


def metrics(trainer: Trainer, evaluated: HeldOut | None, train: Tokens, validation: Tokens) -> dict[str, Any]:
    """What the runs table and a curious reader need, from what was really trained."""
    spec, device = trainer.spec, trainer.losses.device
    losses = trainer.losses[: trainer.step].double().cpu().numpy()
    last = losses[-max(1, spec.steps // 10) :]
    ok = evaluated is not None and math.isfinite(evaluated.loss)
    row = {
        **planned(spec),
        "held_out": validation.sha256[:16],
        "tokens": trainer.step * spec.training.batch_tokens,  # of a cell that diverged, fewer than planned
        "steps": trainer.step,
        "params_active": spec.counts.active(trainer.engine.active or spec.counts.maskable),
        "val_loss": evaluated.loss if ok and evaluated else None,
        "val_loss_se": evaluated.standard_error if ok and evaluated else None,
        "train_loss": float(last.mean()) if ok else None,  # mean over the last tenth of the steps
        "status": "ok" if ok else "diverged",
        "seconds": trainer.seconds,
        "tokens_per_second": trainer.step * spec.training.batch_tokens / trainer.seconds,
        "device": device_name(device),
        "torch": torch.__version__,
        "commit": commit(),
        "fingerprint": fingerprint(spec.content()),
    }
    return {
        "row": row,
        "spec": spec.content(),
        "train_sha256": train.sha256,
        "held_out_sha256": validation.sha256,
        "held_out_tokens": evaluated.tokens if evaluated else None,
        "mask_hash": trainer.engine.mask_hash(),
        "curve": curve(losses),
        "pace": [{"step": step, "seconds": seconds} for step, seconds in trainer.pace],
        "topology": topology(trainer),
        "around_updates": around_updates(losses, trainer),
        "host": platform.node(),
        "gpu": gpu(device),
        "threads": torch.get_num_threads(),
        "ranks": trainer.work.ranks.size,
        "sharded": trainer.work.sharded,
        "micro_batches": trainer.work.micro_batches,
        "recomputes_activations": trainer.work.forward.recomputes,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "finished": time.time(),
    }


def curve(losses: "np.ndarray[Any, np.dtype[np.float64]]") -> list[dict[str, float | None]]:
    """Training losses, shape (steps,), averaged over at most CURVE_POINTS stretches of steps."""
    stretches = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    means = [float(losses[stretch].mean()) for stretch in stretches]
    return [
        {"step": int(stretch[-1]) + 1, "train_loss": mean if math.isfinite(mean) else None}
        for stretch, mean in zip(stretches, means, strict=True)
    ]


def topology(trainer: Trainer) -> dict[str, Any] | None:
    """What each topology update did, lists by layer; None where there was none."""
    if not trainer.updates:
        return None
    layers = trainer.engine.layers
    return {
        "layers": [layer.name for layer in layers],
        "blocks": [layer.blocks.count for layer in layers],
        "updates": [asdict(update) for update in trainer.updates],
    }


def around_updates(losses: "np.ndarray[Any, np.dtype[np.float64]]", trainer: Trainer) -> dict[str, Any] | None:
    """Training loss and sizes of weight updates around topology updates, as means over these.

    Returns:
        `offset`, in steps from the update, whose own loss is measured before it; `loss`, less its mean over the nine
        steps up to the update; `ratio_offset` and `update_ratio`, the root mean square of the updates of newly grown
        weights over that of older ones. None stands where no update has a value, or there was none.
    """
    places = [update.step - 1 for update in trainer.updates if update.step > -AROUND[0]]
    if not places:
        return None
    rows = []
    for place in places:
        row = np.full(len(AROUND), math.nan)
        stretch = losses[place + AROUND[0] : place + AROUND[-1] + 1]
        row[: len(stretch)] = stretch - losses[place + AROUND[0] : place + 1].mean()
        rows.append(row)
    known = np.isfinite(rows).sum(0)
    sums = np.nansum(rows, axis=0)
    total, count = trainer.ratios.double().cpu().numpy()
    return {
        "offset": list(AROUND),
        "loss": [_mean(sum_, number) for sum_, number in zip(sums, known, strict=True)],
        "ratio_offset": list(range(1, RATIO_STEPS + 1)),
        "update_ratio": [_mean(sum_, number) for sum_, number in zip(total, count, strict=True)],
    }


def _mean(total: float, number: float) -> float | None:
    return float(total / number) if number and math.isfinite(total) else None


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def gpu(device: torch.device) -> str | None:
    """Which GPU, as nvidia-smi names it for good, whatever its number among those that this process may see."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None


def commit() -> str:
    """The commit of the checkout that this package runs from; "unknown" for a copy, also where that lies in a checkout
    of something else."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        ).stdout.strip()  # fmt: skip

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

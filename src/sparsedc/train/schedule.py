"""The learning rate as a share of its peak: linear warm-up, then cosine, or warm-up, stable and decay (WSD)."""

import math

from sparsedc.config import Hyperparameters


def lr_share(step: int, steps: int, training: Hyperparameters) -> float:
    """Share of the peak learning rate at a step counted from 1; the last step has `lr_final`.

    Sources: cosine, Loshchilov and Hutter 2017; WSD, Hu et al. 2024 (MiniCPM), here with a linear decay.
    """
    warmup = round(training.warmup_fraction * steps)
    if step <= warmup:
        return step / warmup
    final = training.lr_final
    if training.lr_schedule == "cosine":
        progress = (step - warmup) / max(steps - warmup, 1)
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
    decay = max(1, min(round(training.decay_fraction * steps), steps - warmup))
    return 1 - (1 - final) * max(0, step - (steps - decay)) / decay

"""Runs tables drawn from a known law: to test that a fit recovers what made its data, and to plan a study.

A study that cannot recover the law it was simulated from will not find the law of real runs either.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from sparsedc.errors import InputError
from sparsedc.law.counts import DEFAULT_CONVENTION, count_params
from sparsedc.law.fitting import design_of
from sparsedc.law.forms import get_form
from sparsedc.runs import COLUMNS


def simulate_runs(
    form: str,
    parameters: Mapping[str, float],
    *,
    body: Sequence[int],
    densities: Sequence[float],
    unique_tokens: Sequence[int],
    epochs: Sequence[float],
    extrapolation_body: Sequence[int] = (),
    embedding: int = 0,
    seeds: int = 1,
    noise: float = 0.0,
    params: str = DEFAULT_CONVENTION,
    seed: int = 0,
) -> pd.DataFrame:
    """A runs table of a full grid, its losses drawn from a law.

    Args:
        form, parameters: the law.
        body: dense-equivalent parameters outside embedding and head, one number a model size; all are maskable.
        extrapolation_body: sizes of extrapolation cells: the largest U and most epochs, at each density.
        embedding: parameters of the embedding, and again of the head.
        seeds: runs of each configuration.
        noise: standard deviation of log loss between runs.
        params: what N counts in the law.
        seed: of the noise.
    """
    if missing := set(get_form(form).names) ^ set(parameters):
        raise InputError("parameters", sorted(missing), f"missing or unknown in {form}", "Give the form's own.")
    grid = [("fit", *cell) for cell in product(body, densities, unique_tokens, epochs, range(seeds))]
    grid += [
        ("extrapolation", *cell)
        for cell in product(extrapolation_body, densities, [max(unique_tokens)], [max(epochs)], range(seeds))
    ]
    runs = pd.DataFrame(grid, columns=["role", "params_maskable", "density", "unique_tokens", "epochs", "seed"])
    runs["study"], runs["method"], runs["status"] = "simulated", "simulated", "ok"
    runs["size"] = [f"{count / 1e6:g}M" for count in runs["params_maskable"]]
    runs["tokens"] = (runs["unique_tokens"] * runs["epochs"]).round().astype("int64")
    runs["params_embedding"] = runs["params_head"] = embedding
    runs["params_total"] = runs["params_maskable"] + 2 * embedding
    runs["params_active"] = (runs["params_maskable"] * runs["density"]).round().astype("int64") + 2 * embedding
    runs["params_active_mean"] = runs["params_active"]
    runs["flops_dense"] = 6.0 * runs["params_total"] * runs["tokens"]
    runs["flops_sparse"] = 6.0 * runs["params_active"] * runs["tokens"]
    runs["held_out"] = "simulated"
    runs["lr"], runs["maskable_lr"], runs["weight_decay"], runs["batch_tokens"] = 1e-3, 1e-3, 0.0, 4096
    runs["steps"] = -(-runs["tokens"] // runs["batch_tokens"])
    runs["cell"] = [
        f"{row.size_}-d{row.density:g}-u{row.unique_tokens}-e{row.epochs:g}-s{row.seed}"
        for row in runs.rename(columns={"size": "size_"}).itertuples()
    ]
    count_params(runs, params)
    law = get_form(form).loss(parameters, design_of(runs, params))
    runs["val_loss"] = law * np.exp(np.random.default_rng(seed).normal(0.0, noise, len(runs)))
    runs["val_loss_se"], runs["train_loss"] = noise * runs["val_loss"], runs["val_loss"]
    runs["seconds"], runs["tokens_per_second"] = 0.0, 0.0
    runs["device"] = runs["torch"] = runs["commit"] = runs["fingerprint"] = "simulated"
    return runs[list(COLUMNS)].astype(COLUMNS)

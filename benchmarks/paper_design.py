"""Runs like those of "When Data Is Scarce" (ICML 2026, arXiv 2606.01155), drawn from its published law.

The paper fits 500 runs: 47 dense and 185 sparse ones of one epoch, 63 dense and 205 sparse ones of more. Which they are
is not public. These have its counts, densities and ranges: they are drawn once from the grid of all, and stay the same
while their noise is drawn anew for each study.
"""

import os
import platform
from datetime import date

import numpy as np
import pandas as pd
import scipy

from sparsedc.law.design import Design
from sparsedc.law.forms import get_form
from sparsedc.law.published import WHEN_DATA_IS_SCARCE
from sparsedc.law.simulate import simulate_runs

FORM, PARAMS, TRUTH = "sparse", "paper", WHEN_DATA_IS_SCARCE
NOISE = 0.006
SIZES = [27_000_000, 45_000_000, 80_000_000, 145_000_000, 268_000_000, 521_000_000, 960_000_000]
DENSITIES = [1.0, 0.5, 0.25, 0.125, 0.0625]
REPEATED = [130_000_000, 260_000_000, 520_000_000, 1_040_000_000, 1_300_000_000, 2_600_000_000]
FRESH = [*REPEATED, 5_200_000_000, 10_400_000_000, 20_800_000_000]
EPOCHS = [1.0, 2.0, 4.0, 8.0, 16.0]


def paper_like(seed: int, sparse_repeated: int = 205) -> pd.DataFrame:
    """A study of 295 + `sparse_repeated` runs, with noise of that seed."""
    grid = simulate_runs(
        FORM, TRUTH, body=SIZES, densities=DENSITIES, unique_tokens=FRESH, epochs=EPOCHS, noise=NOISE, params=PARAMS,
        seed=seed,
    )  # fmt: skip
    dense, fresh = grid["density"] == 1, grid["epochs"] == 1
    repeated = ~fresh & grid["unique_tokens"].isin(REPEATED)
    counts = {47: dense & fresh, 185: ~dense & fresh, 63: dense & repeated, sparse_repeated: ~dense & repeated}
    return pd.concat([grid[among].sample(count, random_state=0) for count, among in counts.items()])


def held_out() -> Design:
    """Models of 1.17B to 7.68B dense-equivalent parameters, at every density, 1 to 16 epochs of 2.6B and 20.8B."""
    N, s, U, epochs = (
        axis.ravel()
        for axis in np.meshgrid([1.17e9, 1.99e9, 3.84e9, 7.68e9], DENSITIES, [2.6e9, 20.8e9], [1.0, 4.0, 16.0])
    )
    return Design.of(N * s, U, U * epochs, s)


def true_loss(design: Design) -> np.ndarray:
    """The published law's loss, (n,)."""
    return np.asarray(get_form(FORM).loss(TRUTH, design))


def heading(title: str) -> str:
    """A result's first lines: what, when and with what it was measured."""
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    return f"# {title}\n\n{date.today()}, {os.cpu_count()} CPUs, {versions}.\n"

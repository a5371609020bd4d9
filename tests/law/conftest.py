"""Laws and simulated runs tables that several tests use."""

from pathlib import Path

import pytest

from sparsedc.law.published import WHEN_DATA_IS_SCARCE
from sparsedc.law.simulate import simulate_runs

DATA = Path(__file__).parent / "data"

LAWS = {
    "chinchilla": {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.38},
    "muennighoff": {"E": 1.9, "A": 500.0, "B": 1500.0, "alpha": 0.35, "R_N_star": 5.0, "R_D_star": 15.0},
    "power": {"E": 1.9, "A": 500.0, "B": 1500.0, "alpha": 0.35, "R_N_star": 5.0, "R_D_star": 15.0, "epsilon": 0.2},
    "sparse": WHEN_DATA_IS_SCARCE,
}
GRID = {
    "body": [20_000_000, 120_000_000, 480_000_000, 1_900_000_000],
    "densities": [1.0, 0.5, 0.25, 0.125, 0.0625],
    "unique_tokens": [650_000_000, 2_600_000_000, 10_400_000_000],
    "epochs": [1, 4, 16],
}


@pytest.fixture
def laws():
    return LAWS


@pytest.fixture
def grid():
    return GRID


@pytest.fixture
def simulate(laws, grid):
    """Runs drawn from one of `LAWS` on `GRID`, parts of which may be replaced."""

    def draw(form, noise=0.0, seed=0, **changes):
        return simulate_runs(form, laws[form], noise=noise, seed=seed, embedding=30_000_000, **(grid | changes))

    return draw

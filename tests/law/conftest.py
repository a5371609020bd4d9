"""Laws and simulated runs tables that several tests use."""

from pathlib import Path

import pytest

from sparsedc.law.published import WHEN_DATA_IS_SCARCE
from sparsedc.law.simulate import simulate_runs

DATA = Path(__file__).parent / "data"

_MUENNIGHOFF = {"E": 1.9, "A": 500.0, "B": 1500.0, "alpha": 0.35, "R_N_star": 5.0, "R_D_star": 15.0}
_FRANTAR = {"a_S": 0.4, "b_S": 0.8}
_OVERFIT = {"P": 0.02, "kappa": 1.2, "lambda": 0.3}
_QUADRATIC = {name: WHEN_DATA_IS_SCARCE[name] for name in ("gamma1", "gamma2", "c11", "c21", "c12", "c22")}
_STEP = {"R_N_star": 6.0, "R_D_star": 5.0, "R_N_star_sparse": 9.0, "R_D_star_sparse": 12.0}
_TERMS = {"E": 1.9, "A": 500.0, "B": 1500.0, "alpha": 0.35}
LAWS = {
    "chinchilla": {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.38},
    "gadre": {"E": 1.8, "a": 200.0, "b": 350.0, "eta": 0.13},
    "frantar": {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.38} | _FRANTAR,
    "muennighoff": _MUENNIGHOFF,
    "power": _MUENNIGHOFF | {"epsilon": 0.2},
    "sparse": WHEN_DATA_IS_SCARCE,
    "overfit": {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.38} | _OVERFIT,
    "muennighoff:untied": _MUENNIGHOFF | {"beta": 0.37},
    "power:overfit": _MUENNIGHOFF | {"epsilon": 0.2} | _OVERFIT,
    "sparse:power,step": _TERMS | _STEP | {"epsilon": 0.2},
    "sparse:frantar,untied,overfit": _TERMS | _QUADRATIC | _FRANTAR | _OVERFIT | {"beta": 0.37},
    "power:untied,coupled": _MUENNIGHOFF | {"beta": 0.37, "q": 2.5, "epsilon": 0.2},
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

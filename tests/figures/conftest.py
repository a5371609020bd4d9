import pytest

from sparsedc.law.simulate import simulate_runs

from .studies import LAWS, TINY, write_study


@pytest.fixture(scope="session")
def simulate():
    """Runs of a small study drawn from one of `LAWS`; parts of the grid may be replaced."""

    def draw(form="sparse", noise=0.005, **changes):
        return simulate_runs(form, LAWS[form], noise=noise, **(TINY | changes))

    return draw


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, simulate):
    """A study in a folder, with extrapolation cells and bootstrap draws."""
    folder = tmp_path_factory.mktemp("tiny")
    write_study(folder, simulate(extrapolation_body=[900_000]), draws=20)
    return folder

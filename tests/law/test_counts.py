import pandas as pd
import pytest

from sparsedc.errors import InputError
from sparsedc.law.counts import CONVENTIONS, count_params


@pytest.fixture
def runs():
    # A body of 1000, all maskable, with embedding and head of 200 each, at density 1/4.
    columns = {"params_total": 1400, "params_active": 650, "params_embedding": 200, "params_head": 200}
    columns |= {"params_active_mean": 900.0}  # at density 1/2 on average
    return pd.DataFrame({"cell": ["a"], "density": [0.25]} | {key: [value] for key, value in columns.items()})


@pytest.mark.parametrize(("convention", "expected"), [("paper", 300), ("active", 650), ("body", 250), ("average", 500)])
def test_conventions(runs, convention, expected):
    assert count_params(runs, convention).tolist() == [expected]


def test_bad_input(runs):
    with pytest.raises(InputError, match=r"Use paper, active, body or average"):
        count_params(runs, "total")
    with pytest.raises(InputError, match="cell a"):
        count_params(runs.assign(params_active=400), "body")
    with pytest.raises(InputError, match="needs the column params_head"):
        count_params(runs.drop(columns="params_head"), "body")
    assert set(CONVENTIONS) == {"paper", "active", "body", "average"}

import numpy as np
import pytest

from sparsedc.errors import InputError
from sparsedc.law.design import Design


@pytest.mark.parametrize(
    ("field", "point"),
    [("N", (0, 1, 1, 1)), ("U", (1, -1, 1, 1)), ("D", (1, 1, np.nan, 1)), ("s", (1, 1, 1, 1.5)), ("s", (1, 1, 1, 0))],
)
def test_design_refuses_impossible_values(field, point):
    with pytest.raises(InputError) as caught:
        Design.of(*point)
    assert caught.value.field == field

import numpy as np
import pytest

from sparsedc.law.positive import positive


def test_positive_is_the_identity_above_its_floor_and_smooth_and_positive_below():
    x = np.linspace(0.05, 3, 50)
    np.testing.assert_array_equal(positive(x, 0.05), x)
    below = positive(np.array([-1e9, -1.0, 0.0, 0.049]), 0.05)
    assert (below > 0).all()
    assert (np.diff(below) > 0).all()
    step = 1e-7
    left, right = positive(np.array([0.05 - step, 0.05 + step]), 0.05)
    assert (right - left) / (2 * step) == pytest.approx(1.0, abs=1e-5)

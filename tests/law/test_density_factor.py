import numpy as np

from sparsedc.law.forms import get_form


def test_density_factors_are_1_when_dense(laws):
    for name in laws:
        form = get_form(name)
        if hasattr(form, "factor"):
            np.testing.assert_allclose(form.factor(laws[name], np.ones(3)), 1.0, rtol=1e-15)

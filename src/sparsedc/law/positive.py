"""A floor that a search may cross: what must stay above 0 bends away from it, and what is well above stays as it is."""

import numpy as np

from sparsedc.law.parameters import Values


def positive(x: Values, floor: float) -> Values:
    """`x` itself where it is at least `floor`; below, an exponential that meets it with equal value and slope.

    Density factors and R* must stay above 0 for the law to exist. The exponential keeps the search smooth there and
    leaves sensible laws, the published one among them, untouched.
    """
    scaled = x / floor
    scaled = np.where(np.real(scaled) < 1, scaled, 1.0)  # both branches of `where` are computed: neither may overflow
    tail = floor * np.exp(np.where(np.real(scaled) > -50, scaled, -50.0) - 1)
    return np.where(np.real(x) >= floor, x, tail)

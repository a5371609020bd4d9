"""Limits of a search for allocations: which densities, how many epochs, how large a model."""

import math
from dataclasses import dataclass

from sparsedc.errors import InputError
from sparsedc.law.fit import Fit
from sparsedc.law.forms import DataConstrained, get_form
from sparsedc.law.repetition import Unlimited

#: The most epochs of a search under laws that know repetition: long after the last one is worth anything.
EPOCHS = 1000.0


@dataclass(frozen=True)
class Limits:
    """Where allocations are sought.

    Raises:
        InputError: naming the limit that holds nothing.
    """

    densities: tuple[float, float]
    epochs: float = EPOCHS  # at most
    size: float = math.inf  # dense-equivalent, at most

    def __post_init__(self) -> None:
        if not 0 < self.densities[0] <= self.densities[1] <= 1:
            raise InputError("density", self.densities, "must be above 0 and at most 1", "1 is dense.")
        check_positive("epochs", self.epochs)
        if not self.size > 0:
            raise InputError("max_params", self.size, "must be above 0", "Raise it.")

    @classmethod
    def of(
        cls, fit: Fit, *, density: float | None = None, epochs: float | None = None, size: float | None = None
    ) -> "Limits":
        """The limits of a fit: densities from the lowest fitted one to dense, and epochs.

        A law that does not know repetition takes repeated tokens for fresh ones: its epochs end where its runs' do.

        Args:
            density: this density only, even if the fit does not reach it.
            epochs: at most these.
            size: dense-equivalent sizes up to this one.
        """
        ranges = fit.ranges or {}
        if epochs is None:
            epochs = EPOCHS if knows_repetition(fit) else max(1.0, ranges.get("epochs", (1.0, 1.0))[1])
        densities = (min(1.0, ranges.get("s", (1.0, 1.0))[0]), 1.0) if density is None else (density, density)
        return cls(densities, epochs, math.inf if size is None else size)


def knows_repetition(fit: Fit) -> bool:
    """Whether a repeated token is worth less than a fresh one in this law."""
    form = get_form(fit.form)
    return isinstance(form, DataConstrained) and (form.penalty or not isinstance(form.stars, Unlimited))


def check_positive(field: str, value: float) -> float:
    """The value itself.

    Raises:
        InputError: it is not finite or not above 0.
    """
    if not (math.isfinite(value) and value > 0):
        raise InputError(field, value, "must be a number above 0", "Write it like 300e6 in Python, 300M in a command.")
    return float(value)

"""Where a law is evaluated: the N, U, D and s of runs, measured or asked about."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsedc.errors import InputError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """Where a law is evaluated: four float64 arrays of one shape, (n,), and what formulas take of them."""

    N: Floats
    U: Floats
    D: Floats
    s: Floats

    @classmethod
    def of(cls, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike) -> "Design":
        """Broadcast to one shape, and check.

        Raises:
            InputError: a count that is not positive and finite, or a density outside (0, 1].
        """
        given = (np.asarray(v, dtype=np.float64) for v in (N, U, D, s))
        design = cls(*np.broadcast_arrays(*np.atleast_1d(*given)))
        for name in ("N", "U", "D", "s"):
            values = getattr(design, name)
            bad = ~(np.isfinite(values) & (values > 0))
            if name == "s":
                bad |= values > 1
            if bad.any():
                allowed = "above 0 and at most 1" if name == "s" else "finite and above 0"
                raise InputError(name, values[bad][0], f"must be {allowed}", "Correct the run or the argument.")
        return design

    def __len__(self) -> int:
        return self.N.size

    def take(self, rows: npt.ArrayLike) -> "Design":
        """The design of some rows, by index or mask."""
        return Design(*(np.asarray(getattr(self, name)[rows]) for name in ("N", "U", "D", "s")))

    @cached_property
    def log_N(self) -> Floats:
        return np.log(self.N)

    @cached_property
    def log_D(self) -> Floats:
        return np.log(self.D)

    @cached_property
    def log_U(self) -> Floats:
        """ln of the unique tokens seen: a run of less than one epoch has seen D of them, not U."""
        return np.log(np.minimum(self.U, self.D))

    def levels(self, column: str) -> int:
        """How many distinct values a column has; of N, model sizes, the most that one density has; "configuration"."""
        if column == "configuration":
            return len(np.unique(np.column_stack([self.N, self.U, self.D, self.s]), axis=0))
        if column == "N":  # which density varies too, even of one size
            return max(len(np.unique(self.N[self.s == s])) for s in np.unique(self.s))
        return len(np.unique(getattr(self, column)))

    @cached_property
    def densities(self) -> tuple[Floats, Any]:
        """The densities that occur, and the index of each run's among them; runs are many and densities few."""
        if self.s.ndim != 1:
            return self.s, slice(None)
        return np.unique(self.s, return_inverse=True)

    @cached_property
    def R_D(self) -> Floats:
        """Repeats, D/U − 1."""
        return np.expm1(self.log_D - self.log_U)

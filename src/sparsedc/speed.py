"""How fast a device trains, as stated or as finished cells have shown, for estimates of hours."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsedc.errors import InputError
from sparsedc.runs import read_runs

H100_TFLOPS = 989  # its nominal peak, dense bfloat16, of which MFU is a share


@dataclass(frozen=True)
class Speed:
    """What a device sustains on the dense FLOPs in training, by size.

    Attributes:
        source: whose word it is.
        params: total parameters of the sizes that are known, ascending.
        tflops: of each, 10^12 FLOP/s.
    """

    source: str
    params: tuple[float, ...]
    tflops: tuple[float, ...]

    def at(self, params: int) -> float:
        """10^12 FLOP/s at a size: between two that are known, in proportion to the logarithm of parameters; beyond
        them, as at the nearest."""
        return float(np.interp(np.log(params), np.log(self.params), self.tflops))

    def knows(self, params: int) -> bool:
        """Is the size among those known, or between two of them?"""
        return self.params[0] <= params <= self.params[-1]

    def text(self) -> str:
        """400 TFLOP/s (MFU 0.404 of an H100's 989), as stated."""
        shares = [rate / H100_TFLOPS for rate in self.tflops]
        mfu = f" (MFU {_span(shares)} of an H100's {H100_TFLOPS})" if max(shares) > 1e-3 else ""  # else a CPU
        return f"{_span(self.tflops)} TFLOP/s{mfu}, {self.source}"


def stated(tflops: float) -> Speed:
    """The same for every size.

    Raises:
        InputError: not a number above 0.
    """
    if not 0 < tflops < math.inf:
        raise InputError(
            "tflops", tflops, "is not a number above 0", "Give what the device sustains: MFU times its peak."
        )
    return Speed("as stated", (1.0, 1e18), (tflops, tflops))


def measured(path: Path) -> Speed:
    """The median, for each size, of what the finished cells of a runs table have sustained.

    Raises:
        InputError: it is no runs table, no cell in it has finished, or they were trained on several devices.
    """
    runs = read_runs(path)
    runs = runs[(runs["status"] == "ok") & (runs["seconds"] > 0)]
    if runs.empty:
        raise InputError("measured", path, "no cell in it has finished", "Name a runs table with finished cells.")
    devices = sorted(runs["device"].fillna("an unknown device").unique())
    if len(devices) > 1:
        raise InputError(
            "measured", path, f"its cells were trained on several devices: {', '.join(devices)}",
            "Give a table with the cells of one.",
        )  # fmt: skip
    rates = (runs["flops_dense"] / runs["seconds"] / 1e12).groupby(runs["params_total"]).median().sort_index()
    source = f"median by size of {len(runs)} cells on {devices[0]} in {path}"
    return Speed(source, tuple(map(float, rates.index)), tuple(map(float, rates)))


def _span(numbers: tuple[float, ...] | list[float]) -> str:
    low, high = (f"{end:.3g}" for end in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"

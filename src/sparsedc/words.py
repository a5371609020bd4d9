"""How figures, tables and messages write laws, densities, large counts and many names."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from sparsedc.law.fit import Fit


def law_label(fit: "Fit") -> str:
    """The form and what is known of the fit."""
    return f"Law: {fit.form} ({status_label(fit)}{'' if fit.usable else ': these numbers are not to be used'})"


def status_label(fit: "Fit") -> str:
    """What is known of the fit: its status, and which parameters are no estimates where it is "at bound"."""
    return f"{fit.status}: {', '.join(fit.at_bound)}" if fit.status == "at bound" else fit.status


def density_label(density: float) -> str:
    """1 (dense), 1/4, 0.3."""
    if density == 1:
        return "1 (dense)"
    fraction = Fraction(density).limit_denominator(64)
    if fraction.numerator == 1 and abs(float(fraction) - density) < 1e-6:
        return str(fraction)
    return f"{density:.3g}"


def count_label(count: float) -> str:
    """950, 33k, 1.3B: three significant digits and a unit."""
    for unit, symbol in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit * 0.9995:
            return f"{count / unit:.3g}{symbol}"
    return f"{count:.3g}"


def flops_label(flops: float) -> str:
    """2.8×10²⁰: two digits and a power of ten."""
    digits, power = f"{flops:.1e}".split("e")
    return f"{digits}×10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of many names: a, b, c, d, e and 21 more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def varying(table: "pd.DataFrame", *columns: str) -> list[str]:
    """Those of the columns in which rows differ; `dense` and a method are no two methods."""
    return [column for column in columns if len(set(table[column]) - {"dense"}) > 1]


def text_grid(
    cells: Mapping[Any, str], keys: Sequence[str], heading: Callable[[float], str], *, descending: bool = False
) -> str:
    """Texts as a table: a line for all but the last part of their keys, in the order given, a column for the last.

    Args:
        keys: what the parts that make a line are called.
        heading: of a column.
        descending: the order of columns.
    """
    columns = sorted({key[-1] for key in cells}, reverse=descending)
    lines = [[*keys, *map(heading, columns)]]
    for line in dict.fromkeys(key[:-1] for key in cells):
        parts = [part if isinstance(part, str) else count_label(part) for part in line]
        lines.append([*parts, *(cells.get((*line, column), "") for column in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )

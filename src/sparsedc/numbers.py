"""Numbers as people write them — 65536, 65,536, 64k, 300M, 1.3B, 1e20 — in study files, tables and options."""

import re
from decimal import Decimal, DecimalException
from math import isfinite

from sparsedc.errors import InputError

SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
#: commas part thousands; that 0,5 is a half in many countries is no reason to read it as 5
_COMMAS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")


def parse_number(text: str) -> Decimal:
    """Read a number such as 0.5, 65,536, 300M or 1e20 (k, M, B, T are powers of 1,000), exactly.

    Raises:
        ValueError: the text is no such number.
    """
    digits, factor = (text[:-1], SUFFIXES[text[-1]]) if text[-1:] in SUFFIXES else (text, 1)
    digits = digits.strip().replace("_", "")
    try:
        if "," in digits and not _COMMAS.fullmatch(digits):
            raise DecimalException
        return Decimal(digits.replace(",", "")) * factor
    except DecimalException:
        raise ValueError(f"{text!r} is not a number such as 65536, 300M or 1.3B") from None


def as_decimal(text: str) -> str:
    """The remedy for text that is no number: 50% and 1/2 are written 0.5."""
    numerator, _, denominator = text.replace("%", "/100").partition("/")
    try:
        return f"Write {float(numerator) / float(denominator):g}."
    except (ValueError, ZeroDivisionError):
        return "Write it like 0.5."


def parse_count(value: object) -> object:
    """Read a count such as 65536, "300M" or "1.3B"; what is neither text nor fraction comes back as it is.

    Raises:
        ValueError: the value is a string that is no such number, or the number is not whole.
    """
    if isinstance(value, bool):
        raise ValueError("is not a number of tokens")
    if isinstance(value, str):
        value = parse_number(value)
    return _whole(value) if isinstance(value, (float, Decimal)) else value


def read_number(field: str, text: str, *, most: float | None = None) -> float:
    """The number above 0, and at most `most`, that an option or a column named `field` holds.

    Raises:
        InputError: the text is no such number.
    """
    try:
        number = float(parse_number(text))
    except ValueError:
        number = float("nan")
    if not (isfinite(number) and number > 0):
        raise InputError(field, text, "is not a number above 0", "Write it like 0.5, 65536, 300M or 1e20.")
    if most is not None and number > most:
        raise InputError(field, text, f"must be at most {most:g}", "Correct it.")
    return number


def read_count(field: str, text: str) -> int:
    """The whole number above 0 that an option named `field` holds.

    Raises:
        InputError: the text is no such number.
    """
    read_number(field, text)
    try:
        return _whole(parse_number(text))
    except ValueError:
        raise InputError(field, text, "is not a whole number", "Write it like 65536, 300M or 1.3B.") from None


def _whole(number: float | Decimal) -> int:
    if not isfinite(number) or number != int(number):
        raise ValueError(f"{number} is not a whole number")
    return int(number)

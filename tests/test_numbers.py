"""Numbers on the command line and in tables: what is read, and what is refused by name. Counts of study files are
tested in test_config.py."""

import pytest

from sparsedc.errors import InputError
from sparsedc.numbers import read_count, read_number


@pytest.mark.parametrize(
    ("written", "meant"),
    [("0.5", 0.5), ("65,536", 65536), ("1,234,567.5", 1234567.5), ("300M", 3e8), ("1.3B", 1.3e9), ("1e20", 1e20)],
)
def test_spellings_of_a_number(written: str, meant: float) -> None:
    assert read_number("x", written) == meant


@pytest.mark.parametrize(
    "written", ["", "abc", "0", "-3", "-1k", "nan", "inf", "1e999", "0,5", "1,3B", "sNaN", "1.2.3"]
)
def test_what_is_no_number_above_0(written: str) -> None:
    for read in (read_number, read_count):
        with pytest.raises(InputError, match=r"x = .*: is not a number above 0\. Write it like"):
            read("x", written)


def test_bounds_and_whole_numbers() -> None:
    assert read_number("x", "1", most=1) == 1
    with pytest.raises(InputError, match=r"x = 1\.2: must be at most 1"):
        read_number("x", "1.2", most=1)
    assert read_count("x", "1e20") == 10**20
    with pytest.raises(InputError, match=r"x = 1\.5: is not a whole number"):
        read_count("x", "1.5")

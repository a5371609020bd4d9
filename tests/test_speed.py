"""What devices sustain, from runs tables whose rates are known by hand."""

from pathlib import Path

import pandas as pd
import pytest

from sparsedc.errors import InputError
from sparsedc.runs import COLUMNS, write_runs
from sparsedc.speed import measured, stated


def runs(tmp_path: Path, *rows: tuple[int, float, str, str]) -> Path:
    """A table of cells of so many parameters, which took 10^15 FLOPs and so many seconds, on a device; and how they
    ended."""
    texts = {column: "x" for column, dtype in COLUMNS.items() if dtype == "string"}
    numbers = {column: 1 for column, dtype in COLUMNS.items() if dtype != "string"}
    table = pd.DataFrame(
        {
            **texts, **numbers, "cell": f"c{number}", "role": "fit", "flops_dense": 1e15, "params_total": params,
            "seconds": seconds, "device": device, "status": status,
        }
        for number, (params, seconds, device, status) in enumerate(rows)
    )  # fmt: skip
    write_runs(table, tmp_path / "runs.csv")
    return tmp_path / "runs.csv"


def test_a_size_has_the_median_of_its_finished_cells_and_others_lie_between(tmp_path: Path) -> None:
    path = runs(
        tmp_path,
        (10_000, 500.0, "A100", "ok"),  # 2 TFLOP/s
        (10_000, 250.0, "A100", "ok"),  # 4
        (10_000, 1.0, "A100", "ok"),  # 1000, an outlier
        (10_000, 1.0, "A100", "diverged"),
        (10_000, 0.0, "A100", "ok"),  # of no length
        (1_000_000, 125.0, "A100", "ok"),  # 8
    )
    speed = measured(path)
    assert speed.at(10_000) == pytest.approx(4)
    assert speed.at(1_000_000) == pytest.approx(8)
    assert speed.at(100_000) == pytest.approx(6)  # half way, as people count zeros
    assert (speed.at(10), speed.at(10**12)) == pytest.approx((4, 8))
    assert [speed.knows(params) for params in (9_999, 10_000, 1_000_000, 1_000_001)] == [False, True, True, False]
    assert speed.text().endswith(f", median by size of 4 cells on A100 in {path}")


def test_a_stated_speed_is_that_of_every_size_and_a_share_of_the_peak() -> None:
    speed = stated(494.5)
    assert {speed.at(params) for params in (1, 10**6, 10**13)} == {494.5}
    assert speed.text() == "494 TFLOP/s (MFU 0.5 of an H100's 989), as stated"
    assert stated(0.02).text() == "0.02 TFLOP/s, as stated"


@pytest.mark.parametrize("tflops", [0.0, -1.0, float("nan")])
def test_a_speed_is_above_0(tflops: float) -> None:
    with pytest.raises(InputError, match=r"tflops = .*: is not a number above 0"):
        stated(tflops)


def test_cells_of_several_devices_have_no_speed(tmp_path: Path) -> None:
    path = runs(tmp_path, (10, 1.0, "H100", "ok"), (10, 1.0, "A100", "ok"), (10, 1.0, "B200", "diverged"))
    with pytest.raises(InputError, match=r"trained on several devices: A100, H100\. "):
        measured(path)


def test_a_table_without_a_finished_cell_has_no_speed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cell in it has finished"):
        measured(runs(tmp_path, (10, 1.0, "H100", "diverged")))

"""Update steps and drop fractions by value."""

from dataclasses import replace
from math import cos, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedc.errors import InputError
from sparsedc.sparsity.schedule import TopologySchedule

SCHEDULE = TopologySchedule(steps=100, updates=3, drop_fraction=0.3, final_drop_fraction=0.1, stop_fraction=0.75)


def test_updates_are_even_and_scale_with_training() -> None:
    assert SCHEDULE.update_steps == (25, 50, 75)
    assert replace(SCHEDULE, steps=1000).update_steps == (250, 500, 750)


def test_no_update_after_the_last_step() -> None:
    assert replace(SCHEDULE, steps=10, updates=10, stop_fraction=1.0).update_steps == tuple(range(1, 10))
    assert replace(SCHEDULE, steps=1).update_steps == ()


@pytest.mark.parametrize("change", [{"updates": 0}, {"stop_fraction": 0.0}])
def test_never(change: dict[str, float]) -> None:
    assert replace(SCHEDULE, **change).update_steps == ()


@given(steps=st.integers(1, 500), updates=st.integers(0, 600), stop=st.floats(0, 1))
def test_update_steps_are_valid_at_any_length(steps: int, updates: int, stop: float) -> None:
    found = TopologySchedule(steps, updates, 0.3, 0.0, stop).update_steps
    last = min(round(stop * steps), steps - 1)
    assert list(found) == sorted(set(found))
    assert len(found) == min(updates, last)
    assert all(1 <= step <= last for step in found)
    gaps = {after - before for before, after in zip((0, *found), found, strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_cosine() -> None:
    assert SCHEDULE.drop_fraction_at(0) == pytest.approx(0.3)
    assert SCHEDULE.drop_fraction_at(50) == pytest.approx(0.2)
    assert SCHEDULE.drop_fraction_at(100) == pytest.approx(0.1)
    assert SCHEDULE.drop_fraction_at(25) == pytest.approx(0.1 + 0.2 * (1 + cos(pi / 4)) / 2)
    constant = replace(SCHEDULE, final_drop_fraction=0.3)
    assert {constant.drop_fraction_at(step) for step in range(101)} == {0.3}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("updates", -1),
        ("drop_fraction", 1.0),
        ("drop_fraction", float("nan")),
        ("final_drop_fraction", -0.1),
        ("stop_fraction", 1.5),
    ],
)
def test_bad_input(field: str, value: float) -> None:
    with pytest.raises(InputError) as error:
        replace(SCHEDULE, **{field: value})
    assert error.value.field == field

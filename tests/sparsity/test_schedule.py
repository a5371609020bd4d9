"""Update steps, drop fractions and densities by value."""

from dataclasses import replace
from itertools import pairwise
from math import cos, pi, sin
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedc.errors import InputError
from sparsedc.sparsity.schedule import REMAINING, DensitySchedule, TopologySchedule

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


@given(steps=st.integers(1, 300), interval=st.integers(1, 320), stop=st.floats(0, 1), updates=st.integers(0, 50))
def test_an_interval_is_from_update_to_update_whatever_their_number(
    steps: int, interval: int, stop: float, updates: int
) -> None:
    """By trying every step: those that it divides, up to the stop and before the last."""
    expected = [step for step in range(1, steps) if step <= round(stop * steps) and step % interval == 0]
    if not expected:
        with pytest.raises(InputError, match="no update would happen"):
            TopologySchedule(steps, updates, 0.3, 0.0, stop, interval)
        return
    assert list(TopologySchedule(steps, updates, 0.3, 0.0, stop, interval).update_steps) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"interval": 76}, ["topology_interval = 76", "in the 75 of 100 steps", "Give 1 to 75 steps."]),
        ({"interval": 0}, ["topology_interval = 0", "not a number of steps"]),
        ({"interval": 1, "steps": 1}, ["topology_interval = 1", "the 0 of 1 steps", "Train for more steps"]),
    ],
)
def test_an_interval_without_update_is_refused(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        replace(SCHEDULE, **change)
    assert error.value.field == "topology_interval"
    assert all(word in str(error.value) for word in words)
    assert replace(SCHEDULE, interval=75).update_steps == (75,)


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


# -------------------------------------------------------------------------------------------------------- density


def test_density_by_value() -> None:
    """Zhu & Gupta's sparsity s_t = s_f + (s_0 − s_f)(1 − p)³, here as density, and the two others, at p = 1/4 … 1."""
    by_hand = {
        "cubic": [0.2 + 0.8 * 27 / 64, 0.3, 0.2 + 0.8 / 64, 0.2],
        "linear": [0.8, 0.6, 0.4, 0.2],
        "cosine": [0.6 + 0.4 * sin(pi / 4), 0.6, 0.6 - 0.4 * sin(pi / 4), 0.2],
    }
    assert by_hand.keys() == REMAINING.keys()
    for shape, expected in by_hand.items():
        schedule = DensitySchedule(0.2, 1.0, shape, (10, 20, 30, 40))  # type: ignore[arg-type]
        assert [schedule.density_at(step) for step in (10, 20, 30, 40)] == pytest.approx(expected, abs=1e-12)
        assert schedule.start == 1.0
        assert schedule.density_at(0) == schedule.density_at(9) == 1.0
        assert schedule.density_at(19) == schedule.density_at(10)
        assert schedule.density_at(1000) == 0.2


@given(
    st.sampled_from(sorted(REMAINING)), st.floats(0.001, 1), st.floats(0.001, 1),
    st.lists(st.integers(1, 1000), min_size=1, max_size=60, unique=True).map(sorted),
)  # fmt: skip
def test_density_falls_from_exactly_the_first_to_exactly_the_last(
    shape: Any, one: float, other: float, steps: list[int]
) -> None:
    final, initial = sorted((one, other))
    schedule = DensitySchedule(final, initial, shape, tuple(steps))
    densities = [schedule.start, *(schedule.density_at(step) for step in steps)]
    assert (densities[0], densities[-1]) == (initial, final)
    assert densities == sorted(densities, reverse=True)
    if initial > final + 1e-6:
        assert all(after < before for before, after in pairwise(densities))
    # The steps between updates have the density that the last one left.
    for step in range(steps[-1] + 2):
        assert schedule.density_at(step) == densities[sum(update <= step for update in steps)]


@pytest.mark.parametrize("steps", [(), (3, 7)])
def test_density_is_constant_unless_it_starts_elsewhere(steps: tuple[int, ...]) -> None:
    schedule = DensitySchedule(0.3, None, "cubic", steps)
    assert {schedule.start, *(schedule.density_at(step) for step in range(10))} == {0.3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"initial": 0.1}, ["initial_density = 0.1", "density 0.2", "only fall"]),
        ({"initial": 1.1}, ["initial_density = 1.1", "up to 1"]),
        ({"initial": float("nan")}, ["initial_density = nan"]),
        ({"initial": 0.5, "update_steps": ()}, ["initial_density = 0.5", "no topology update", "more steps"]),
        ({"final": 0.0}, ["density = 0.0", "not in (0, 1]"]),
        ({"shape": "square"}, ["density_shape = square", "Use cubic, cosine or linear"]),
    ],
)
def test_bad_density_schedules(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        DensitySchedule(**{"final": 0.2, "initial": None, "shape": "cubic", "update_steps": (1,)} | change)
    assert all(word in str(error.value) for word in words)

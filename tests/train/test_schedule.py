"""Learning-rate schedules: where they begin, peak and end."""

import itertools
import math

import pytest

from sparsedc.config import Hyperparameters
from sparsedc.train.schedule import lr_share


def shares(steps, **training):
    settings = Hyperparameters(**training)
    return [lr_share(step, steps, settings) for step in range(1, steps + 1)]


def test_cosine_warms_up_peaks_and_ends_at_the_final_share():
    curve = shares(100, warmup_fraction=0.1, lr_final=0.1)
    assert curve[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert max(curve) == 1
    assert curve[54] == pytest.approx(0.55)  # half way between peak and end
    assert curve[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(curve[9:]))


def test_wsd_is_stable_until_its_decay():
    curve = shares(100, lr_schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2, lr_final=0.0)
    assert curve[9:80] == [1.0] * 71
    assert curve[80:] == pytest.approx([1 - k / 20 for k in range(1, 21)])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
def test_short_trainings_have_a_rate_at_every_step(schedule, steps, warmup):
    curve = shares(steps, lr_schedule=schedule, warmup_fraction=warmup)
    assert all(math.isfinite(share) and 0 < share <= 1 for share in curve)

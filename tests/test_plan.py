import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sparsedc.errors import InputError
from sparsedc.law.compute import Family
from sparsedc.law.fit import Fit
from sparsedc.law.frontier import WITHIN
from sparsedc.law.published import published_fit
from sparsedc.plan import make_plan


def uncertain(fit, spread=0.01, k=60):
    rng = np.random.default_rng(0)
    return replace(
        fit, draws={name: tuple(value * np.exp(spread * rng.normal(size=k))) for name, value in fit.parameters.items()}
    )


@pytest.mark.parametrize("sparsity_is_free", [False, True])
@pytest.mark.parametrize("unique_tokens", [1e7, 3e8, 1.3e10])
@pytest.mark.parametrize("flops", [1e16, 1e20, 1e24])
def test_nothing_beside_the_recommendation_is_better(unique_tokens, flops, sparsity_is_free):
    fit = published_fit()
    plan = make_plan(fit, unique_tokens, flops, sparsity_is_free=sparsity_is_free)
    best = plan.recommended.allocation
    assert plan.dense.allocation.density == 1
    assert plan.one_epoch.allocation.epochs <= 1 + 1e-9
    for other, gain in ((plan.dense, plan.over_dense), (plan.one_epoch, plan.over_one_epoch)):
        assert best.loss <= other.allocation.loss + 1e-9
        assert gain.nats == pytest.approx(other.allocation.loss - best.loss)
    for option in (plan.recommended, plan.dense, plan.one_epoch, plan.frugal):
        each = option.allocation
        assert each.flops <= flops * (1 + 1e-6)
        assert each.flops == pytest.approx(6 * (each.N if sparsity_is_free else each.size) * each.tokens)
        assert fit.predict(each.N, unique_tokens, each.tokens, each.density)[0] == pytest.approx(each.loss)
        assert option.run_interval[0] < each.loss < option.run_interval[1]
    assert plan.frugal.allocation.loss == pytest.approx(best.loss + WITHIN, abs=1e-6)


def test_free_sparsity_is_worth_no_less():
    paid, free = (make_plan(published_fit(), 3e8, 1e19, sparsity_is_free=free) for free in (False, True))
    assert free.recommended.allocation.loss < paid.recommended.allocation.loss
    assert free.recommended.allocation.density < paid.recommended.allocation.density
    assert free.dense.allocation.loss == paid.dense.allocation.loss


def test_max_params_limits_the_dense_equivalent_size():
    plan = make_plan(published_fit(), 3e8, 1e20, max_params=1e8)
    for option in (plan.recommended, plan.dense, plan.one_epoch, plan.frugal):
        assert option.allocation.size <= 1e8 * (1 + 1e-9)
    assert plan.recommended.allocation.size == pytest.approx(1e8)
    assert "at most 100M parameters" in plan.text()


def test_it_warns_beyond_the_fitted_runs_and_only_there():
    inside = make_plan(published_fit(), 1.3e9, 1e19)
    assert inside.recommended.warnings == ()
    assert "warning: " not in inside.text()
    beyond = make_plan(published_fit(), 13e9, 1e24)
    assert any("unique tokens" in warning for warning in beyond.recommended.warnings)
    head, _, answer = beyond.text().partition("\n\n")  # who reads the first lines only is warned
    warned = [line.split(": ")[1] for line in head.splitlines() if line.startswith("warning: ")]
    assert warned == ["recommended", "best dense", "best of one epoch"] == re.split("  +", answer.splitlines()[0])[1:]
    assert "warning: " not in answer


def test_more_data_than_compute_can_use_is_no_repetition():
    plan = make_plan(published_fit(), 1e12, 1e19)
    assert plan.recommended.allocation.epochs < 1
    assert not any("epochs" in warning for warning in plan.recommended.warnings)  # as one epoch of fewer tokens
    assert plan.over_one_epoch.nats == pytest.approx(0, abs=1e-9)
    assert "It is the best run of one epoch." in plan.text()


def test_a_gain_is_called_within_error_where_it_is():
    fit = published_fit()
    clear = make_plan(replace(fit, noise=1e-4), 3e8, 1e20)
    assert not clear.over_dense.within_error
    assert "beyond the law's error" in clear.text()
    hidden = make_plan(replace(fit, noise=0.2), 3e8, 1e20)
    assert hidden.over_dense.nats == clear.over_dense.nats
    assert hidden.over_dense.within_error
    assert "within the law's error" in hidden.text()


def test_with_draws_gains_and_numbers_have_intervals():
    plan = make_plan(uncertain(published_fit()), 3e8, 1e20)
    low, high = plan.over_dense.interval
    assert 0 < low < plan.over_dense.nats < high
    best = plan.recommended.allocation
    for name in ("size", "density", "N", "epochs", "tokens", "loss"):
        low, high = best.intervals[name]
        assert low < getattr(best, name) < high
    # A run falls where the law puts it, and spreads about that.
    low, high = uncertain(published_fit()).law_interval(best.N, 3e8, best.tokens, best.density)[0]
    assert plan.recommended.run_interval[0] < low < high < plan.recommended.run_interval[1]
    assert "law's own uncertainty" in plan.text()
    unsure = make_plan(uncertain(published_fit(), spread=0.3), 3e8, 1e20)
    assert unsure.over_dense.within_error
    assert "cannot tell from none" in unsure.text()


def test_dense_is_recommended_under_a_law_that_gains_nothing_from_sparsity():
    theta = {"E": 1.9, "A": 500.0, "B": 1500.0, "alpha": 0.35, "R_N_star": 5.0, "R_D_star": 15.0}
    fit = Fit("muennighoff", theta, "body", "ok", (), 0.0, 100, noise=0.01, ranges=published_fit().ranges)
    plan = make_plan(fit, 3e8, 1e20)
    assert plan.recommended.allocation == plan.dense.allocation
    assert "It is the best dense run." in plan.text()


def test_a_law_without_repetition_stops_at_the_fitted_epochs_and_says_so():
    theta = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.38}
    fit = Fit("chinchilla", theta, "body", "ok", (), 0.0, 100, noise=0.01, ranges=published_fit().ranges)
    plan = make_plan(fit, 1e6, 1e20)
    assert plan.recommended.allocation.epochs == pytest.approx(16)
    assert any("fresh" in note for note in plan.notes)


def test_notes_say_what_the_numbers_do_not():
    free = make_plan(published_fit(), 130e9, 1e19, sparsity_is_free=True)
    assert free.recommended.allocation.density == pytest.approx(1 / 16)
    assert any("lowest density" in note for note in free.notes)
    doubtful = replace(published_fit(), status="weakly determined", reasons=("mu is weakly determined",))
    assert any("mu is weakly determined" in note for note in make_plan(doubtful, 3e8, 1e19).notes)
    small = make_plan(published_fit(), 3e8, 1e24, max_params=1e8)
    assert small.recommended.allocation.epochs == pytest.approx(1000)
    assert any("max_params" in note for note in small.notes)


def test_with_a_family_flops_are_exact():
    plan = make_plan(replace(published_fit(), params="active"), 3e8, 1e19, family=Family(32_000, 2048))
    assert "32,000" in plan.accounting
    best = plan.recommended.allocation
    assert best.size * best.density < best.N  # embedding and head are not masked


def test_text_and_json_say_the_same():
    plan = make_plan(published_fit(), 3e8, 1e20)
    read = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert read["recommended"]["allocation"]["density"] == plan.recommended.allocation.density
    assert read["over_dense"]["nats"] == plan.over_dense.nats
    text = plan.text()
    rows = {line.partition("  ")[0]: line for line in text.splitlines()}
    for option in (plan.recommended, plan.dense, plan.one_epoch):
        assert f"{option.allocation.loss:.3f} [" in rows["expected loss"]
        assert f" {option.allocation.density:.3g} " in rows["density"] + " "
    assert f"at density {plan.recommended.allocation.density:.3g}" in text
    assert f"{plan.over_dense.nats:.3f} nats" in text
    assert "(body + one embedding) × density" in text
    assert max(map(len, text.splitlines())) < 160


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("unique_tokens", {"unique_tokens": 0}),
        ("unique_tokens", {"unique_tokens": float("nan")}),
        ("flops", {"flops": -1}),
        ("flops", {"flops": float("inf")}),
        ("flops", {"flops": 5.0}),
        ("max_params", {"max_params": 0}),
        ("max_params", {"max_params": 10}),
        ("max_params", {"max_params": float("nan")}),
        ("law", {"fit": replace(published_fit(), status="not identifiable", reasons=("one size only",))}),
    ],
)
def test_bad_input_is_named(field, arguments):
    given = {"fit": published_fit(), "unique_tokens": 3e8, "flops": 1e20} | arguments
    with pytest.raises(InputError) as caught:
        make_plan(given.pop("fit"), given.pop("unique_tokens"), given.pop("flops"), **given)
    assert caught.value.field == field


def test_planning_waits_for_no_library_of_training_or_drawing():
    program = (
        "import sys; from sparsedc.law.published import published_fit; from sparsedc.plan import make_plan; "
        "make_plan(published_fit(), 3e8, 1e20); "
        "print(*{name.partition('.')[0] for name in sys.modules} & {'torch', 'pydantic', 'matplotlib', 'transformers'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

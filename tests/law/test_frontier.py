"""The frontier against closed forms, against brute force on fine grids, and against its own inverse."""

from dataclasses import replace
from math import exp, inf

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from sparsedc.errors import InputError
from sparsedc.law.compute import Compute, Family
from sparsedc.law.fit import Fit
from sparsedc.law.frontier import WITHIN, best_allocation, cheapest_allocation, compute_saved, loss_optimal, lowest_loss
from sparsedc.law.limits import Limits
from sparsedc.law.published import published_fit
from sparsedc.model import LADDER, count_parameters, training_flops

from .conftest import LAWS
from .plain import LAWS as PLAIN

RANGES = {"N": (1e6, 2e9), "U": (1e8, 1e10), "D": (1e8, 1e11), "s": (1 / 16, 1.0), "epochs": (1.0, 16.0)}
REPEATING = [name for name in LAWS if name not in ("chinchilla", "gadre", "frantar")]


def law(form, params="body", **changes):
    return Fit(form, LAWS[form], params, "ok", (), 0.0, 100, noise=0.005, ranges=RANGES, **changes)


def drawn(fit, k=40, spread=0.01, seed=0):
    rng = np.random.default_rng(seed)
    return replace(
        fit, draws={name: tuple(value * np.exp(spread * rng.normal(size=k))) for name, value in fit.parameters.items()}
    )


@pytest.mark.parametrize("flops", [1e17, 1e20, 1e24])
def test_chinchilla_allocation_is_its_closed_form(flops):
    theta = LAWS["chinchilla"]
    alpha, beta = theta["alpha"], theta["beta"]
    G = (alpha * theta["A"] / (beta * theta["B"])) ** (1 / (alpha + beta))
    best = best_allocation(law("chinchilla"), 1e9, flops, limits=Limits((1.0, 1.0), epochs=1e9))
    assert pytest.approx(G * (flops / 6) ** (beta / (alpha + beta)), rel=2e-4) == best.N
    assert best.tokens == pytest.approx((flops / 6) ** (alpha / (alpha + beta)) / G, rel=2e-4)
    assert best.flops == pytest.approx(flops)
    assert best.epochs == pytest.approx(best.tokens / 1e9)


def test_frantar_allocation_at_a_density_is_chinchillas_with_its_factor():
    theta, s, flops = LAWS["frantar"], 0.25, 1e20
    alpha, beta = theta["alpha"], theta["beta"]
    factor = 1 + theta["a_S"] * (s ** theta["b_S"] - 1)
    G = (alpha * theta["A"] * factor / (beta * theta["B"])) ** (1 / (alpha + beta))
    limits = Limits((s, s), epochs=1e9)
    free = best_allocation(law("frantar"), 1e9, flops, Compute(zeros_free=True), limits)
    assert pytest.approx(G * (flops / 6) ** (beta / (alpha + beta)), rel=2e-4) == free.N
    assert free.size == pytest.approx(free.N / s)
    paid = best_allocation(law("frantar"), 1e9, s * flops / s, Compute(), limits)  # as if C were C s
    assert pytest.approx(G * (s * flops / 6) ** (beta / (alpha + beta)), rel=2e-4) == paid.N


@pytest.mark.parametrize("form", ["muennighoff", "muennighoff:untied", "power:overfit"])
def test_with_more_data_than_compute_can_use_the_optimum_is_chinchillas(form):
    theta = LAWS[form]
    alpha, beta = theta["alpha"], theta.get("beta", theta["alpha"])
    G = (alpha * theta["A"] / (beta * theta["B"])) ** (1 / (alpha + beta))
    best = best_allocation(law(form), 1e15, 1e20, limits=Limits((1.0, 1.0)))
    assert pytest.approx(G * (1e20 / 6) ** (beta / (alpha + beta)), rel=2e-4) == best.N
    assert best.epochs < 1


@pytest.mark.parametrize("form", REPEATING)
@pytest.mark.parametrize(("U", "flops"), [(3e8, 3e20), (2e10, 1e20)])
@pytest.mark.parametrize("zeros_free", [False, True])
def test_no_allocation_of_a_fine_grid_is_better(form, U, flops, zeros_free):
    fit = law(form)
    best = best_allocation(fit, U, flops, Compute(zeros_free))
    s = np.append(np.linspace(1 / 16, 1, 60), best.density)[:, None, None]
    N = np.append(np.geomspace(1e5, 1e13, 241), best.N)[:, None]
    paid = N if zeros_free else N / s
    # All of the compute, and parts of it: less may be more where repetition hurts.
    D = np.minimum(flops / (6 * paid), 1000 * U) * np.append(np.geomspace(1e-4, 1, 40), 1 - 1e-12)
    N, U_, D, s = (np.ravel(each) for each in np.broadcast_arrays(N, U, D, s))
    losses = fit.predict(N, U_, D, s)
    assert best.loss <= losses.min() + 1e-7
    assert best.loss == pytest.approx(PLAIN[form](LAWS[form], best.N, U, best.tokens, best.density), abs=1e-9)
    assert best.flops <= flops * (1 + 1e-9)
    assert best.flops == pytest.approx(6 * (best.N if zeros_free else best.size) * best.tokens)


@pytest.mark.parametrize("form", [name for name in REPEATING if "overfit" not in name])
def test_lowest_loss_is_where_repeats_and_excess_parameters_saturate(form):
    theta, U = LAWS[form], 1.3e9

    def limit(s):
        """With N_eff = U_N (1 + R_N*) and D_eff = U (1 + R_D*), from a law at astronomical N and D."""
        return PLAIN[form](theta, 1e6 * U, U, 1e6 * U, s)

    found = lowest_loss(law(form), U)
    densities = np.append(np.linspace(1 / 16, 1, 20001), found.density)
    losses = np.array([limit(s) for s in densities])
    assert found.loss == pytest.approx(losses.min(), abs=1e-7)
    assert found.dense_loss == pytest.approx(limit(1.0), abs=1e-9)
    assert limit(found.density) == pytest.approx(found.loss, abs=1e-9)


def test_published_loss_optimal_density():
    found = lowest_loss(published_fit(), 1.3e9)
    assert found.density == pytest.approx(0.555, abs=1e-3)
    assert (round(found.loss, 4), round(found.dense_loss, 4)) == (2.7807, 2.8266)
    assert lowest_loss(published_fit(), 130e9).density == pytest.approx(found.density, abs=1e-3)


@pytest.mark.parametrize("form", [name for name in REPEATING if "overfit" in name])
def test_where_repetition_hurts_the_optimum_has_finite_epochs(form):
    U, fit = 1e9, law(form)
    floor = lowest_loss(fit, U)
    epochs = np.geomspace(1, 1000, 200)[:, None, None]
    N = np.geomspace(1e6, 1e25, 600)[:, None]
    s = np.append(np.linspace(1 / 16, 1, 40), floor.density)
    N, D, s = (np.ravel(each) for each in np.broadcast_arrays(N, U * epochs, s))
    losses = fit.predict(N, U, D, s)
    assert floor.loss <= losses.min() + 1e-7
    assert floor.loss >= losses.min() - 1e-3
    rich = best_allocation(fit, U, 1e26)
    assert floor.loss - 1e-6 <= rich.loss
    assert rich.epochs < 20
    capped = best_allocation(fit, U, 1e26, limits=Limits.of(fit, size=1e9))  # where N may not grow, D must stop
    assert capped.flops < 0.01e26


def test_size_and_epochs_stay_within_limits():
    fit = published_fit()
    limits = Limits.of(fit, epochs=3, size=5e8)
    best = best_allocation(fit, 3e8, 1e22, limits=limits)
    assert (best.size, best.epochs) == (pytest.approx(5e8), pytest.approx(3))
    assert best.flops == pytest.approx(6 * 5e8 * 9e8)  # the rest of the compute is of no use
    dense = best_allocation(fit, 3e8, 1e22, limits=replace(limits, densities=(1.0, 1.0)))
    assert dense.density == 1
    assert dense.loss > best.loss


def test_laws_that_take_repeats_for_fresh_tokens_stop_at_the_fitted_epochs():
    fit = law("chinchilla")
    assert best_allocation(fit, 1e6, 1e22).epochs == pytest.approx(16)
    for ask in (lowest_loss, loss_optimal, compute_saved):
        with pytest.raises(InputError, match="fresh"):
            ask(fit, 1e9)
    assert compute_saved(law("frantar"), 1e9, flops=1e20).factor > 1 - 1e-6


@pytest.mark.parametrize("form", ["chinchilla", "muennighoff"])
@pytest.mark.parametrize("zeros_free", [False, True])
def test_dense_is_chosen_where_density_gains_nothing(form, zeros_free):
    assert best_allocation(law(form), 1e9, 1e20, Compute(zeros_free)).density == 1


@pytest.mark.parametrize("form", ["sparse", "power:overfit", "sparse:power,step"])
@pytest.mark.parametrize("zeros_free", [False, True])
def test_cheapest_is_the_inverse_of_best(form, zeros_free):
    fit, U, compute = law(form), 1e9, Compute(zeros_free)
    best = best_allocation(fit, U, 1e18, compute)
    back = cheapest_allocation(fit, U, best.loss, compute)
    assert back.flops == pytest.approx(1e18, rel=1e-4)
    assert back.loss == pytest.approx(best.loss, abs=1e-6)


def test_loss_optimal_is_the_cheapest_run_near_the_lowest_loss():
    fit, U = published_fit(), 1.3e9
    found = loss_optimal(fit, U)
    assert found.loss == pytest.approx(lowest_loss(fit, U).loss + WITHIN, abs=1e-6)
    assert best_allocation(fit, U, 0.99 * found.flops).loss > found.loss


def test_a_loss_out_of_reach_is_said_to_be():
    for loss in (2.5, 1e9):
        with pytest.raises(InputError, match="loss"):
            cheapest_allocation(published_fit(), 1.3e9, loss)


@pytest.mark.parametrize("zeros_free", [False, True])
def test_compute_saved_compares_equal_losses(zeros_free):
    fit, U, compute = published_fit(), 1.3e9, Compute(zeros_free)
    saving = compute_saved(fit, U, compute)
    assert saving.loss == pytest.approx(lowest_loss(fit, U).dense_loss + WITHIN, abs=1e-8)
    assert saving.dense.density == 1
    for each in (saving.dense, saving.cheapest):
        assert fit.predict(each.N, U, each.tokens, each.density)[0] == pytest.approx(saving.loss, abs=1e-7)
    assert saving.factor == pytest.approx(saving.dense.flops / saving.cheapest.flops)
    for s in np.linspace(1 / 16, 1, 16):
        at = best_allocation(fit, U, 0.999 * saving.cheapest.flops, compute, Limits((s, s)))
        assert at.loss > saving.loss
    given = compute_saved(fit, U, compute, flops=saving.dense.flops)
    assert given.factor == pytest.approx(saving.factor, rel=1e-3)


def test_with_tied_exponents_savings_depend_on_the_scale_of_data_through_the_tolerance_alone():
    """(L − E) U^α is then a function of N/U, D/U and s, so that C enters as C / U²."""
    fit = published_fit()
    small = compute_saved(fit, 1e9, within=0.02)
    large = compute_saved(fit, 1e11, within=0.02 * 100 ** -fit.parameters["alpha"])
    assert large.factor == pytest.approx(small.factor, rel=1e-3)
    assert large.cheapest.density == pytest.approx(small.cheapest.density, abs=2e-3)
    assert large.cheapest.flops == pytest.approx(1e4 * small.cheapest.flops, rel=1e-3)


@pytest.mark.parametrize("zeros_free", [False, True])
def test_exact_flops_are_those_of_real_models(zeros_free):
    fit, U, flops = law("sparse", "active"), 1e9, 1e20
    best = best_allocation(fit, U, flops, Compute(zeros_free, exact=True, family=Family(32_000, 2048)))
    assert best.flops == pytest.approx(flops)
    for shape in LADDER.values():
        counts = count_parameters(shape, 32_000)
        for s in (1.0, 0.5, 0.125):
            active = counts.maskable * s
            D = flops / training_flops(shape, 32_000, 2048, 1, active if zeros_free else None)
            assert best.loss <= fit.predict(counts.active(active), U, D, s)[0] + 1e-9


@pytest.mark.parametrize("form", ["sparse", "power:overfit"])
def test_intervals_are_quantiles_of_the_optima_of_the_draws(form):
    fit = drawn(law(form), k=12)
    found = best_allocation(fit, 1e9, 1e20)
    each = [
        best_allocation(
            replace(fit, parameters={name: fit.draws[name][i] for name in fit.draws}, draws=None), 1e9, 1e20
        )
        for i in range(12)
    ]
    for name in ("size", "density", "N", "epochs", "tokens", "loss"):
        values = [getattr(one, name) for one in each]
        low, high = found.intervals[name]
        assert (low, high) == (pytest.approx(min(values), rel=1e-6), pytest.approx(max(values), rel=1e-6))


def test_intervals_hold_the_estimate_and_are_absent_without_draws():
    fit = published_fit()
    uncertain = drawn(fit)
    for ask in (
        lambda fit: best_allocation(fit, 1e9, 1e20),
        lambda fit: lowest_loss(fit, 1e9),
        lambda fit: loss_optimal(fit, 1e9),
    ):
        found = ask(uncertain)
        for name, (low, high) in found.intervals.items():
            assert low * (1 - 1e-9) <= getattr(found, name) <= high * (1 + 1e-9), name
        assert ask(fit).intervals is None
    saving = compute_saved(uncertain, 1e9)
    assert saving.interval[0] < saving.factor < saving.interval[1]
    assert compute_saved(fit, 1e9).interval is None


def test_an_interval_is_open_where_draws_do_not_reach_the_loss():
    fit = published_fit()
    target = lowest_loss(fit, 1e9).loss + 0.002
    found = cheapest_allocation(drawn(fit), 1e9, target)
    low, high = found.intervals["flops"]
    assert high is None
    assert 0 < low < found.flops


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("flops", lambda fit: best_allocation(fit, 1e9, 0)),
        ("flops", lambda fit: best_allocation(fit, 1e9, inf)),
        ("unique_tokens", lambda fit: best_allocation(fit, -1e9, 1e20)),
        ("unique_tokens", lambda fit: lowest_loss(fit, float("nan"))),
        ("within", lambda fit: loss_optimal(fit, 1e9, within=0)),
        ("loss", lambda fit: cheapest_allocation(fit, 1e9, -1)),
        ("density", lambda fit: Limits.of(fit, density=0)),
        ("density", lambda fit: Limits((0.5, 1.5))),
        ("epochs", lambda fit: Limits.of(fit, epochs=0)),
        ("max_params", lambda fit: Limits.of(fit, size=-1)),
        (
            "max_params",
            lambda fit: best_allocation(
                fit, 1e9, 1e20, Compute(family=Family(32_000, 2048)), Limits.of(fit, size=1000)
            ),
        ),
    ],
)
def test_bad_input_is_named(field, ask):
    with pytest.raises(InputError) as caught:
        ask(published_fit())
    assert caught.value.field == field


def test_an_even_finer_search_of_one_density_agrees():
    """The nested grids against scipy's scalar minimiser on one slice."""
    fit, U, flops, s = published_fit(), 1.3e9, 1e20, 0.5

    def loss(log_size):
        return fit.predict(exp(log_size) * s, U, flops / 6 / exp(log_size), s)[0]

    reference = minimize_scalar(loss, bounds=(18, 24), method="bounded", options={"xatol": 1e-9})
    best = best_allocation(fit, U, flops, limits=Limits((s, s)))
    assert best.loss == pytest.approx(reference.fun, abs=1e-10)
    assert np.log(best.size) == pytest.approx(reference.x, abs=1e-3)

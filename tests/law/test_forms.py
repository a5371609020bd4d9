import math

import numpy as np
import pandas as pd
import pytest

from sparsedc.errors import InputError
from sparsedc.law.design import Design
from sparsedc.law.forms import FORMS, get_form
from sparsedc.law.likelihood import Huber
from sparsedc.law.published import PUBLISHED, WHEN_DATA_IS_SCARCE, validation_runs

from .conftest import DATA
from .plain import LAWS as PLAIN


def test_published_law_reproduces_the_published_predictions():
    runs = validation_runs()
    design = Design.of(runs["params_active"], runs["unique_tokens"], runs["tokens"], runs["density"])
    predicted = FORMS["sparse"].loss(WHEN_DATA_IS_SCARCE, design)
    np.testing.assert_array_equal(predicted.round(4), runs["published_pred"])
    truth = runs["val_loss"]
    r_squared = 1 - ((predicted - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert round(r_squared, 4) == 0.9136


def test_muennighoff_has_the_published_objective_on_the_published_runs():
    runs = pd.read_csv(DATA / "datablations_c4_fit182.csv")
    theta = {
        "E": math.exp(0.6254804),
        "A": math.exp(6.255414),
        "B": math.exp(7.3049974),
        "alpha": 0.3526596,
        "R_D_star": 15.387756,
        "R_N_star": 5.309743,
    }
    design = Design.of(runs["params"], runs["unique_tokens"], runs["tokens"], 1.0)
    residuals = np.log(FORMS["muennighoff"].loss(theta, design)) - np.log(runs["val_loss"].to_numpy())
    assert Huber(1e-3).objective(residuals) == pytest.approx(0.0158259366, abs=2e-8)


@pytest.mark.parametrize("form", PLAIN)
def test_form_equals_its_plain_formula(form, laws):
    rng = np.random.default_rng(1)
    N, U = 10 ** rng.uniform(5, 11, 200), 10 ** rng.uniform(6, 11, 200)
    D = U * rng.choice([0.3, 1.0, 1.5, 4.0, 100.0], 200)
    s = rng.choice([1.0, 0.9, 0.5, 0.25, 0.0625], 200)
    loss = get_form(form).loss(laws[form], Design.of(N, U, D, s))
    assert loss.dtype == np.float64
    expected = [PLAIN[form](laws[form], *point) for point in zip(N, U, D, s, strict=True)]
    # The coupled one's N_opt is found there by differences, and where N exceeds it shows to their precision.
    np.testing.assert_allclose(loss, expected, rtol=1e-8 if "coupled" in form else 1e-12)


def test_coupled_is_kaplans_law():
    """Kaplan et al. 2020, equation 1.5 with the constants of its table 2, written as it stands there."""
    alpha_N, alpha_D, N_c, D_c = 0.076, 0.103, 6.4e13, 1.8e13
    N, D = np.meshgrid(np.geomspace(1e5, 1e11, 7), np.geomspace(1e7, 1e12, 6))
    theta = {
        "E": 0.0, "A": N_c**alpha_N, "B": D_c**alpha_D, "alpha": alpha_N, "beta": alpha_D, "q": 1 / alpha_D,
    }  # fmt: skip
    loss = get_form("muennighoff:unlimited,untied,coupled").loss(theta, Design.of(N, D, D, 1.0))
    np.testing.assert_allclose(loss, ((N_c / N) ** (alpha_N / alpha_D) + D_c / D) ** alpha_D, rtol=1e-12)


def test_coupled_terms_lie_between_their_sum_and_the_larger_one(laws):
    additive, coupled = get_form("power:untied"), get_form("power:untied,coupled")
    design = Design.of([1e6, 1e9, 1e12], [1e11, 1e9, 1e7], [1e11, 4e9, 1e8], [1.0, 0.5, 0.25])
    theta = laws["muennighoff:untied"] | {"epsilon": 0.2}
    np.testing.assert_allclose(coupled.loss(theta | {"q": 1.0}, design), additive.loss(theta, design), rtol=1e-13)
    largest = coupled.loss(theta | {"q": 1e4}, design)  # of which no power may overflow
    assert np.isfinite(largest).all()
    assert (largest < coupled.loss(theta | {"q": 3.0}, design)).all()


def test_sparse_stays_finite_where_its_formula_would_not_exist(laws):
    wild = laws["sparse"] | {"c": -2.0, "c21": 20.0, "c22": 20.0}
    design = Design.of(1e8, 1e9, 1e10, [0.5, 0.05])
    assert np.isfinite(get_form("sparse").loss(wild, design)).all()


def test_published_constants_are_complete():
    for form, constants in PUBLISHED.items():
        assert set(constants) == set(get_form(form).names)


@pytest.mark.parametrize("form", ["power", "sparse", "sparse:frantar,untied,overfit", "power:untied,coupled"])
def test_laws_broadcast_over_runs_or_along_them(form, laws):
    """θ may be one for all runs, k for each of them, or one of its own for each run."""
    design = Design.of([1e8, 2e9, 1e8], [1e9, 1e9, 2e9], 8e9, [0.5, 1.0, 0.5])
    theta = {name: value * np.array([1.0, 1.01, 1.02]) for name, value in laws[form].items()}
    law = get_form(form)
    single = np.array([law.loss({name: v[i] for name, v in theta.items()}, design) for i in range(3)])
    np.testing.assert_allclose(law.loss({n: v[:, None] for n, v in theta.items()}, design), single, rtol=1e-13)
    np.testing.assert_allclose(law.loss(theta, design), np.diag(single), rtol=1e-13)


def test_untied_beta_equal_to_alpha_is_the_tied_law(laws):
    design = Design.of([1e8, 1e10], 1e9, [1e10, 1e11], 1.0)
    tied = laws["muennighoff"]
    untied = get_form("muennighoff:untied").loss(tied | {"beta": tied["alpha"]}, design)
    np.testing.assert_allclose(untied, get_form("muennighoff").loss(tied, design), rtol=1e-13)


@pytest.mark.parametrize("name", ["sparse", "muennighoff:untied", "power:untied,coupled"])
def test_n_opt_is_the_best_size_of_the_compute_at_which_its_tokens_are_optimal(name, laws):
    """By brute force: of all N at 6 N D = C, the best one has D = U."""
    form, theta, U = get_form(name), laws[name], 2e9
    for s in (1.0, 0.25):
        N_opt = float(np.exp(form.log_N_opt(theta, np.log(U), np.array([s])))[0])
        N = N_opt * np.geomspace(0.5, 2, 4001)
        D = N_opt * U / N  # of equal compute
        A, B = theta["A"] * form.factor(theta, np.array([s]))[0], theta["B"]
        q = theta.get("q", 1.0)
        loss = (A / N ** theta["alpha"]) ** q + (B / D ** form.beta(theta)) ** q
        assert N[loss.argmin()] == pytest.approx(N_opt, rel=1e-3)


def test_only_the_penalty_turns_the_law_upward_with_repetition(laws):
    epochs = np.geomspace(1, 200, 50)
    design = Design.of(1e9, 1e8, 1e8 * epochs, 1.0)
    plain, penalised = (get_form(name).loss(laws[name], design) for name in ("power", "power:overfit"))
    assert (np.diff(plain) <= 0).all()
    assert 0 < penalised.argmin() < len(epochs) - 1
    assert penalised[0] == plain[0]  # one epoch over-fits nothing


def test_switches_may_come_in_any_order():
    one, other = get_form("sparse:power,untied,step"), get_form("sparse: step,untied, power")
    assert one.names == other.names
    assert one.formula == other.formula


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("kaplan", "no such form"),
        ("chinchilla:untied", "no such form"),
        ("sparse:", "no switch ''"),
        ("sparse:cubic", "no switch 'cubic'"),
        ("sparse:power,frantar", "more than one"),
        ("sparse:overfit,overfit", "more than one"),
    ],
)
def test_forms_that_do_not_exist(name, problem):
    with pytest.raises(InputError, match=problem):
        get_form(name)

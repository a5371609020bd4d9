"""AdamW on active blocks: torch's own where nothing is born, and plain references where weights are."""

import io
import math
from typing import Any

import pytest
import torch

from sparsedc import optim
from sparsedc.config import MAX_AGE, NewbornPolicy
from sparsedc.errors import InputError
from sparsedc.optim import POLICIES, Newborn, SparseAdamW

LATE = 20_000  # by then 1 − 0.999^t is 1
SETTINGS: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "newborn": Newborn()}


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse(master: torch.Tensor, dtype: torch.dtype = torch.float32, **settings: Any) -> SparseAdamW:
    return SparseAdamW(master.clone(), dtype, **SETTINGS | settings)


def rate(step: int) -> float:
    return 3e-3 * (1 + math.cos(step / 7)) + 1e-4


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("area", [1, 4])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999), (0.0, 0.95)])
def test_without_births_it_is_torch_adamw_bit_for_bit(
    policy: NewbornPolicy, area: int, betas: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every policy: weights there from the start are never slowed. In parts of several sizes, too."""
    monkeypatch.setattr(optim, "CHUNK", 100)
    start = normal(64, area, seed=99)
    theirs = torch.nn.Parameter(start.clone())
    plain = torch.optim.AdamW([theirs], betas=betas, eps=1e-8, weight_decay=0.1)
    ours = sparse(start, betas=betas, newborn=Newborn(policy, 20))
    for step in range(1, 51):
        gradient = normal(64, area, seed=step) + theirs.detach()  # a difference in one step lasts
        clip = torch.tensor(1 / (1 + step % 5))
        theirs.grad = gradient * clip
        plain.param_groups[0]["lr"] = rate(step)
        plain.step()
        ours.gradient.copy_(gradient)
        ours.step(rate(step), clip)
        assert ours.master.equal(theirs)
    state = plain.state[theirs]
    assert ours.mean.equal(state["exp_avg"])
    assert ours.square.equal(state["exp_avg_sq"])


class ScalarAdamW:
    """One weight in Python floats, from the definitions of the policies; `rebirth` starts it over at zero.

    `age` is what the counter holds when the weight is born: 0 here, 1 in SMET's released code.
    """

    def __init__(
        self, weight: float, policy: NewbornPolicy, ramp: int, weight_decay: float = 0.1, at_birth: int = 0
    ) -> None:
        self.weight, self.policy, self.ramp, self.weight_decay = weight, policy, ramp, weight_decay
        self.mean, self.square, self.age, self.steps = 0.0, 0.0, 0, 0
        self.at_birth, self.born = at_birth, False

    def rebirth(self) -> None:
        self.weight = self.mean = self.square = 0.0
        self.age, self.born = self.at_birth, True

    def step(self, lr: float, gradient: float) -> float:
        """Returns the update."""
        self.age += 1
        self.steps += 1
        ramp = min(self.age / self.ramp, 1.0) if self.born else 1.0
        self.mean = 0.9 * self.mean + (1 - 0.9) * gradient
        self.square = 0.999 * self.square + (1 - 0.999) * gradient**2
        if self.policy == "compounding":
            self.mean *= ramp
        t = self.steps if self.policy == "naive" else self.age
        update = lr * (self.mean / (1 - 0.9**t)) / (math.sqrt(self.square / (1 - 0.999**t)) + 1e-8)
        if self.policy == "linear":
            update *= ramp
        self.weight = self.weight * (1 - lr * self.weight_decay) - update
        return update


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("area", [1, 3])
def test_rebirths_at_random_are_the_scalar_reference(policy: NewbornPolicy, area: int) -> None:
    start = normal(20, area, seed=5)
    ours = sparse(start, newborn=Newborn(policy, 7))
    scalars = [[ScalarAdamW(w, policy, 7) for w in block] for block in start.tolist()]
    born_ever = torch.zeros(20, dtype=torch.bool)
    for step in range(1, 121):
        gradient = normal(20, area, seed=step)
        ours.gradient.copy_(gradient)
        ours.step(rate(step))
        for block, gradients in zip(scalars, gradient.tolist(), strict=True):
            for scalar, gradient in zip(block, gradients, strict=True):
                scalar.step(rate(step), gradient)
        born = torch.rand(20, generator=torch.Generator().manual_seed(step)) < 0.05
        born[:3] = False  # some are there from the start to the end
        born_ever |= born
        for key in SparseAdamW.STATE:
            getattr(ours, key)[born] = 0
        for block in (block for block, reborn in zip(scalars, born.tolist(), strict=True) if reborn):
            for scalar in block:
                scalar.rebirth()
    assert 10 < int(born_ever.sum()) < 20
    expected = torch.tensor([[scalar.weight for scalar in block] for block in scalars])
    torch.testing.assert_close(ours.master, expected, rtol=1e-5, atol=1e-6)
    assert ours.age.tolist() == [block[0].age for block in scalars]


def updates_after_birth(policy: NewbornPolicy, steps: int, ramp: int = 100, born_at: int = LATE) -> list[float]:
    """Sizes, in learning rates, of the first updates of a weight born late, at a constant gradient."""
    ours = sparse(torch.zeros(2, 1), weight_decay=0.0, newborn=Newborn(policy, ramp))
    ours.steps.fill_(born_at)
    ours.age[1] = min(born_at, MAX_AGE)  # beside one that has been there from the start
    ours.mean[1] = ours.square[1] = 1.0
    sizes = []
    for _ in range(steps):
        ours.master.zero_()
        ours.gradient.fill_(1.0)
        ours.step(1.0)
        old, new = ours.master[1].item(), ours.master[0].item()
        assert -old == pytest.approx(1.0, rel=1e-4)
        sizes.append(-new)
    return sizes


def test_naive_newborns_jump() -> None:
    """Zero moments under the global step: 3.16 learning rates at once, 6.57 at the twelfth step."""
    sizes = updates_after_birth("naive", 101)
    assert sizes[0] == pytest.approx((1 - 0.9) / math.sqrt(1 - 0.999), rel=1e-3)
    assert sizes[0] == pytest.approx(3.16, abs=0.005)
    assert max(sizes) == pytest.approx(6.57, rel=1e-2)
    assert sizes.index(max(sizes)) == 11
    # Row "naive Adam" of the table that was measured with SMET's code: steps 5, 20, 50 and 100.
    assert [sizes[step - 1] for step in (5, 20, 50, 100)] == pytest.approx([5.80, 6.24, 4.50, 3.24], abs=0.006)


def test_reset_newborns_start_at_one_learning_rate() -> None:
    assert updates_after_birth("reset", 100) == pytest.approx([1.0] * 100, rel=1e-5)


@pytest.mark.parametrize("ramp", [1, 7, 100])
def test_linear_newborns_are_eased_in(ramp: int) -> None:
    expected = [min(age / ramp, 1.0) for age in range(1, 121)]
    assert updates_after_birth("linear", 120, ramp) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ramp", [1, 7, 100])
def test_compounding_is_the_product_of_its_factors(ramp: int) -> None:
    """Of the gradient of age s, the first moment at age t holds 0.1 · 0.9^(t−s) · ∏ of the factors from s to t."""
    factor = [min(age / ramp, 1.0) for age in range(121)]
    expected = [
        sum(0.1 * 0.9 ** (t - s) * math.prod(factor[s : t + 1]) for s in range(1, t + 1)) / (1 - 0.9**t)
        for t in range(1, 121)
    ]
    assert updates_after_birth("compounding", 120, ramp) == pytest.approx(expected, rel=1e-4)


def test_compounding_is_what_was_measured_of_the_released_code_but_for_its_counter() -> None:
    """Released code sets the counter of a newborn to 1, so that its first step is the second by its own count; ours
    starts at 0, and its first step is the first. The reference agrees with their numbers when it counts as they do,
    and with ours when it counts as we do."""
    sizes = {}
    for at_birth in (0, 1):
        scalar = ScalarAdamW(0.0, "compounding", 100, weight_decay=0.0, at_birth=at_birth)
        scalar.rebirth()
        sizes[at_birth] = [scalar.step(1.0, 1.0) for _ in range(100)]
    published = {1: 0.015, 5: 0.015, 20: 0.029, 50: 0.093, 100: 0.70}
    assert [sizes[1][step - 1] for step in published] == pytest.approx(list(published.values()), abs=6e-3)
    assert sum(sizes[1]) == pytest.approx(16, abs=0.5)
    assert updates_after_birth("compounding", 100) == pytest.approx(sizes[0], rel=1e-4)
    assert sizes[0][0] == pytest.approx(0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_old_weights_are_not_slowed_beside_newborn_ones(policy: NewbornPolicy) -> None:
    """Ages of at most three steps and a ramp of a hundred: only those born are on it."""
    ours = sparse(torch.ones(3, 1), weight_decay=0.0, newborn=Newborn(policy, 100))
    for step in range(1, 4):
        ours.master.zero_()
        ours.gradient.fill_(1.0)
        ours.step(1.0)
        if step == 2:
            for key in SparseAdamW.STATE:
                getattr(ours, key)[1] = 0
    old, new, other = (-ours.master).flatten().tolist()
    assert old == other == pytest.approx(1.0, rel=1e-5)
    naive = 0.1 / math.sqrt(0.001) * math.sqrt(1 - 0.999**3) / (1 - 0.9**3)
    expected = {"reset": 1.0, "naive": naive, "linear": 0.01, "compounding": 0.01}
    assert new == pytest.approx(expected[policy], rel=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
def test_ages_saturate(policy: NewbornPolicy) -> None:
    """Past 32,767 steps ages stay, the old ones count as old, and a ramp of that length is over."""
    ours = sparse(torch.zeros(3, 1), weight_decay=0.0, newborn=Newborn(policy, MAX_AGE))
    ours.steps.fill_(MAX_AGE - 2)
    ours.age.copy_(torch.tensor([MAX_AGE - 2, MAX_AGE - 4, 0]))
    ours.mean[:2] = ours.square[:2] = 1.0
    ages = []
    for _ in range(6):
        ours.master.zero_()
        ours.gradient.fill_(1.0)
        ours.step(1.0)
        ages.append(ours.age.tolist())
    expected = [[min(MAX_AGE, MAX_AGE - 2 + i), min(MAX_AGE, MAX_AGE - 4 + i), i] for i in range(1, 7)]
    assert ages == expected
    assert ours.age.dtype == torch.int16
    assert ours.steps == MAX_AGE + 4
    slowed = 6 / MAX_AGE
    sizes = {"reset": 1.0, "naive": updates_after_birth("naive", 6)[-1], "linear": slowed}
    found = (-ours.master).flatten().tolist()
    assert found[:2] == pytest.approx([1.0, 1.0], rel=1e-3)
    if policy != "compounding":
        assert found[2] == pytest.approx(sizes[policy], rel=1e-3)
    assert int(ours.ages().sum()) == 3
    assert int(ours.ages()[MAX_AGE]) == 2


def test_gradients_of_half_precision_train_full_weights() -> None:
    """Updates far below the resolution of bfloat16 add up, and second moments decay."""
    ours = sparse(torch.ones(4, 2), torch.bfloat16, weight_decay=0.0)
    assert ours.gradient.dtype == torch.bfloat16
    for _ in range(100):
        ours.gradient.fill_(1.0)
        ours.step(1e-5)
    assert ours.master.dtype == ours.mean.dtype == ours.square.dtype == torch.float32
    torch.testing.assert_close(ours.master, torch.full((4, 2), 1 - 1e-3), rtol=0, atol=2e-6)
    before = ours.square.clone()
    ours.gradient.zero_()
    ours.step(1e-5)
    torch.testing.assert_close(ours.square, before * 0.999)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_stand_in_place_of_the_gradient_after_a_step(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "CHUNK", 10)
    ours = sparse(normal(13, 2, seed=0), dtype)
    ours.gradient.copy_(normal(13, 2, seed=1))
    ours.step(1e-2)
    assert ours.gradient.dtype == dtype
    assert ours.gradient.equal(ours.master.to(dtype))


def test_norm_is_the_euclidean_one_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "CHUNK", 10)
    ours = sparse(normal(33, 4, seed=0), torch.bfloat16)
    ours.gradient.copy_(normal(33, 4, seed=1) * 1e3)
    expected = math.sqrt(sum(g * g for row in ours.gradient.tolist() for g in row))
    assert ours.gradient_norm().item() == pytest.approx(expected, rel=1e-6)


def test_sizes_of_updates_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "CHUNK", 10)
    ours = sparse(normal(40, 3, seed=0), weight_decay=0.0)
    for step in range(1, 9):
        ours.gradient.copy_(normal(40, 3, seed=step))
        assert ours.step(1e-2) is None
        if step == 5:
            for key in SparseAdamW.STATE:
                getattr(ours, key)[::3] = 0
    before = ours.master.double()
    sizes = ours.step(1e-2, measured_age=4)
    assert sizes is not None
    moved = ours.master.double() - before
    rest = torch.ones(40, dtype=torch.bool)
    rest[::3] = False
    assert sizes.newborn.item() == pytest.approx(moved[::3].square().mean().sqrt().item(), rel=1e-4)
    assert sizes.kept.item() == pytest.approx(moved[rest].square().mean().sqrt().item(), rel=1e-4)
    assert sizes.newborn.item() != pytest.approx(sizes.kept.item(), rel=1e-2)
    ours.gradient.fill_(1.0)
    nobody = ours.step(1e-2, measured_age=4)
    assert nobody is not None
    assert nobody.newborn.isnan()


def test_ages_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "CHUNK", 4)
    ours = sparse(torch.zeros(11, 2))
    ages = [0, 3, 3, MAX_AGE, 7, 0, 3, 1, 1, MAX_AGE, 0]
    ours.age.copy_(torch.tensor(ages))
    ours.steps.fill_(2 * MAX_AGE)
    counts = ours.ages()
    assert len(counts) == MAX_AGE + 1
    assert {age: int(counts[age]) for age in set(ages)} == {age: ages.count(age) for age in set(ages)}
    assert int(counts.sum()) == 11


def test_truncation_keeps_the_first_and_frees_the_rest() -> None:
    ours = sparse(normal(10, 2, seed=0))
    ours.gradient.copy_(normal(10, 2, seed=1))
    ours.step(0.1)
    before = {key: getattr(ours, key).clone() for key in (*SparseAdamW.STATE, "gradient")}
    ours.truncate(4)
    for key, values in before.items():
        kept = getattr(ours, key)
        assert kept.equal(values[:4])
        assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


def test_resumed_optimizer_continues_bit_for_bit() -> None:
    straight = sparse(normal(12, 2, seed=1), newborn=Newborn("linear", 5))
    for step in range(1, 11):
        straight.gradient.copy_(normal(12, 2, seed=step))
        straight.step(rate(step))
        if step == 4:
            for key in SparseAdamW.STATE:
                getattr(straight, key)[::2] = 0
        if step == 6:
            file = io.BytesIO()
            torch.save(straight.state_dict(), file)
    resumed = sparse(torch.zeros(12, 2), newborn=Newborn("linear", 5))
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(7, 11):
        resumed.gradient.copy_(normal(12, 2, seed=step))
        resumed.step(rate(step))
    assert resumed.steps == straight.steps == 10
    for key in SparseAdamW.STATE:
        assert getattr(resumed, key).equal(getattr(straight, key))


def test_loaded_state_is_a_copy() -> None:
    first, second = sparse(torch.ones(3, 1)), sparse(torch.zeros(3, 1))
    second.load_state_dict(first.state_dict())
    second.gradient.fill_(1.0)
    second.step(0.1)
    assert first.master.eq(1).all()
    assert first.age.eq(0).all()


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("beta1", {"betas": (1.0, 0.999)}),
        ("beta1", {"betas": (-0.1, 0.999)}),
        ("beta2", {"betas": (0.9, 1.0)}),
        ("beta2", {"betas": (0.9, 0.9999)}),  # 0.9999^32767 is 0.04: ages end too early
        ("beta2", {"betas": (0.9, math.nan)}),
        ("eps", {"eps": 0.0}),
        ("eps", {"eps": math.inf}),
        ("weight_decay", {"weight_decay": -0.1}),
        ("weight_decay", {"weight_decay": math.nan}),
    ],
)
def test_bad_settings(field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        sparse(torch.zeros(2, 1), **settings)
    assert error.value.field == field


def test_slowest_second_moment_that_ages_allow() -> None:
    sparse(torch.zeros(2, 1), betas=(0.9, 0.9994))


@pytest.mark.parametrize(
    ("field", "arguments"),
    [("newborn", ("eased",)), ("ramp_steps", ("linear", 0)), ("ramp_steps", ("linear", MAX_AGE + 1))],
)
def test_bad_newborns(field: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InputError) as error:
        Newborn(*arguments)
    assert error.value.field == field


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("policy", POLICIES)
def test_gpu_agrees_with_cpu(policy: NewbornPolicy) -> None:
    results = []
    for device in ("cpu", "cuda"):
        ours = sparse(normal(9, 4, seed=3).to(device), newborn=Newborn(policy, 5))
        for step in range(1, 31):
            ours.gradient.copy_(normal(9, 4, seed=step))
            ours.step(rate(step), torch.tensor(0.5, device=device))
            if step == 10:
                for key in SparseAdamW.STATE:
                    getattr(ours, key)[::2] = 0
        results.append([getattr(ours, key).cpu() for key in SparseAdamW.STATE])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

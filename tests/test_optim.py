"""AdamW: torch's own where nothing is born, and a scalar reference where weights are."""

import math
from copy import deepcopy
from typing import Any

import pytest
import torch

from sparsedc.errors import InputError
from sparsedc.optim import AdamW

SETTINGS: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def train(optimizer: torch.optim.Optimizer, p: torch.nn.Parameter, steps: int) -> list[torch.Tensor]:
    """Steps with gradients that depend on the weights, so that a difference in one step lasts."""
    trajectory = []
    for step in range(steps):
        p.grad = normal(*p.shape, seed=step) + p.detach()
        optimizer.step()
        trajectory.append(p.detach().clone())
    return trajectory


def test_plain_group_is_torch_adamw_bit_for_bit() -> None:
    ours, theirs = (torch.nn.Parameter(normal(13, 7, seed=99)) for _ in range(2))
    found = train(AdamW([ours], **SETTINGS), ours, 50)
    expected = train(torch.optim.AdamW([theirs], **SETTINGS, foreach=False), theirs, 50)
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_aged_group_that_never_forgets_is_adamw() -> None:
    ours, theirs = (torch.nn.Parameter(normal(13, 7, seed=99)) for _ in range(2))
    train(AdamW([ours], aged=True, **SETTINGS), ours, 200)
    train(torch.optim.AdamW([theirs], **SETTINGS), theirs, 200)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_one_aged_step_is_adamw_to_a_millionth() -> None:
    """At every age the update itself, not only the weight that swamps it, is right to 1e-6."""
    ours, exact = torch.nn.Parameter(torch.zeros(64)), torch.nn.Parameter(torch.zeros(64).double())
    aged, plain = (cls([p], lr=1.0) for cls, p in ((aged_adamw, ours), (torch_adamw, exact)))
    for step in range(300):
        for p in (ours, exact):
            p.data.zero_()
            p.grad = (normal(64, seed=step) + 1).to(p.dtype)
        aged.step()
        plain.step()
        torch.testing.assert_close(ours.detach().double(), exact.detach(), rtol=2e-6, atol=2e-6)


def aged_adamw(params: list[torch.nn.Parameter], lr: float) -> AdamW:
    return AdamW(params, lr=lr, aged=True)


def torch_adamw(params: list[torch.nn.Parameter], lr: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(params, lr=lr, weight_decay=0.0)


class ScalarAdamW:
    """One weight in Python floats, from the definition; `forget` is a rebirth."""

    def __init__(self, weight: float) -> None:
        self.weight, self.mean, self.square, self.age = weight, 0.0, 0.0, 0

    def forget(self) -> None:
        self.mean = self.square = 0.0
        self.age = 0

    def step(self, grad: float) -> None:
        (beta1, beta2), lr = SETTINGS["betas"], SETTINGS["lr"]
        self.age += 1
        self.mean = beta1 * self.mean + (1 - beta1) * grad
        self.square = beta2 * self.square + (1 - beta2) * grad**2
        mean, square = self.mean / (1 - beta1**self.age), self.square / (1 - beta2**self.age)
        self.weight -= lr * SETTINGS["weight_decay"] * self.weight
        self.weight -= lr * mean / (math.sqrt(square) + SETTINGS["eps"])


def test_aged_group_is_the_scalar_reference_with_rebirths_at_random() -> None:
    start = normal(4, 5, seed=5)
    p = torch.nn.Parameter(start.clone())
    optimizer = AdamW([p], aged=True, **SETTINGS)
    scalars = [ScalarAdamW(w) for w in start.flatten().tolist()]
    for step in range(150):
        p.grad = normal(4, 5, seed=step)
        optimizer.step()
        for scalar, grad in zip(scalars, p.grad.flatten().tolist(), strict=True):
            scalar.step(grad)
        reborn = torch.rand(4, 5, generator=torch.Generator().manual_seed(step)) < 0.05
        optimizer.forget(p, reborn)
        for scalar, forgets in zip(scalars, reborn.flatten().tolist(), strict=True):
            if forgets:
                scalar.forget()
    found = p.detach().flatten().tolist()
    assert found == pytest.approx([scalar.weight for scalar in scalars], rel=1e-5, abs=1e-6)
    ages = optimizer.state[p]["age"].flatten().tolist()
    assert ages == [scalar.age for scalar in scalars]


def updates_after_rebirth(aged: bool, steps: int, beta2: float = 0.999) -> list[float]:
    """Sizes, in learning rates, of the first updates of a weight reborn late in training; constant gradient."""
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = AdamW([p], lr=1.0, betas=(0.9, beta2), aged=aged)
    p.grad = torch.ones(1)
    for _ in range(20_000):  # late: by now 1 − 0.999^t is 1
        optimizer.step()
    optimizer.forget(p, torch.ones(1, dtype=torch.bool))
    sizes = []
    for _ in range(steps):
        p.data.zero_()
        optimizer.step()
        sizes.append(abs(p.item()))
    return sizes


def test_rebirth_starts_at_one_learning_rate() -> None:
    assert updates_after_rebirth(aged=True, steps=30) == pytest.approx([1.0] * 30, rel=1e-5)


def test_without_ages_rebirth_would_start_at_three_and_peak_at_six() -> None:
    """Why ages exist: zero moments under the global step make a new weight jump."""
    sizes = updates_after_rebirth(aged=False, steps=30)
    assert sizes[0] == pytest.approx((1 - 0.9) / math.sqrt(1 - 0.999), rel=1e-3)  # 3.16
    assert max(sizes) == pytest.approx(6.57, rel=1e-2)
    assert sizes.index(max(sizes)) == 11  # the twelfth step
    # A quicker second moment turns the jump into a slow start: still not one learning rate.
    assert updates_after_rebirth(aged=False, steps=1, beta2=0.95) == pytest.approx([0.447], rel=1e-2)


def test_aged_group_without_momentum_is_adamw() -> None:
    ours, theirs = (torch.nn.Parameter(normal(13, 7, seed=99)) for _ in range(2))
    settings = SETTINGS | {"betas": (0.0, 0.95)}
    train(AdamW([ours], aged=True, **settings), ours, 20)
    train(torch.optim.AdamW([theirs], **settings), theirs, 20)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("aged", [False, True])
def test_inactive_weights_stay_exactly_zero(aged: bool) -> None:
    mask = torch.arange(40) % 3 == 0
    p = torch.nn.Parameter(normal(40, seed=0) * mask)
    optimizer = AdamW([p], aged=aged, **SETTINGS)
    for step in range(100):
        p.grad = normal(40, seed=step).masked_fill_(~mask, 0)
        optimizer.step()
    assert p[~mask].eq(0).all()
    assert p[mask].ne(0).all()
    assert optimizer.state[p]["exp_avg"][~mask].eq(0).all()
    assert optimizer.state[p]["exp_avg_sq"][~mask].eq(0).all()


def test_groups_keep_their_own_settings() -> None:
    a, b, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    groups = [
        {"params": [a], "weight_decay": 0.5, "aged": True},
        {"params": [b, unused], "lr": 0.1},
    ]
    optimizer = AdamW(groups, lr=0.01)
    for p in (a, b):
        p.grad = torch.zeros(3)
    optimizer.step()
    assert a.tolist() == pytest.approx([1 - 0.01 * 0.5] * 3)
    assert b.tolist() == unused.tolist() == [1.0] * 3
    optimizer.forget(unused, torch.ones(3, dtype=torch.bool))  # never stepped: nothing to forget
    assert set(optimizer.state[a]) == {"exp_avg", "exp_avg_sq", "age"}
    assert set(optimizer.state[b]) == {"exp_avg", "exp_avg_sq", "step"}


@pytest.mark.parametrize("aged", [False, True])
def test_resumed_optimizer_continues_bit_for_bit(aged: bool) -> None:
    p, q = (torch.nn.Parameter(normal(6, 6, seed=1)) for _ in range(2))
    straight = AdamW([p], aged=aged, **SETTINGS)
    train(straight, p, 5)
    straight.forget(p, p > 0)
    resumed = AdamW([q], aged=aged, **SETTINGS)
    q.data.copy_(p)
    resumed.load_state_dict(deepcopy(straight.state_dict()))  # else both would share their tensors
    expected, found = train(straight, p, 5), train(resumed, q, 5)
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_closure_is_evaluated() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([p], lr=0.1)

    def closure() -> float:
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 2.0
    assert p.lt(1).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("betas", (0.9, 1.0)),
        ("lr", -1.0),
        ("lr", math.nan),
        ("eps", 0.0),  # 0 / 0 would make inactive weights NaN
        ("weight_decay", -0.1),
    ],
)
def test_bad_settings(field: str, value: Any) -> None:
    with pytest.raises(InputError) as error:
        AdamW([torch.nn.Parameter(torch.ones(2))], **{field: value})
    assert error.value.field == field


def test_half_precision_parameters_are_refused() -> None:
    with pytest.raises(InputError, match="float32"):
        AdamW([torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("aged", "fused"), [(False, False), (False, True), (True, False)])
def test_gpu_agrees_with_cpu(aged: bool, fused: bool) -> None:
    """Where the GPU has a kernel of its own: fused, for all tensors at once."""
    results = []
    for device in ("cpu", "cuda"):
        params = [torch.nn.Parameter(normal(9, n, seed=n).to(device)) for n in (3, 40)]
        optimizer = AdamW(params, aged=aged, fused=fused and device == "cuda", **SETTINGS)
        for step in range(30):
            for p in params:
                p.grad = normal(*p.shape, seed=step).to(device)
            optimizer.step()
            if step == 10:
                optimizer.forget(params[0], normal(9, 3, seed=0).to(device) > 0)
        optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
        optimizer.step()
        results.append([p.detach().cpu() for p in params])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)

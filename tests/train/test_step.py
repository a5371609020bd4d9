"""The step that is compiled and recorded against the plain one, and the loss against transformers' own."""

import pytest
import torch
from torch.nn import functional

from sparsedc import model as models
from sparsedc.spec import Spec
from sparsedc.train.loop import Trainer
from sparsedc.train.step import Loss

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = models.LADDER["50k"]


def batch(step: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(96, (8, 33), generator=torch.Generator().manual_seed(step)) // (1 + step % 3)
    return ids[:, :-1].to(device), ids[:, 1:].to(device)


def test_loss_and_gradients_are_those_of_transformers() -> None:
    ours, theirs = (models.build_model(SHAPE, 96, 32, 0.02, seed=0) for _ in range(2))
    inputs, targets = batch(0, "cpu")
    loss = Loss(ours, compiled=False)(inputs, targets)
    expected = functional.cross_entropy(theirs(inputs).logits.flatten(0, 1).float(), targets.flatten())
    assert loss.item() == expected.item()
    loss.backward()
    expected.backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.equal(other.grad)


def cell(method: str, **training: object) -> Spec:
    return Spec(
        data="0" * 16, size="50k", shape=SHAPE, vocab_size=96, sequence_length=32, evaluation_split="validation",
        method=method, density=1.0 if method == "dense" else 0.25, unique_tokens=256 * 60, epochs=1, seed=0,
        training={
            "batch_tokens": 256, "topology_interval": 10, "topology_stop": 1.0, "lr": 5e-3, "maskable_lr": 2e-3, **training
        },
    )  # fmt: skip


@needs_gpu
@pytest.mark.parametrize(
    ("method", "training"),
    [
        ("dense", {}),
        ("static", {"weight_decay": 0.1}),
        ("set", {"block": (1, 4)}),
        ("set-soft", {"initial_density": 0.5}),
        ("smet", {"newborn": "linear", "ramp_steps": 5}),
        ("smet", {"newborn": "compounding", "ramp_steps": 5}),
        ("set", {"newborn": "naive"}),
        ("rigl", {"drop_fraction": 0.3}),
        ("rigl-acc", {}),
        ("momentum", {"block": (2, 2)}),
        ("gmp", {"initial_density": 1.0}),
    ],
)
def test_the_recorded_step_trains_as_the_plain_one(method: str, training: dict[str, object]) -> None:
    """Losses of one batch differ by rounding, of which chaos makes more over the steps."""
    device = torch.device("cuda")
    spec = cell(method, **training)
    fast, plain = (Trainer.start(spec, device, fast=fast) for fast in (True, False))
    for step in range(1, spec.steps + 1):
        for trainer in (fast, plain):
            trainer.take_step(*batch(step, "cuda"))
    assert fast.work._recordings
    torch.testing.assert_close(fast.losses[:5], plain.losses[:5], rtol=2e-3, atol=0)
    torch.testing.assert_close(fast.losses, plain.losses, rtol=2e-2, atol=0)
    assert fast.losses[-1] < 0.95 * fast.losses[0]
    fast.engine.check()
    assert [update.active for update in fast.updates] == [update.active for update in plain.updates]
    assert [update.ages for update in fast.updates] == [update.ages for update in plain.updates]
    assert fast.ratios[1].equal(plain.ratios[1])
    torch.testing.assert_close(fast.ratios[0], plain.ratios[0], rtol=0.2, atol=0.05)


@needs_gpu
def test_a_recorded_cell_resumes() -> None:
    device = torch.device("cuda")
    straight, first, second = (Trainer.start(cell("rigl"), device) for _ in range(3))
    for step in range(1, 61):
        straight.take_step(*batch(step, "cuda"))
        (first if step <= 33 else second).take_step(*batch(step, "cuda"))
        if step == 33:
            second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.losses, straight.losses, rtol=1e-2, atol=0)
    assert [update.step for update in second.updates] == [update.step for update in straight.updates]

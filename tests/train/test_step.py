"""The step that is compiled and recorded against the plain one, and the loss against transformers' own."""

import copy

import pytest
import torch
from torch.nn import functional

from sparsedc import model as models
from sparsedc.errors import InputError
from sparsedc.sparsity import engine
from sparsedc.spec import Spec
from sparsedc.train import head, step
from sparsedc.train.step import Loss
from sparsedc.train.trainer import Trainer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = models.LADDER["50k"]


def batch(number: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(12, (8, 33), generator=torch.Generator().manual_seed(number))
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


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("method", ["dense", "smet", "rigl", "rigl-acc", "momentum"])
@pytest.mark.parametrize(("kept", "recomputed", "parts"), [(8, 8, 1), (3, 8, 4), (0, 8, 1), (0, 3, 4), (1, 1, 8)])
def test_a_batch_is_taken_in_parts_where_memory_is_short(
    method: str, kept: int, recomputed: int, parts: int, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has memory for `kept` sequences, or for `recomputed` whose activations it does not keep."""
    monkeypatch.setattr(engine, "TOGETHER", 2**28 if together else 0)
    monkeypatch.setattr(step, "MICRO_BATCH_TOKENS", 32)
    plain = Loss.__call__

    def short(self: Loss, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = plain(self, inputs, targets)
        if len(inputs) > (recomputed if self.recomputes else kept):
            loss.backward()  # type: ignore[no-untyped-call]  # memory may run out on the way back, too
            raise torch.OutOfMemoryError("made up")
        return loss

    whole, split = (Trainer.start(cell(method), torch.device("cpu")) for _ in range(2))
    for number in range(1, 31):
        whole.take_step(*batch(number, "cpu"))
    monkeypatch.setattr(Loss, "__call__", short)
    for number in range(1, 31):
        split.take_step(*batch(number, "cpu"))
    assert split.work.parts == parts
    assert split.work.forward.recomputes == (kept == 0)
    torch.testing.assert_close(split.losses, whole.losses, rtol=1e-4, atol=0)
    for ours, theirs in zip(split.engine.layers, whole.engine.layers, strict=True):  # rounding may swap near equals
        assert (ours.mask() != theirs.mask()).sum() <= 0.01 * ours.active
    if parts == 1:
        assert split.losses.equal(whole.losses)


def test_a_model_for_which_there_is_no_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Loss, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("made up")

    monkeypatch.setattr(Loss, "__call__", never)
    with pytest.raises(InputError, match="has not the memory to train this model"):
        Trainer.start(cell("rigl"), torch.device("cpu")).take_step(*batch(1, "cpu"))


def test_memory_that_ends_in_the_optimizer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("made up")

    monkeypatch.setattr(torch.optim.AdamW, "step", short)
    with pytest.raises(InputError, match="has not the memory for this model's optimizer"):
        Trainer.start(cell("dense"), torch.device("cpu")).take_step(*batch(1, "cpu"))


def test_micro_batches_are_counted_as_they_are_taken() -> None:
    work = Trainer.start(cell("dense"), torch.device("cpu")).work
    work.parts = 5
    work.take(1, *batch(1, "cpu"), 1e-3, 1e-3, None)
    assert (work.micro_batches, work.micro_batch_sequences) == (4, 2)  # of eight sequences


@pytest.mark.parametrize("method", ["dense", "rigl-acc", "momentum"])
def test_without_memory_for_a_recording_training_goes_on(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, short = (Trainer.start(cell(method), torch.device("cpu")) for _ in range(2))
    short.work.records = True
    tried = []

    def record(self: step.Step) -> None:
        tried.append(self._number)
        self._gradients()  # what a recording has done on the host before memory ends
        raise torch.OutOfMemoryError("made up")

    monkeypatch.setattr(step.Step, "_record", record)
    for number in range(1, 31):
        for trainer in (straight, short):
            trainer.take_step(*batch(number, "cpu"))
    assert tried == [step.WARM_UP_STEPS + 1]
    assert short.losses.equal(straight.losses)
    assert short.engine.mask_hash() == straight.engine.mask_hash()


@needs_gpu
@pytest.mark.parametrize("method", ["dense", "rigl-acc", "momentum"])
def test_memory_that_ends_in_a_recording_leaves_no_trace(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, short = (Trainer.start(cell(method), torch.device("cuda"), fast=True) for _ in range(2))
    descend = step.Step._descend

    def greedy(self: step.Step) -> None:
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        descend(self)

    for number in range(1, 31):
        monkeypatch.setattr(step.Step, "_descend", descend)
        straight.take_step(*batch(number, "cuda"))
        monkeypatch.setattr(step.Step, "_descend", greedy)
        short.take_step(*batch(number, "cuda"))
    assert straight.work.records
    assert not short.work.records
    torch.testing.assert_close(short.losses[:30], straight.losses[:30], rtol=2e-2, atol=0)


def cell(method: str, **training: object) -> Spec:
    return Spec(
        data="0" * 16, size="50k", shape=SHAPE, vocab_size=96, sequence_length=32, evaluation_split="validation",
        method=method, density=1.0 if method == "dense" else 0.25, unique_tokens=256 * 60, epochs=1, seed=0,
        training={
            "batch_tokens": 256, "topology_interval": 10, "topology_stop": 1.0, "lr": 5e-3, "maskable_lr": 2e-3,
            **training,
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
    for number in range(1, spec.steps + 1):
        for trainer in (fast, plain):
            trainer.take_step(*batch(number, "cuda"))
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
@pytest.mark.parametrize("at_once", [2**28, 1000])
@pytest.mark.parametrize("vocabulary", [96, 4096, 32001])
def test_cross_entropy_without_logits(vocabulary: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against double precision, no worse than PyTorch's own under autocast by more than a quarter."""
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(200, 64, generator=generator), torch.randn(vocabulary, 64, generator=generator) * 0.3
    targets = torch.randint(vocabulary, (200,), generator=generator)
    found: dict[str, list[torch.Tensor]] = {}
    for name in ("exact", "torch", "ours"):
        dtype = torch.float64 if name == "exact" else torch.float32
        h, w = (x.to("cuda", dtype).requires_grad_() for x in (hidden, weight))
        with torch.autocast("cuda", torch.bfloat16, enabled=name != "exact"):
            call = head.LinearCrossEntropy.apply if name == "ours" else head.plain_cross_entropy
            loss = call(h, w, targets.cuda())
        (3 * loss).backward()
        assert h.grad is not None
        assert w.grad is not None
        found[name] = [loss.detach(), h.grad, w.grad]
    for ours, torchs, exact in zip(found["ours"], found["torch"], found["exact"], strict=True):
        error, theirs = ((x.double() - exact).norm() / exact.norm() for x in (ours, torchs))
        assert error < 1.25 * theirs + 1e-5


@needs_gpu
def test_a_recorded_cell_resumes() -> None:
    device = torch.device("cuda")
    straight, first, second = (Trainer.start(cell("rigl"), device) for _ in range(3))
    for number in range(1, 61):
        straight.take_step(*batch(number, "cuda"))
        (first if number <= 33 else second).take_step(*batch(number, "cuda"))
        if number == 33:
            second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.losses, straight.losses, rtol=1e-2, atol=0)
    assert [update.step for update in second.updates] == [update.step for update in straight.updates]


@needs_gpu
@pytest.mark.parametrize("method", ["dense", "rigl"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_recorded_evaluation_is_the_plain_one(method: str, recomputes: bool) -> None:
    device = torch.device("cuda")
    trainer = Trainer.start(cell(method), device)
    trainer.work.forward.recomputes = recomputes
    for number in range(1, 21):
        trainer.take_step(*batch(number, "cuda"))
    for number in (100, 101):
        inputs, targets = batch(number, "cuda")
        found = trainer.work.losses_of(inputs, targets)
        logits = copy.deepcopy(trainer.model).double()(inputs).logits
        expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        torch.testing.assert_close(found.flatten().double(), expected.detach(), rtol=0.03, atol=0.03)
        torch.testing.assert_close(found.double().mean(), expected.detach().mean(), rtol=1e-3, atol=0)


@needs_gpu
def test_losses_of_tokens_without_logits() -> None:
    """Their mean is the loss that is trained."""
    generator = torch.Generator("cuda").manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=generator, device="cuda") for n in (200, 4099))
    targets = torch.randint(4099, (200,), generator=generator, device="cuda")
    each = head.linear_cross_entropies(hidden, weight, targets)
    expected = functional.cross_entropy((hidden.bfloat16() @ weight.bfloat16().T).float(), targets, reduction="none")
    torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-5)
    assert each.mean().equal(head.LinearCrossEntropy.apply(hidden, weight, targets))

"""Training one cell: from a spec and a token file to held-out loss and everything that the runs table needs.

The same spec gives the same loss, to the bit on a CPU: weights, masks, batches and topology updates each depend on
the seed and the step alone, which is also why a resumed cell ends where an uninterrupted one does.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedc.corpus.tokens import Tokens, budget
from sparsedc.errors import InputError
from sparsedc.evaluate import HeldOut, held_out, token_losses
from sparsedc.spec import Spec, fingerprint
from sparsedc.train import memory
from sparsedc.train.batches import Batches, on_device, windows
from sparsedc.train.checkpoint import load_checkpoint, save_checkpoint
from sparsedc.train.metrics import metrics
from sparsedc.train.ranks import ALONE, Ranks
from sparsedc.train.stop import requested
from sparsedc.train.trainer import Trainer

LOOK_SECONDS = 10.0  # at most, between looks at losses, clock and signals
CHECKPOINT_SECONDS = 300.0  # between checkpoints
EVALUATED_SECONDS = 30.0  # of training that may be lost by an end in evaluation
EVALUATION_LOGITS = 2**26  # of a forward pass where training has not found what fits: 256 MiB in fp32


def train_cell(
    spec: Spec,
    train: Tokens,
    validation: Tokens,
    work: Path,
    device: torch.device,
    report: Callable[[Trainer], None],
    ranks: Ranks = ALONE,
    keep: Callable[[Trainer, dict[str, Any] | None], None] | None = None,
) -> dict[str, Any] | None:
    """Train a cell, or resume it from its checkpoint, and evaluate it.

    Args:
        train: the train split, of which the cell sees the first U tokens.
        validation: the held-out split.
        work: where checkpoints go; held by this process alone (`lock.exclusive`).
        report: called with the trainer after every hundredth of the steps, and every few seconds.
        ranks: that train it together, all calling this.
        keep: called on all ranks with the trained cell and what this returns.

    Returns:
        the metrics, as JSON, on the leading rank: `row` holds the runs table's columns but for study and role.

    Raises:
        SystemExit: this process was asked to stop (`stop`), and has written a checkpoint.
        InputError: the tokens are not what the spec needs, or a batch cannot be divided among the ranks.
    """
    check_ranks(spec, ranks.size)
    for tokens in (train, validation):
        if tokens.vocab_size > spec.vocab_size:
            raise InputError(
                "vocab_size", spec.vocab_size, f"the tokens come from a vocabulary of {tokens.vocab_size}",
                "Set tokenizer.vocab_size to at least that.",
            )  # fmt: skip
    if len(validation.document_starts()) < 2:
        raise InputError(
            spec.evaluation_split, "1 document", "a loss over one has no standard error",
            "Hold out more text: raise corpus.validation_fraction or test_fraction, or give a larger corpus.",
        )  # fmt: skip
    ids = budget(train, spec.unique_tokens)
    batches = Batches(len(ids) // spec.sequence_length, spec.batch_sequences, spec.seed)
    trainer = Trainer.start(spec, device, ranks=ranks)
    # The folder may be anyone's, and a spec does not know the text itself: tokens of other text start over.
    identity = {
        "spec": fingerprint(spec.content()),
        "train": train.sha256,
        "held_out": validation.sha256,
        "torch": str(torch.__version__),
        "device": device.type,  # optimizers keep other state on a GPU
    }
    state = load_checkpoint(work, None if trainer.work.sharded else device, identity)
    if state is not None:
        trainer.load_state_dict(state)
    del state  # as large as the model's
    ranks.agree("the step to resume from", trainer.step)
    memory.forget_peak(device)

    interval = max(1, spec.steps // 100)
    clock = saved = time.monotonic()
    looked, look = trainer.step, trainer.step + 1
    diverged = False
    with requested() as stop:
        while trainer.step < spec.steps and not diverged:
            ours = np.split(batches.rows(trainer.step + 1), ranks.size)[ranks.rank]
            trainer.take_step(*on_device(windows(ids, spec.sequence_length, train.eod, ours), device))
            if trainer.step < look and trainer.step < spec.steps and (stop.number is None or ranks.size > 1):
                continue  # several ranks stop together, where they also look at other things together
            diverged = not bool(trainer.losses[: trainer.step].isfinite().all())
            now = time.monotonic()
            soon = ranks.least(max(1, int((trainer.step - looked) / max(now - clock, 1e-9) * LOOK_SECONDS)), device)
            looked, look = trainer.step, min((trainer.step // interval + 1) * interval, trainer.step + soon)
            trainer.seconds, clock = trainer.seconds + now - clock, now
            if trainer.step % interval == 0:
                trainer.pace.append((trainer.step, trainer.seconds))
            stops = not ranks.all(stop.number is None, device)
            if not stops:  # the signal may have ended whoever listens, and nothing is to come before the checkpoint
                report(trainer)
            patience = CHECKPOINT_SECONDS if trainer.step < spec.steps else EVALUATED_SECONDS
            if (stops or ranks.all(now - saved > patience, device)) and not diverged:
                state = trainer.state_dict()
                if ranks.leads:
                    save_checkpoint(state, trainer.step, identity, work)
                del state
                saved = now
            if stops:
                ranks.wait()  # a launcher may end all when the first has ended
                raise SystemExit(128 + (stop.number or signal.SIGTERM))  # as a shell tells of a signal
    trainer.engine.check()
    trainer.work.forget()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # training's cache is of other sizes than evaluation's
    evaluated = None if diverged else evaluate(trainer, validation)
    found = metrics(trainer, evaluated, train, validation) if ranks.leads else None
    if keep is not None:
        keep(trainer, found)
    return found


def check_ranks(spec: Spec, ranks: int) -> None:
    """Raise an InputError where so many cannot have equal parts of a batch."""
    if spec.batch_sequences % ranks:
        raise InputError(
            "batch_tokens", spec.training.batch_tokens,
            f"{spec.batch_sequences} sequences, which {ranks} ranks cannot share",
            "Start a number of processes that divides them.",
        )  # fmt: skip


def evaluate(trainer: Trainer, tokens: Tokens) -> HeldOut:
    """Held-out loss over every token of a split."""
    spec, work = trainer.spec, trainer.work
    there_are = -(-len(tokens.ids) // spec.sequence_length)  # sequences, and a batch beyond them would be filled up
    fit = EVALUATION_LOGITS // (spec.vocab_size * spec.sequence_length)
    batch = max(1, min(fit, -(-there_are // work.ranks.size)))
    if work.fast and work.micro_batch_sequences:
        batch = work.micro_batch_sequences
    losses = token_losses(
        work.losses_of, tokens.ids, spec.sequence_length, tokens.eod, batch, work.device, work.ranks
    )  # fmt: skip
    return held_out(losses, tokens.document_ids())

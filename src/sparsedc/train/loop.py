"""Training one cell: from a spec and a token file to held-out loss and everything that the runs table needs.

fp32 weights and AdamW moments; bf16 matrix products on a GPU, fp32 on a CPU. The same spec gives the same loss,
to the bit on a CPU: weights, masks, batches and topology updates each depend on the seed and the step alone,
which is also why a resumed cell ends where an uninterrupted one does.
"""

import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedc import model as models
from sparsedc.corpus.tokens import Tokens, budget
from sparsedc.errors import InputError
from sparsedc.evaluate import HeldOut, held_out, token_losses
from sparsedc.optim import Newborn
from sparsedc.sparsity.engine import SparseEngine
from sparsedc.sparsity.history import TopologyUpdate
from sparsedc.sparsity.methods import method
from sparsedc.spec import Spec, fingerprint
from sparsedc.train import memory
from sparsedc.train.batches import Batches, on_device, windows
from sparsedc.train.checkpoint import load_checkpoint, save_checkpoint
from sparsedc.train.ranks import ALONE, Ranks
from sparsedc.train.schedule import lr_share
from sparsedc.train.shards import fits, gathered, placed, shard
from sparsedc.train.step import Loss, Step

CHECKPOINT_SECONDS = 300.0  # a cell that trains for less than this leaves no partial state
CHECKPOINT_FORMAT = "2"  # rises when the state of a cell is kept in another form
EVALUATION_LOGITS = 2**26  # of a forward pass where training has not found what fits: 256 MiB in fp32
CURVE_POINTS = 200  # of the training curve that is kept
RATIO_STEPS = 16  # after a topology update, in which the updates of grown weights are measured
AROUND = range(-8, 33)  # steps from a topology update, whose losses are kept


@dataclass
class Trainer:
    """The state of one cell in training: model, optimizer, sparse engine, and the losses so far.

    Attributes:
        engine: trains the maskable matrices of a sparse method.
        optimizer: trains everything else; of a dense model, everything.
        work: what the device does in a step.
        losses: training loss of every step so far, in nats per token, shape (steps,), on the device.
        ratios: size of the updates of newly grown weights over that of older ones, at the s-th step after a topology
            update, summed over updates, and the number of updates; shape (2, RATIO_STEPS), on the device.
        updates: what each topology update did.
        step: optimizer steps taken.
        seconds: spent in training, earlier attempts included.
    """

    spec: Spec
    model: torch.nn.Module
    engine: SparseEngine
    optimizer: torch.optim.AdamW
    work: Step
    losses: torch.Tensor
    ratios: torch.Tensor
    updates: list[TopologyUpdate]
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def start(cls, spec: Spec, device: torch.device, fast: bool | None = None, ranks: Ranks = ALONE) -> "Trainer":
        """A cell before its first step.

        Args:
            ranks: that train it together.
            fast: compile the model and record its step (`Step`); by default on a GPU.
        """
        training = spec.training
        if device.type == "cuda" and torch.cuda.current_stream() == torch.cuda.default_stream():
            torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]  # one that can be recorded
        on_gpu = device.type == "cuda"
        fast = on_gpu if fast is None else fast
        model = models.build_model(spec.shape, spec.vocab_size, spec.sequence_length, training.init_std, spec.seed)
        forward = Loss(model, compiled=fast)
        if spec.method == "dense" and ranks.size > 1 and not ranks.all(fits(spec.counts.total, device), device):
            shard(forward, ranks, device)
        else:
            model.to(device)
        maskable = models.maskable_weights(model, spec.shape)
        betas = (training.beta1, training.beta2)
        engine = SparseEngine(
            {} if spec.method == "dense" else maskable,
            spec.block_counts_at,
            method(spec.method),
            spec.topology,
            spec.seed,
            block=spec.block,
            betas=betas,
            weight_decay=training.weight_decay,
            newborn=Newborn(training.newborn, training.ramp_steps),
            compute_dtype=autocast_dtype(device),
            average=ranks.average if ranks.size > 1 else None,
        )
        optimizer = torch.optim.AdamW(
            parameter_groups(model, maskable, sparse=bool(engine.layers)),
            lr=training.lr,
            betas=betas,
            weight_decay=training.weight_decay,
            fused=on_gpu,
            capturable=on_gpu,
        )
        if on_gpu:
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(training.lr, device=device)  # which a recorded step reads
        work = Step(forward, engine, optimizer, training.grad_clip, autocast_dtype(device), fast, ranks)
        model.train()
        losses, ratios = torch.zeros(spec.steps, device=device), torch.zeros(2, RATIO_STEPS, device=device)
        return cls(spec, model, engine, optimizer, work, losses, ratios, [])

    def take_step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """One optimizer step on a batch of token ids, each of shape (sequences, sequence length)."""
        self.step += 1
        training, since = self.spec.training, self._steps_since_growth()
        share = lr_share(self.step, self.spec.steps, training)
        self.work.take(self.step, inputs, targets, share * training.lr, share * self.spec.maskable_lr, since)
        self.losses[self.step - 1] = self.work.loss
        if since is not None:
            newborn, kept = self.work.sizes
            self.ratios[:, since - 1] += torch.stack([newborn / kept, torch.ones_like(kept)])
        update = self.engine.update_topology()
        if update is not None:
            self.updates.append(update)
            self.work.ranks.agree("masks", self.engine.mask_hash() if self.work.ranks.size > 1 else None)

    def _steps_since_growth(self) -> int | None:
        """Steps since the last topology update, this one included; None where nothing was grown, or long ago."""
        if not self.updates or not any(self.updates[-1].replaced):
            return None
        since = self.step - self.updates[-1].step
        return since if since <= RATIO_STEPS else None

    def state_dict(self) -> dict[str, Any]:
        """All of it on every rank, but of a sharded model, for which all must call this, on the leading one alone."""
        keep = self.work.ranks.leads
        return {
            "step": self.step,
            "seconds": self.seconds,
            "model": gathered(self.model.state_dict(), keep),
            "optimizer": gathered(self.optimizer.state_dict(), keep),
            "engine": self.engine.state_dict(),
            "losses": self.losses,
            "ratios": self.ratios,
            "updates": [asdict(update) for update in self.updates],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        now = self.model.state_dict()
        self.model.load_state_dict({name: placed(tensor, now[name]) for name, tensor in state["model"].items()})
        self.optimizer.load_state_dict(self._placed_moments(state["optimizer"]))
        self.engine.load_state_dict(state["engine"])
        self.losses.copy_(state["losses"])
        self.ratios.copy_(state["ratios"])
        self.updates = [TopologyUpdate(**update) for update in state["updates"]]

    def _placed_moments(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state of the optimizer, which counts parameters through its groups; rates are each step's to set."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            number: {key: placed(tensor, parameters[number]) for key, tensor in of_one.items()}
            for number, of_one in state["state"].items()
        }
        return {"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]}


def parameter_groups(
    model: torch.nn.Module, maskable: dict[str, torch.nn.Parameter], sparse: bool
) -> list[dict[str, Any]]:
    """What torch's AdamW trains: the maskable matrices, with a learning rate of their own, unless the engine trains
    them; embedding and head; norms, which do not decay."""
    projections = {id(weight) for weight in maskable.values()}
    others = [p for p in model.parameters() if id(p) not in projections]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim > 1], "maskable": False},
        {"params": [p for p in others if p.ndim == 1], "maskable": False, "weight_decay": 0.0},
    ]
    return groups if sparse else [{"params": list(maskable.values()), "maskable": True}, *groups]


def train_cell(
    spec: Spec,
    train: Tokens,
    validation: Tokens,
    work: Path,
    device: torch.device,
    report: Callable[[Trainer], None],
    ranks: Ranks = ALONE,
) -> dict[str, Any] | None:
    """Train a cell, or resume it from its checkpoint, and evaluate it.

    Args:
        train: the train split, of which the cell sees the first U tokens.
        validation: the held-out split.
        work: where checkpoints go; held by this process alone (`checkpoint.exclusive`).
        report: called at intervals with the trainer, at most about a hundred times.
        ranks: that train it together, all calling this.

    Returns:
        the metrics, as JSON, on the leading rank: `row` holds the runs table's columns but for study and role.

    Raises:
        InputError: the tokens are not what the spec needs, or a batch cannot be divided among the ranks.
    """
    sequences = spec.training.batch_tokens // spec.sequence_length
    if sequences % ranks.size:
        raise InputError(
            "batch_tokens", spec.training.batch_tokens, f"{sequences} sequences, which {ranks.size} ranks cannot share",
            "Start a number of processes that divides them.",
        )  # fmt: skip
    for tokens in (train, validation):
        if tokens.vocab_size > spec.vocab_size:
            raise InputError(
                "vocab_size", spec.vocab_size, f"the tokens come from a vocabulary of {tokens.vocab_size}",
                "Set tokenizer.vocab_size to at least that.",
            )  # fmt: skip
    ids = budget(train, spec.unique_tokens)
    batches = Batches(len(ids) // spec.sequence_length, sequences, spec.seed)
    trainer = Trainer.start(spec, device, ranks=ranks)
    # The folder is the spec's, which does not know the text itself: tokens of other text start over.
    identity = {
        "train": train.sha256,
        "held_out": validation.sha256,
        "torch": str(torch.__version__),
        "device": device.type,  # optimizers keep other state on a GPU
        "format": CHECKPOINT_FORMAT,
    }
    state = load_checkpoint(work, None if trainer.work.sharded else device, identity)
    if state is not None:
        trainer.load_state_dict(state)
    del state  # as large as the model's
    ranks.agree("the step to resume from", trainer.step)
    memory.forget_peak(device)

    interval = max(1, spec.steps // 100)
    clock = saved = time.monotonic()
    diverged = False
    while trainer.step < spec.steps and not diverged:
        ours = np.split(batches.rows(trainer.step + 1), ranks.size)[ranks.rank]
        trainer.take_step(*on_device(windows(ids, spec.sequence_length, train.eod, ours), device))
        if trainer.step % interval == 0 or trainer.step == spec.steps:
            diverged = not bool(trainer.losses[: trainer.step].isfinite().all())
            now = time.monotonic()
            trainer.seconds, clock = trainer.seconds + now - clock, now
            report(trainer)
            if ranks.all(now - saved > CHECKPOINT_SECONDS, device) and not diverged:
                state = trainer.state_dict()
                if ranks.leads:
                    save_checkpoint({**state, "identity": identity}, work)
                del state
                saved = now
    trainer.engine.check()
    trainer.work.forget()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # training's cache is of other sizes than evaluation's
    evaluated = None if diverged else evaluate(trainer, validation)
    return metrics(trainer, evaluated, train, validation) if ranks.leads else None


def evaluate(trainer: Trainer, tokens: Tokens) -> HeldOut:
    """Held-out loss over every token of a split."""
    spec, work = trainer.spec, trainer.work
    batch = max(1, EVALUATION_LOGITS // (spec.vocab_size * spec.sequence_length))
    if work.fast and work.micro_batch_sequences:
        batch = work.micro_batch_sequences
    losses = token_losses(
        work.losses_of, tokens.ids, spec.sequence_length, tokens.eod, batch, work.device, work.ranks
    )  # fmt: skip
    return held_out(losses, tokens.document_ids())


def metrics(trainer: Trainer, evaluated: HeldOut | None, train: Tokens, validation: Tokens) -> dict[str, Any]:
    """What the runs table and a curious reader need, from what was really trained."""
    spec, device = trainer.spec, trainer.losses.device
    losses = trainer.losses[: trainer.step].double().cpu().numpy()
    last = losses[-max(1, spec.steps // 10) :]
    ok = evaluated is not None and math.isfinite(evaluated.loss)
    active = spec.counts.active(trainer.engine.active or spec.counts.maskable)
    row = {
        "held_out": validation.sha256[:16],
        "method": spec.method,
        "size": spec.size,
        "density": spec.density,
        "unique_tokens": spec.unique_tokens,
        "epochs": spec.epochs,
        "tokens": trainer.step * spec.training.batch_tokens,
        "seed": spec.seed,
        "params_total": spec.counts.total,
        "params_embedding": spec.counts.embedding,
        "params_head": spec.counts.head,
        "params_maskable": spec.counts.maskable,
        "params_active": active,
        "params_active_mean": spec.counts.total - spec.counts.maskable + spec.active_maskable_mean,
        "flops_dense": spec.flops(sparse=False),
        "flops_sparse": spec.flops(sparse=True),
        "lr": spec.training.lr,
        "maskable_lr": spec.maskable_lr,
        "weight_decay": spec.training.weight_decay,
        "batch_tokens": spec.training.batch_tokens,
        "steps": trainer.step,
        "val_loss": evaluated.loss if ok and evaluated else None,
        "val_loss_se": evaluated.standard_error if ok and evaluated else None,
        "train_loss": float(last.mean()) if ok else None,  # mean over the last tenth of the steps
        "status": "ok" if ok else "diverged",
        "seconds": trainer.seconds,
        "tokens_per_second": trainer.step * spec.training.batch_tokens / trainer.seconds,
        "device": device_name(device),
        "torch": torch.__version__,
        "commit": commit(),
        "fingerprint": fingerprint(spec.content()),
    }
    return {
        "row": row,
        "spec": spec.content(),
        "train_sha256": train.sha256,
        "held_out_sha256": validation.sha256,
        "held_out_tokens": evaluated.tokens if evaluated else None,
        "mask_hash": trainer.engine.mask_hash(),
        "curve": curve(losses),
        "topology": topology(trainer),
        "around_updates": around_updates(losses, trainer),
        "host": platform.node(),
        "threads": torch.get_num_threads(),
        "ranks": trainer.work.ranks.size,
        "sharded": trainer.work.sharded,
        "micro_batches": trainer.work.parts,
        "recomputes_activations": trainer.work.forward.recomputes,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "finished": time.time(),
    }


def curve(losses: "np.ndarray[Any, np.dtype[np.float64]]") -> list[dict[str, float | None]]:
    """Training losses, shape (steps,), averaged over at most CURVE_POINTS stretches of steps."""
    stretches = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    means = [float(losses[stretch].mean()) for stretch in stretches]
    return [
        {"step": int(stretch[-1]) + 1, "train_loss": mean if math.isfinite(mean) else None}
        for stretch, mean in zip(stretches, means, strict=True)
    ]


def topology(trainer: Trainer) -> dict[str, Any] | None:
    """What each topology update did, lists by layer; None where there was none."""
    if not trainer.updates:
        return None
    layers = trainer.engine.layers
    return {
        "layers": [layer.name for layer in layers],
        "blocks": [layer.blocks.count for layer in layers],
        "updates": [asdict(update) for update in trainer.updates],
    }


def around_updates(losses: "np.ndarray[Any, np.dtype[np.float64]]", trainer: Trainer) -> dict[str, Any] | None:
    """Training loss and sizes of weight updates around topology updates, as means over these.

    Returns:
        `offset`, in steps from the update, whose own loss is measured before it; `loss`, less its mean over the nine
        steps up to the update; `ratio_offset` and `update_ratio`, the root mean square of the updates of newly grown
        weights over that of older ones. None stands where no update has a value, or there was none.
    """
    places = [update.step - 1 for update in trainer.updates if update.step > -AROUND[0]]
    if not places:
        return None
    rows = []
    for place in places:
        row = np.full(len(AROUND), math.nan)
        stretch = losses[place + AROUND[0] : place + AROUND[-1] + 1]
        row[: len(stretch)] = stretch - losses[place + AROUND[0] : place + 1].mean()
        rows.append(row)
    known = np.isfinite(rows).sum(0)
    sums = np.nansum(rows, axis=0)
    total, count = trainer.ratios.double().cpu().numpy()
    return {
        "offset": list(AROUND),
        "loss": [_mean(sum_, number) for sum_, number in zip(sums, known, strict=True)],
        "ratio_offset": list(range(1, RATIO_STEPS + 1)),
        "update_ratio": [_mean(sum_, number) for sum_, number in zip(total, count, strict=True)],
    }


def _mean(total: float, number: float) -> float | None:
    return float(total / number) if number and math.isfinite(total) else None


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bf16 where the hardware has fast bf16 matrix products, fp32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def commit() -> str:
    """The commit of the checkout that this package runs from; "unknown" for an installed copy."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()

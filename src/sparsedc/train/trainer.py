"""One cell in training: its model, optimizers and masks, and what becomes of them in a step.

fp32 weights and AdamW moments; bf16 matrix products on a GPU, fp32 on a CPU.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from sparsedc import model as models
from sparsedc.optim import Newborn
from sparsedc.sparsity.engine import SparseEngine
from sparsedc.sparsity.history import TopologyUpdate
from sparsedc.sparsity.methods import method
from sparsedc.spec import Spec
from sparsedc.train.ranks import ALONE, Ranks
from sparsedc.train.schedule import lr_share
from sparsedc.train.shards import fits, gathered, placed, shard
from sparsedc.train.step import Loss, Step

RATIO_STEPS = 16  # after a topology update, in which the updates of grown weights are measured


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
        pace: steps and seconds so far, at every hundredth of the steps of this attempt.
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
    pace: list[tuple[int, float]] = field(default_factory=list)

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
            average=ranks.average_in_pass if ranks.size > 1 else None,
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
            "moments": gathered(self._moments(), keep),
            "engine": self.engine.state_dict(),
            "losses": self.losses,
            "ratios": self.ratios,
            "updates": [asdict(update) for update in self.updates],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        now = self.model.state_dict()
        self.model.load_state_dict({name: placed(tensor, now[name]) for name, tensor in state["model"].items()})
        moments = {
            number: {key: placed(tensor, parameter) for key, tensor in state["moments"][name].items()}
            for number, (name, parameter) in enumerate(self._trained().items())
        }
        groups = self.optimizer.state_dict()["param_groups"]  # rates are each step's to set
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.engine.load_state_dict(state["engine"])
        self.losses.copy_(state["losses"])
        self.ratios.copy_(state["ratios"])
        self.updates = [TopologyUpdate(**update) for update in state["updates"]]

    def _moments(self) -> dict[str, Any]:
        """Of the optimizer, by parameters' names; none before the first step."""
        state = self.optimizer.state_dict()["state"]
        return {name: state[number] for number, name in enumerate(self._trained()) if number in state}

    def _trained(self) -> dict[str, torch.Tensor]:
        """What the optimizer trains, by name, in the order in which it counts."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {names[id(p)]: p for group in self.optimizer.param_groups for p in group["params"]}


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


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bf16 where the hardware has fast bf16 matrix products, fp32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else None

"""The engine that applies a method: masks of exact counts, and topology updates that change them.

A training step calls it twice:

    loss.backward()
    engine.before_step(step)              # inactive weights get no gradient
    clip_grad_norm_(...)
    optimizer.step()
    engine.after_step(step, optimizer)    # at an update step: drop, grow

Masks depend on the seed, the step and the layer's name, and on the tensors; never on the order of layers, the
device or the rank.
"""

from dataclasses import dataclass
from hashlib import sha256
from math import floor, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedc.errors import InputError
from sparsedc.optim import AdamW
from sparsedc.sparsity.methods import Dense, Method
from sparsedc.sparsity.schedule import TopologySchedule


@dataclass(frozen=True)
class TopologyUpdate:
    """What one topology update did.

    Args:
        step: the optimizer step after which it happened.
        drop_fraction: share of each layer's active weights that it dropped.
        replaced: by layer, how many weights became active that were not; a weight that was dropped and grown
            again in the same update counts as dropped, but not here.
    """

    step: int
    drop_fraction: float
    replaced: dict[str, int]


class SparseEngine:
    """Keeps a model sparse while a method moves its weights.

    A layer whose count is its size gets no mask and costs nothing: dense training passes through untouched.

    Construction zeroes the inactive weights of a random topology. To resume, construct first, then load the
    model's weights and this engine's state.

    Args:
        weights: the maskable parameters by name.
        counts: active weights of each, as `layer_counts` gives them.
        method: how drops and growth are scored.
        schedule: when the topology changes, and by how much.
        seed: of the initial topology and of random growth.
    """

    def __init__(
        self,
        weights: dict[str, torch.nn.Parameter],
        counts: dict[str, int],
        method: Method,
        schedule: TopologySchedule,
        seed: int,
    ) -> None:
        if weights.keys() != counts.keys():
            missing = sorted(weights.keys() ^ counts.keys())
            raise InputError("counts", missing, "not the weights' layers", "Give one count for each weight.")
        for name, count in counts.items():
            if not 1 <= count <= weights[name].numel():
                raise InputError(f"counts.{name}", count, f"not in 1 … {weights[name].numel()}", "Use layer_counts.")
        self.method, self.schedule, self.seed = method, schedule, seed
        self.active = sum(counts.values())
        self.maskable = sum(weight.numel() for weight in weights.values())
        if isinstance(method, Dense) and self.active < self.maskable:
            raise InputError(
                "density", self.active / self.maskable, "below 1 with method dense", "Use a sparse method."
            )
        self.counts = {name: counts[name] for name in sorted(counts) if counts[name] < weights[name].numel()}
        self.weights = {name: weights[name] for name in self.counts}
        self.masks = {name: self._random_mask(name) for name in self.counts}
        self._gradients: dict[str, Tensor] = {}  # dense, from before_step to after_step of an update step
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.masked_fill_(~self.masks[name], 0)

    def updates_at(self, step: int) -> bool:
        """Does the topology change after this optimizer step (counted from 1)?"""
        return self.method.dynamic and bool(self.masks) and step in self.schedule.update_steps

    def needs_gradient(self, step: int) -> bool:
        """Does this step need the gradients of inactive weights too?"""
        return self.method.needs_gradient and self.updates_at(step)

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Zero the gradients of inactive weights; keep them first where growth will look at them."""
        keep = self.needs_gradient(step)
        for name, weight in self.weights.items():
            if weight.grad is None:
                continue
            if keep:
                self._gradients[name] = weight.grad.clone()
            # Not a product with the mask, which would make an inactive weight's infinite gradient NaN.
            weight.grad.masked_fill_(~self.masks[name], 0)

    @torch.no_grad()
    def after_step(self, step: int, optimizer: AdamW) -> TopologyUpdate | None:
        """At an update step, drop and grow as many weights in each layer; otherwise nothing is left to do.

        Inactive weights need no zeroing here: AdamW leaves a weight of zero gradient, moments and value at
        zero exactly, which `check` asserts at every update.
        """
        if not self.updates_at(step):
            return None
        self.check()
        fraction = self.schedule.drop_fraction_at(step)
        replaced = {name: self._update(name, step, fraction, optimizer) for name in self.masks}
        self._gradients.clear()
        self.check()
        return TopologyUpdate(step, fraction, replaced)

    def check(self) -> None:
        """Raise unless every layer has exactly its count of active weights and zeros elsewhere.

        NaN passes: a diverged run's clipping norm spreads it to all gradients, and divergence is a result
        that the loss reports, not a broken topology.
        """
        for name, mask in self.masks.items():
            active = int(mask.sum())
            if active != self.counts[name]:
                raise RuntimeError(f"{name} has {active} active weights instead of {self.counts[name]}")
            if bool(self.weights[name][~mask].nan_to_num(nan=0.0).any()):
                raise RuntimeError(f"{name} has inactive weights that are not zero")

    def mask_hash(self) -> str:
        """SHA-256 of all masks: equal on every rank and device, or something is wrong."""
        digest = sha256()
        for name, mask in self.masks.items():
            digest.update(name.encode() + b"\0" + _pack(mask).numpy().tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """The masks, eight weights a byte: all that a resumed run needs beside weights and optimizer."""
        return {"masks": {name: _pack(mask) for name, mask in self.masks.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the masks of `state_dict`; the weights are the model's to load."""
        packed: dict[str, Tensor] = state["masks"]
        if packed.keys() != self.masks.keys():
            differ = sorted(packed.keys() ^ self.masks.keys())
            raise InputError("masks", differ, "not this model's masked layers", "Resume with the same cell.")
        for name, mask in self.masks.items():
            loaded = _unpack(packed[name], mask.shape)
            if int(loaded.sum()) != self.counts[name]:
                raise InputError(
                    f"masks.{name}",
                    int(loaded.sum()),
                    f"active weights instead of {self.counts[name]}",
                    "Resume with the same cell.",
                )
            mask.copy_(loaded)

    def _update(self, name: str, step: int, fraction: float, optimizer: AdamW) -> int:
        """Drop and grow in one layer; returns how many weights became active that were not."""
        weight, mask, generator = self.weights[name], self.masks[name], self._generator("update", step, name)
        n = min(floor(fraction * self.counts[name]), mask.numel() - self.counts[name])
        dropped = _lowest(self.method.drop_scores(weight, generator), mask, n)
        mask &= ~dropped
        # Growth may take a just-dropped weight back, as RigL's may: its gradient says it is wanted.
        scores = self.method.grow_scores(weight, self._gradients.get(name), generator)
        grown = _lowest(-scores, ~mask, n)
        mask |= grown
        changed = dropped | grown
        weight.masked_fill_(changed, 0)
        optimizer.forget(weight, changed)
        return int((grown & ~dropped).sum())

    def _random_mask(self, name: str) -> Tensor:
        weight = self.weights[name]
        order = torch.randperm(weight.numel(), generator=self._generator("init", 0, name))
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[order[: self.counts[name]]] = True
        return mask.view(weight.shape).to(weight.device)

    def _generator(self, purpose: str, step: int, name: str) -> torch.Generator:
        """A stream of its own for each draw, on the CPU: no draw shifts another."""
        digest = sha256(f"{self.seed}/{purpose}/{step}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def _lowest(scores: Tensor, among: Tensor, n: int) -> Tensor:
    """Mask of exactly the n lowest scores among the candidates; ties go to the lower index."""
    candidates = among.flatten().nonzero().squeeze(1)
    order = scores.flatten()[candidates].argsort(stable=True)
    chosen = torch.zeros_like(among)
    chosen.view(-1)[candidates[order[:n]]] = True
    return chosen


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def _unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    bits = np.unpackbits(packed.cpu().numpy(), count=prod(shape))
    return torch.from_numpy(bits.astype(bool)).view(shape)

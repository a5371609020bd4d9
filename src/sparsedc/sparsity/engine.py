"""The engine that applies a method: masks of exact counts, topology updates, and weights that train where they live.

A training step calls it four times:

    engine.begin(step)
    loss.backward()                 # a hook takes each layer's active gradients; the dense ones die there
    engine.gradient_norm()          # part of the norm by which gradients are clipped
    engine.step(lr, clip)           # AdamW on the active blocks
    engine.update_topology()        # at an update step: drop, grow

Masks depend on the seed, the step and the layer's name, and on the tensors; never on the order of layers, the device
or the rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from math import floor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedc.errors import InputError
from sparsedc.optim import Newborn, SparseAdamW, UpdateSizes
from sparsedc.sparsity.draws import Draws
from sparsedc.sparsity.history import History, TopologyUpdate, host_bits
from sparsedc.sparsity.layer import KEPT_INDICES, Blocks, SparseLayer
from sparsedc.sparsity.methods import Dropping, Growing, Memory, Method
from sparsedc.sparsity.schedule import TopologySchedule


@dataclass(frozen=True)
class _Candidates:
    """The inactive blocks that may be grown, and how active ones would score if they were dropped."""

    ids: Tensor  # of the highest scored inactive blocks, ascending
    scores: Tensor
    active: Tensor | None  # scores of the active blocks; None where none is taken back


class SparseEngine:
    """Keeps a model sparse while a method moves its weights.

    Construction zeroes the inactive weights of a random topology. To resume, construct first, then load the model's
    weights and this engine's state.

    Args:
        weights: the maskable parameters by name; none for dense training, which the engine then does not touch.
        counts: active blocks of each layer, by update step, None before the first: `Spec.block_counts_at`.
        block: (rows, columns) of a block; each layer's are multiples.
        method: how drops and growth are scored.
        schedule: when the topology changes, and by how much.
        seed: of the initial topology and of random growth.
        betas, eps, weight_decay, newborn: of AdamW.
        compute_dtype: of the weights in matrix products, such as torch.bfloat16; by default their own. The optimizer's
            own weights are float32 all the same.
        keep_ids: keep the ids of active blocks, 8 bytes each, instead of making them anew from the masks twice a
            step; by default for small models.
        average: averages a tensor in place over the ranks of data-parallel training.

    Raises:
        InputError: counts that are not the layers', or not between 1 and all.
    """

    def __init__(
        self,
        weights: dict[str, torch.nn.Parameter],
        counts: Callable[[int | None], dict[str, int]],
        method: Method,
        schedule: TopologySchedule,
        seed: int,
        *,
        block: tuple[int, int] = (1, 1),
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        newborn: Newborn = Newborn(),  # noqa: B008  (frozen)
        compute_dtype: torch.dtype | None = None,
        keep_ids: bool | None = None,
        average: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.method, self.schedule, self.seed, self._counts = method, schedule, seed, counts
        self._average = average
        first = counts(None) if weights else {}
        if weights.keys() != first.keys():
            differ = sorted(weights.keys() ^ first.keys())
            raise InputError("counts", differ, "not the weights' layers", "Give one count for each weight.")
        if keep_ids is None:
            keep_ids = sum(weight.numel() for weight in weights.values()) <= KEPT_INDICES
        self.layers: list[SparseLayer] = []
        for name in sorted(weights):
            weight = weights[name]
            blocks = Blocks(weight.shape[0], weight.shape[1], block)
            if not 1 <= first[name] <= blocks.count:
                raise InputError(f"counts.{name}", first[name], f"not in 1 … {blocks.count}", "Use layer_counts.")
            scores = self._draws("init", 0, name, weight.device).uniform(blocks.count)
            ids = highest(scores, first[name])
            self.layers.append(SparseLayer.masked(name, weight, block, ids, keep_ids))
        self.memories: list[Memory] = [{} for _ in self.layers]
        self._candidates: list[_Candidates | None] = [None for _ in self.layers]
        self._step = 0
        self._looking = False
        self._next_update: int | None = None
        self.history = History(self.layers)
        self._places = self._slices()
        self.optimizer: SparseAdamW | None = None
        if self.layers:
            dtype = compute_dtype or self.layers[0].weight.dtype
            self.optimizer = SparseAdamW(self._gathered(), dtype, betas, eps, weight_decay, newborn)
            for layer in self.layers:
                layer.weight.data = layer.weight.data.to(dtype)
        for number, layer in enumerate(self.layers):
            layer.weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(self._take, number)
            )

    @property
    def active(self) -> int:
        """Active weights now."""
        return sum(layer.active * layer.blocks.area for layer in self.layers)

    def updates_at(self, step: int) -> bool:
        """Does the topology change after this optimizer step (counted from 1)?"""
        return self._update_from(step) == step

    def looks_at(self, step: int) -> bool:
        """Does the method look at the gradients of inactive weights at this step?"""
        update, window = self._update_from(step), self.method.window
        return update is not None and window != 0 and (window is None or update < step + window)

    def begin(self, step: int) -> None:
        """Say which optimizer step the next backward pass is of."""
        self._step, self._next_update, self._looking = step, self._update_from(step), self.looks_at(step)

    @torch.no_grad()
    def step(self, lr: float, clip: Tensor | None = None, measured_age: int | None = None) -> UpdateSizes | None:
        """AdamW on the active weights; `SparseAdamW.step` explains the arguments."""
        if self.optimizer is None:
            return None
        sizes = self.optimizer.step(lr, clip, measured_age)
        for layer, here in zip(self.layers, self._places, strict=True):
            layer.blocks.scatter(layer.weight.data, layer.ids(), self.optimizer.gradient[here])
        return sizes

    @torch.no_grad()
    def gradient_norm(self) -> Tensor | None:
        """Norm of the active gradients of the last backward pass, averaged over ranks; None without layers."""
        if self.optimizer is None:
            return None
        if self._average is not None and not self._looking:
            self._average(self.optimizer.gradient)
        return self.optimizer.gradient_norm()

    @torch.no_grad()
    def update_topology(self) -> TopologyUpdate | None:
        """At an update step, drop and grow blocks in each layer; otherwise nothing is to be done."""
        if self.optimizer is None or not self.updates_at(self._step):
            return None
        fraction, targets = self.schedule.drop_fraction_at(self._step), self._counts(self._step)
        for layer in self.layers:
            if targets[layer.name] > layer.active:
                raise InputError(
                    f"counts.{layer.name}", targets[layer.name], f"rises from {layer.active} active blocks",
                    "Let counts fall or stay, as those of a Spec do.",
                )  # fmt: skip
        ages = self.optimizer.ages()
        end, replaced = 0, []
        for number, layer in enumerate(self.layers):
            target = targets[layer.name]
            replaced.append(self._move(number, end, target))
            end += target
        self._places = self._slices()
        if end < len(self.optimizer.age):
            self.optimizer.truncate(end)
        self.check()
        if self._update_from(self._step + 1) is None:
            for memory in self.memories:
                memory.clear()  # no later update will ask
        return self.history.record(self._step, fraction, replaced, ages)

    def check(self) -> None:
        """Raise unless every layer has exactly its count of active blocks and zeros elsewhere.

        NaN passes: divergence is a result that the loss reports, not a broken topology.
        """
        for layer in self.layers:
            active = int(layer.mask().sum())
            if active != layer.active:
                raise RuntimeError(f"{layer.name} has {active} active blocks instead of {layer.active}")
            elsewhere = layer.weight.detach().clone()
            ids = layer.ids()
            zeros = elsewhere.new_zeros(len(ids), layer.blocks.area)
            layer.blocks.scatter(elsewhere, ids, zeros)
            if bool(elsewhere.any()):
                raise RuntimeError(f"{layer.name} has inactive weights that are not zero")

    def mask_hash(self) -> str:
        """SHA-256 of all masks: equal on every rank and device, or something is wrong."""
        digest = sha256()
        for layer in self.layers:
            digest.update(layer.name.encode() + b"\0" + host_bits(layer).tobytes())
        return digest.hexdigest()

    def persistent_bytes(self) -> int:
        """Device memory that lasts from step to step, by enumeration of tensors: weights, masks, optimizer state,
        gradients, kept ids and memories."""
        tensors = [tensor for layer in self.layers for tensor in (layer.weight, layer.bits)]
        tensors += [layer._ids for layer in self.layers if layer._ids is not None]
        tensors += [tensor for memory in self.memories for tensor in memory.values()]
        if self.optimizer is not None:
            tensors += [getattr(self.optimizer, key) for key in (*SparseAdamW.STATE, "gradient")]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's weights."""
        return {
            "masks": {layer.name: layer.bits.cpu() for layer in self.layers},
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "memories": {layer.name: memory for layer, memory in zip(self.layers, self.memories, strict=True)},
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over masks, optimizer and memories; the weights are the model's to load.

        Raises:
            InputError: it is another cell's state.
        """
        masks: dict[str, Tensor] = state["masks"]
        if masks.keys() != {layer.name for layer in self.layers}:
            differ = sorted(masks.keys() ^ {layer.name for layer in self.layers})
            raise InputError("masks", differ, "not this model's masked layers", "Resume with the same cell.")
        if self.optimizer is None:
            return
        steps = int(state["optimizer"]["steps"])
        past = [update for update in self.schedule.update_steps if update <= steps] if self.method.dynamic else []
        counts = self._counts(past[-1] if past else None)
        for number, layer in enumerate(self.layers):
            active = int(np.bitwise_count(masks[layer.name].cpu().numpy()).sum())
            if active != counts[layer.name]:
                raise InputError(
                    f"masks.{layer.name}", active, f"active blocks instead of {counts[layer.name]}",
                    "Resume with the same cell.",
                )  # fmt: skip
            layer.load_bits(masks[layer.name])
            device = layer.weight.device
            self.memories[number] = {k: v.to(device, copy=True) for k, v in state["memories"][layer.name].items()}
        self._places = self._slices()
        self.optimizer.load_state_dict(state["optimizer"])
        self.history.load_state_dict(state["history"])

    # ------------------------------------------------------------------------------------------------ internals

    @torch.no_grad()
    def _gathered(self) -> Tensor:
        """The active weights, [active blocks, area]."""
        like = self.layers[0].weight
        area, total = self.layers[0].blocks.area, sum(layer.active for layer in self.layers)
        gathered = torch.empty(total, area, dtype=like.dtype, device=like.device)
        for layer, here in zip(self.layers, self._places, strict=True):
            layer.blocks.gather(layer.weight.data, layer.ids(), gathered[here])
        return gathered

    def _slices(self) -> list[slice]:
        """Each layer's place among all active blocks."""
        ends = np.cumsum([layer.active for layer in self.layers]).tolist()
        return [slice(end - layer.active, end) for layer, end in zip(self.layers, ends, strict=True)]

    def _update_from(self, step: int) -> int | None:
        """The first topology update at this step or later."""
        if not self.layers or not self.method.dynamic:
            return None
        return next((update for update in self.schedule.update_steps if update >= step), None)

    def _births(self, layer: SparseLayer, step: int) -> int:
        """How many blocks the update at `step` grows in a layer."""
        if not isinstance(self.method, Growing):
            return 0
        target = self._counts(step)[layer.name]
        free = layer.blocks.count - (target if self.method.takes_back else layer.active)
        return min(floor(self.schedule.drop_fraction_at(step) * target), free)

    @torch.no_grad()
    def _take(self, number: int, weight: Tensor) -> None:
        """Keep the active part of a layer's gradient, let the method look at the rest, and free it."""
        layer, gradient = self.layers[number], weight.grad
        assert gradient is not None
        assert self.optimizer is not None
        if self._looking:
            assert self._next_update is not None
            assert isinstance(self.method, Growing)
            if self._average is not None:
                self._average(gradient)
            blocks, births = layer.blocks.split(gradient), self._births(layer, self._next_update)
            inactive = layer.inactive_ids()
            self.method.observe(self.memories[number], blocks, inactive, births)
            if self._next_update == self._step:
                self._candidates[number] = self._rank(number, blocks, inactive, births)
        layer.blocks.gather(gradient, layer.ids(), self.optimizer.gradient[self._places[number]])
        weight.grad = None

    def _rank(self, number: int, gradient: Tensor | None, inactive: Tensor, births: int) -> _Candidates:
        """Score a layer's blocks for growth, and keep what an update may choose from."""
        layer = self.layers[number]
        assert isinstance(self.method, Growing)
        draws = self._draws("grow", self._step, layer.name, layer.weight.device)
        scores = self.method.grow_scores(layer.blocks.count, gradient, self.memories[number], draws)
        best = highest(scores[inactive], min(births, len(inactive)))
        active = scores[layer.ids()] if self.method.takes_back else None
        return _Candidates(inactive[best], scores[inactive[best]], active)

    def _move(self, number: int, start: int, target: int) -> int:
        """Drop and grow in one layer until `target` blocks are active, and move its state to `start`, which is not
        behind its present place; returns how many blocks became active that were not."""
        layer, here, optimizer = self.layers[number], self._places[number], self.optimizer
        assert optimizer is not None
        assert isinstance(self.method, Dropping)
        births = self._births(layer, self._step)
        ids = layer.ids()
        draws = self._draws("drop", self._step, layer.name, layer.weight.device)
        drops = layer.active - target + births
        dropped = highest(-self.method.drop_scores(optimizer.master[here], draws), drops) if drops else ids[:0]
        born = self._choose(number, ids[dropped], dropped, births) if births else ids[:0]
        kept = torch.ones(layer.active, dtype=torch.bool, device=ids.device)
        kept[dropped] = False
        after, order = torch.cat([ids[kept], born]).sort()
        zeros = layer.weight.new_zeros(len(dropped), layer.blocks.area)
        layer.blocks.scatter(layer.weight.data, ids[dropped], zeros)
        for key in SparseAdamW.STATE:
            state: Tensor = getattr(optimizer, key)
            survivors = state[here][kept]
            state[start : start + target] = torch.cat([survivors, survivors.new_zeros(births, *state.shape[1:])])[order]
        layer.activate(after)
        return births - int(torch.isin(born, ids).sum())

    def _choose(self, number: int, dropped_ids: Tensor, dropped: Tensor, births: int) -> Tensor:
        """Ids of the blocks that an update grows; `dropped` are places among the layer's active blocks."""
        candidates = self._candidates[number]
        if candidates is None:
            candidates = self._rank(number, None, self.layers[number].inactive_ids(), births)
        self._candidates[number] = None
        among, scores = candidates.ids, candidates.scores
        if candidates.active is not None:
            among, order = torch.cat([among, dropped_ids]).sort()
            scores = torch.cat([scores, candidates.active[dropped]])[order]
        return among[highest(scores, births)]

    def _draws(self, purpose: str, step: int, name: str, device: torch.device) -> Draws:
        """A stream of its own for each draw: no draw shifts another."""
        return Draws(f"{self.seed}/{purpose}/{step}/{name}", device)


def highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores, ascending; ties go to the lower index, and NaN counts as lowest."""
    if count == len(scores):
        return torch.arange(count, device=scores.device)
    if count == 0:
        return torch.arange(0, device=scores.device)
    scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    threshold = scores.topk(count, sorted=False).values.min()
    above, tied = scores > threshold, scores == threshold
    return (above | (tied & (tied.cumsum(0) <= count - above.sum()))).nonzero().squeeze(1)

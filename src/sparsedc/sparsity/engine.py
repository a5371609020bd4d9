"""The engine that applies a method: masks of exact counts, topology updates, and weights that train where they live.

A training step calls it so:

    engine.begin(step)
    loss.backward()                 # a hook takes each layer's active gradients; the dense ones die there
    engine.gradient_norm()          # part of the norm by which gradients are clipped
    engine.step(lr, clip)           # AdamW on the active blocks
    engine.update_topology()        # the method looks at dense gradients that were kept; at an update step: drop, grow

Masks depend on the seed, the step and the layer's name, and on the tensors; never on the order of layers, the device
or the rank.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from sparsedc.errors import InputError
from sparsedc.optim import Newborn, SparseAdamW, UpdateSizes
from sparsedc.sparsity.draws import Draws
from sparsedc.sparsity.growth import Growth
from sparsedc.sparsity.history import History, TopologyUpdate, host_bits
from sparsedc.sparsity.layer import Blocks, SparseLayer, activate, masks
from sparsedc.sparsity.methods import Dropping, Method
from sparsedc.sparsity.schedule import TopologySchedule
from sparsedc.sparsity.stretches import Stretches, places

TOGETHER = 2**28  # maskable weights up to which a step takes all layers at once
UPDATED_AT_ONCE = 2**26  # weights of layers that an update takes in one go: bounds the memory of its results


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
        together: spend memory to take all layers at once, for which a small model's GPU is fast enough: dense
            gradients live until the backward pass ends, the ids of active blocks, 8 bytes each, for good. Otherwise a
            dense gradient dies when its layer's active part is taken, and ids are made anew twice a step. By default
            for small models.
        average: averages a tensor in place over the ranks of data-parallel training.

    Attributes:
        looking: does the method look at the gradients of inactive weights at the present step?
        dense: by layer, the dense gradient that the present step has kept for that.
        layout: rises when tensors change their sizes. While it stays, and layers are taken together, a step reads and
            writes the same tensors as the one before.

    Raises:
        InputError: counts that are not the layers', or not between 1 and all; weights that are not contiguous
            matrices of whole blocks.
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
        together: bool | None = None,
        average: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.method, self.schedule, self.seed, self._counts = method, schedule, seed, counts
        self._average = average
        first = counts(None) if weights else {}
        if weights.keys() != first.keys():
            differ = sorted(weights.keys() ^ first.keys())
            raise InputError("counts", differ, "not the weights' layers", "Give one count for each weight.")
        if together is None:
            together = sum(weight.numel() for weight in weights.values()) <= TOGETHER
        self.layers: list[SparseLayer] = []
        for name in sorted(weights):
            weight = weights[name]
            _check_weight(name, weight, block)
            blocks = Blocks(weight.shape[0], weight.shape[1], block)
            if not 1 <= first[name] <= blocks.count:
                raise InputError(f"counts.{name}", first[name], f"not in 1 … {blocks.count}", "Use layer_counts.")
            scores = Draws.of(seed, "init", 0, {name: blocks.count}, weight.device).uniform()
            ids = Stretches([blocks.count], weight.device).highest(scores, [first[name]]).sort().values
            self.layers.append(SparseLayer.masked(name, weight, block, ids))
        self.growth = Growth(self.layers, method, schedule, seed, counts)
        self.together = together
        self._ids: Tensor | None = None  # of active blocks, counted through all layers
        self._weights: Tensor | None = None  # of all layers, [blocks, area], of which theirs are parts
        self.dense: list[Tensor | None] = [None for _ in self.layers]
        self._parts = 1
        self._taken = [0 for _ in self.layers]  # gradients of this step that have come
        self._sums: list[Tensor | None] = [None for _ in self.layers]  # of active gradients, while parts come
        self._step = 0
        self.looking = self._finished = False
        self.layout = 0
        self.history = History(self.layers)
        self._places = self._slices()
        self.optimizer: SparseAdamW | None = None
        if self.layers:
            dtype = compute_dtype or self.layers[0].weight.dtype
            self.optimizer = SparseAdamW(self._gathered(), dtype, betas, eps, weight_decay, newborn)
            self._share_weights(dtype)
        for number, layer in enumerate(self.layers):
            layer.weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(_taker, ref(self), number)
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

    def begin(self, step: int, parts: int = 1) -> None:
        """Say which optimizer step the next backward pass is of, or the next `parts`, whose gradients are summed.

        A step may begin again, if its backward pass broke off.

        Sums are float32; while they last they cost 4 bytes an active weight more, and at steps at which the method
        looks, dense gradients stay until the last part has come.

        Raises:
            RuntimeError: somebody has given a layer other memory, in which it would no longer train.
        """
        if self._weights is not None:
            place = self._weights.data_ptr()
            for layer in self.layers:
                if layer.weight.data_ptr() != place:
                    raise RuntimeError(f"{layer.name} has left the memory that layers share; change weights in place")
                place += layer.weight.nbytes
        self._parts, self._taken = parts, [0 for _ in self.layers]
        self.dense, self._sums = [None for _ in self.layers], [None for _ in self.layers]
        self._step, self.looking = step, self.looks_at(step)
        self.growth.begin(step, self._update_from(step))
        self._finished = False

    @torch.no_grad()
    def step(
        self, lr: float | Tensor, clip: Tensor | None = None, measured_age: int | Tensor | None = None
    ) -> UpdateSizes | None:
        """AdamW on the active weights; `SparseAdamW.step` explains the arguments."""
        if self.optimizer is None:
            return None
        self._finish_gradients()
        sizes = self.optimizer.step(lr, clip, measured_age)
        self._taken, self._finished = [0 for _ in self.layers], False  # in the gradients' place are weights now
        if self._weights is not None:
            assert self._ids is not None
            self._weights.index_copy_(0, self._ids, self.optimizer.gradient)
            return sizes
        start = 0
        for layer, here in zip(self.layers, self._places, strict=True):
            ids = layer.ids() if self._ids is None else self._ids[here] - start
            layer.blocks.scatter(layer.weight.data, ids, self.optimizer.gradient[here])
            start += layer.blocks.count
        return sizes

    @torch.no_grad()
    def gradient_norm(self) -> Tensor | None:
        """Norm of the active gradients of the last backward pass, averaged over ranks; None without layers."""
        if self.optimizer is None:
            return None
        self._finish_gradients()
        return self.optimizer.gradient_norm()

    @torch.no_grad()
    def update_topology(self) -> TopologyUpdate | None:
        """At an update step, drop and grow blocks in each layer; otherwise there is nothing but to look."""
        if self.optimizer is None:
            return None
        if self.looking and self.together and self.method.window != 1:
            for number in range(len(self.layers)):
                self._look(number)
        if not self.updates_at(self._step):
            return None
        targets, before = self._counts(self._step), self.active
        births = sum(self.growth.births(layer, self._step) * layer.blocks.area for layer in self.layers)
        for layer in self.layers:
            if targets[layer.name] > layer.active:
                raise InputError(
                    f"counts.{layer.name}", targets[layer.name], f"rises from {layer.active} active blocks",
                    "Let counts fall or stay, as those of a Spec do.",
                )  # fmt: skip
        ages = self.optimizer.ages()
        end, replaced = 0, []
        for numbers in self._batches():
            counts = [targets[self.layers[number].name] for number in numbers]
            replaced.append(self._move(numbers, end, counts))
            end += sum(counts)
        self._places = self._slices()
        if end < len(self.optimizer.age):
            self.optimizer.truncate(end)
            self._ids = None if self._ids is None else self._ids[:end].clone()
            self.layout += 1
        self.check()
        self.growth.end(last=self._update_from(self._step + 1) is None)
        dropped = before - self.active + births
        self.dense = [None for _ in self.layers]
        return self.history.record(self._step, dropped / before, torch.cat(replaced).tolist(), ages)

    @torch.no_grad()
    def check(self) -> None:
        """Raise unless every layer has exactly its count of active blocks and zeros elsewhere.

        NaN passes: divergence is a result that the loss reports, not a broken topology.
        """
        found = []
        for numbers in self._batches():
            layers = [self.layers[number] for number in numbers]
            blocks = Stretches([layer.blocks.count for layer in layers], layers[0].weight.device)
            mask = masks(layers)
            used = torch.cat([layer.blocks.split(layer.weight.detach()).ne(0).any(1) for layer in layers])
            found.append(torch.stack([blocks.count(mask), blocks.count(used & ~mask)]))
        counts = torch.cat(found, dim=1).T.tolist() if found else []
        for layer, (active, stray) in zip(self.layers, counts, strict=True):
            if active != layer.active:
                raise RuntimeError(f"{layer.name} has {active} active blocks instead of {layer.active}")
            if stray:
                raise RuntimeError(f"{layer.name} has inactive weights that are not zero")

    @torch.no_grad()
    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each layer's name and its weights, [rows, columns], as the optimizer keeps them: float32, in host memory."""
        for layer, here in zip(self.layers, self._places, strict=True):
            assert self.optimizer is not None
            whole = torch.zeros_like(layer.weight, dtype=torch.float32, requires_grad=False)
            layer.blocks.scatter(whole, layer.ids(), self.optimizer.master[here])
            yield layer.name, whole.cpu()

    def mask_hash(self) -> str:
        """SHA-256 of all masks: equal on every rank and device, or something is wrong."""
        digest = sha256()
        for layer in self.layers:
            digest.update(layer.name.encode() + b"\0" + host_bits([layer]).tobytes())
        return digest.hexdigest()

    def persistent_bytes(self) -> int:
        """Device memory that lasts from step to step, by enumeration of tensors: weights, masks, optimizer state,
        gradients, kept ids and memories."""
        tensors = [tensor for layer in self.layers for tensor in (layer.weight, layer.bits)]
        tensors += [self._ids] if self._ids is not None else []
        tensors += [tensor for memory in self.growth.memories for tensor in memory.values()]
        if self.optimizer is not None:
            tensors += [getattr(self.optimizer, key) for key in (*SparseAdamW.STATE, "gradient")]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's weights."""
        return {
            "masks": {layer.name: layer.bits.cpu() for layer in self.layers},
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "memories": {layer.name: memory for layer, memory in zip(self.layers, self.growth.memories, strict=True)},
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over masks, optimizer and memories; the weights are the model's to load.

        Raises:
            InputError: it is another cell's state.
        """
        bits: dict[str, Tensor] = state["masks"]
        if bits.keys() != {layer.name for layer in self.layers}:
            differ = sorted(bits.keys() ^ {layer.name for layer in self.layers})
            raise InputError("masks", differ, "not this model's masked layers", "Resume with the same cell.")
        if self.optimizer is None:
            return
        steps = int(state["optimizer"]["steps"])
        past = [update for update in self.schedule.update_steps if update <= steps] if self.method.dynamic else []
        counts = self._counts(past[-1] if past else None)
        for number, layer in enumerate(self.layers):
            active = int(np.bitwise_count(bits[layer.name].cpu().numpy()).sum())
            if active != counts[layer.name]:
                raise InputError(
                    f"masks.{layer.name}", active, f"active blocks instead of {counts[layer.name]}",
                    "Resume with the same cell.",
                )  # fmt: skip
            layer.load_bits(bits[layer.name])
            device = layer.weight.device
            memory = state["memories"][layer.name]
            self.growth.memories[number] = {key: tensor.to(device, copy=True) for key, tensor in memory.items()}
        self._places = self._slices()
        self.layout += 1
        if self._ids is not None:
            self._ids = places(masks(self.layers), sum(layer.active for layer in self.layers))
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
            gathered[here] = layer.blocks.gather(layer.weight.data, layer.ids())
        return gathered

    def _share_weights(self, dtype: torch.dtype) -> None:
        """Turn the layers' weights into `dtype`; together, unless blocks are tiles, into one tensor [blocks, area]."""
        if not self.together:
            for layer in self.layers:
                layer.weight.data = layer.weight.data.to(dtype)
            return
        self._ids = places(masks(self.layers), sum(layer.active for layer in self.layers))
        weights = torch.cat([layer.weight.data.flatten() for layer in self.layers]).to(dtype)
        sizes = [layer.weight.numel() for layer in self.layers]
        for layer, part in zip(self.layers, torch.split(weights, sizes), strict=True):
            layer.weight.data = part.view_as(layer.weight)
        blocks = self.layers[0].blocks
        if blocks.block[0] == 1:
            self._weights = weights.view(-1, blocks.area)

    def _slices(self) -> list[slice]:
        """Each layer's place among all active blocks."""
        ends = np.cumsum([layer.active for layer in self.layers]).tolist()
        return [slice(end - layer.active, end) for layer, end in zip(self.layers, ends, strict=True)]

    def _update_from(self, step: int) -> int | None:
        """The first topology update at this step or later."""
        if not self.layers or not self.method.dynamic:
            return None
        updates = self.schedule.update_steps
        place = bisect_left(updates, step)
        return updates[place] if place < len(updates) else None

    def _batches(self) -> list[range]:
        """Numbers of layers that follow one another and are updated together."""
        batches: list[range] = []
        weights = 0
        for number, layer in enumerate(self.layers):
            weights += layer.weight.numel()
            if batches and weights <= UPDATED_AT_ONCE:
                batches[-1] = range(batches[-1].start, number + 1)
            else:
                batches.append(range(number, number + 1))
                weights = layer.weight.numel()
        return batches

    def _finish_gradients(self) -> None:
        """Take the active gradients, once a step, and average them over ranks, if backward has not. Every layer must
        have one, since gradients and new weights take turns in one place."""
        missing = [layer.name for layer, taken in zip(self.layers, self._taken, strict=True) if taken < self._parts]
        if missing:
            raise RuntimeError(
                f"{', '.join(missing)}: no gradient since begin(), or too few; call it, then backward, each step"
            )
        if self._finished:
            return
        assert self.optimizer is not None
        if self._ids is not None:
            gradients = [
                layer.blocks.split(dense)
                for layer, dense in zip(self.layers, self.dense, strict=True)
                if dense is not None
            ]
            self.optimizer.gradient.copy_(torch.cat(gradients).index_select(0, self._ids))
            if not self.looking:
                self.dense = [None for _ in self.layers]
        if self._average is not None and not self.looking:  # else dense gradients were averaged
            self._average(self.optimizer.gradient)
        self._finished = True

    @torch.no_grad()
    def _take(self, number: int, weight: Tensor) -> None:
        """Keep the active part of a layer's gradient, let the method look at the rest, and free it."""
        layer, gradient, here = self.layers[number], weight.grad, self._places[number]
        assert gradient is not None
        assert self.optimizer is not None
        weight.grad = None
        if self._taken[number] == self._parts:
            raise RuntimeError(f"{layer.name}: a gradient more than begin() was told of")
        self._taken[number] += 1
        last = self._taken[number] == self._parts
        if self.together or self.looking:
            whole = self._summed(self.dense[number], gradient)
            if self.looking and last and self._average is not None:
                self._average(whole)
            self.dense[number] = whole
            if last and not self.together:
                self.optimizer.gradient[here] = layer.blocks.gather(whole, layer.ids())
                self._look(number)
        else:
            active = layer.blocks.gather(gradient, layer.ids())
            self._sums[number] = active = self._summed(self._sums[number], active)
            if last:
                self.optimizer.gradient[here] = active
                self._sums[number] = None

    def _summed(self, before: Tensor | None, part: Tensor) -> Tensor:
        if before is not None:
            return before.add_(part)
        return part if self._parts == 1 else part.float()

    def _look(self, number: int) -> None:
        """Let the method look at a layer's dense gradient, and forget that."""
        dense = self.dense[number]
        assert dense is not None
        self.growth.look(number, dense)
        self.dense[number] = None

    def _move(self, numbers: range, start: int, targets: list[int]) -> Tensor:
        """Drop and grow in some layers until `targets` blocks are active, and move their state to `start`, which is not
        behind its present place; returns how many blocks of each became active that were not, [layers].

        Ids are counted through all these layers. Sizes are known beforehand: the host hardly waits for the device.
        """
        layers, optimizer = [self.layers[number] for number in numbers], self.optimizer
        here = slice(self._places[numbers[0]].start, self._places[numbers[-1]].stop)
        assert optimizer is not None
        assert isinstance(self.method, Dropping)
        device = optimizer.master.device
        births = [self.growth.births(layer, self._step) for layer in layers]
        active = Stretches([layer.active for layer in layers], device)
        drops = [now - target + new for now, target, new in zip(active.sizes, targets, births, strict=True)]
        mask = masks(layers)
        ids = places(mask, active.total)

        draws = Draws.of(self.seed, "drop", self._step, {layer.name: layer.active for layer in layers}, device)
        dropped = active.highest(-self.method.drop_scores(optimizer.master[here], draws), drops)
        dense = [gradient for number in numbers if (gradient := self.dense[number]) is not None]
        born = self.growth.choose(numbers, mask, ids[dropped], dropped, drops, births, dense)
        survives = torch.ones(active.total, dtype=torch.bool, device=device)
        survives[dropped] = False
        kept = places(survives, active.total - sum(drops))
        after, order = torch.cat([ids[kept], born]).sort()

        newborn = order >= len(kept)
        source = torch.cat([kept, torch.zeros_like(born)])[order]
        for key in SparseAdamW.STATE:
            state: Tensor = getattr(optimizer, key)
            moved = state[here].index_select(0, source)
            moved[newborn] = 0
            state[start : start + len(moved)] = moved
        blocks = Stretches([layer.blocks.count for layer in layers], device)
        local = torch.split((ids - blocks.starts[active.number])[dropped], drops)
        for layer, own in zip(layers, local, strict=True):
            layer.blocks.scatter(layer.weight.data, own, layer.weight.new_zeros(len(own), layer.blocks.area))
        activate(layers, after, targets)
        if self._ids is not None:
            before = sum(layer.blocks.count for layer in self.layers[: numbers.start])
            self._ids[start : start + len(after)] = after + before
        return Stretches(births, device).count(~mask[born])


def _taker(engine: "ref[SparseEngine]", number: int, weight: Tensor) -> None:
    """A hook that holds no engine: Python cannot free what holds itself through a parameter's hook."""
    alive = engine()
    if alive is not None:
        alive._take(number, weight)


def _check_weight(name: str, weight: Tensor, block: tuple[int, int]) -> None:
    if not weight.is_contiguous():
        raise InputError(f"weights.{name}", weight.stride(), "strides of no contiguous matrix", "Call contiguous().")
    if weight.shape[0] % block[0] or weight.shape[1] % block[1]:
        raise InputError("block", block, f"does not divide {name}, {tuple(weight.shape)}", "Use a block that does.")

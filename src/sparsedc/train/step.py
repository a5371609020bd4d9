"""One optimizer step as work for the device alone, which a GPU records once and replays.

At small sizes a GPU is done with a kernel before the host has launched the next. Blocks and head are therefore
compiled, and the whole step is one CUDA graph: what changes from step to step lies in tensors that the graph reads.
Topology updates stay outside and write into the same tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM

from sparsedc.errors import InputError
from sparsedc.sparsity.engine import SparseEngine
from sparsedc.train import memory
from sparsedc.train.head import LinearCrossEntropy, linear_cross_entropies, plain_cross_entropy
from sparsedc.train.ranks import ALONE, Ranks, ShortOfMemoryError

MICRO_BATCH_TOKENS = 4096  # a GPU idles with fewer: before that, activations are recomputed
WARM_UP_STEPS = 3  # before the step is recorded: compilation and the optimizer's first allocations come in these
MEASURED_STEP = 2  # of shards: the first that finds the optimizer's state in place
COMPILED_SHAPES = 64  # of cells that one process trains; beyond them PyTorch would give up compiling


class Loss(torch.nn.Module):
    """Mean next-token loss of a LLaMA, nats per token, made fast on request: blocks compiled, no logits kept.

    Blocks are compiled one by one: as they are alike, once for all; and each block's dense gradients come, and go,
    before the next one's.

    Attributes:
        recomputes: keep no activations within blocks, and compute them again in the backward pass.
    """

    def __init__(self, model: LlamaForCausalLM, compiled: bool) -> None:
        super().__init__()
        self.recomputes = False
        self.body, self.head = model.model, model.lm_head
        self.cross_entropy: Callable[..., Tensor] = plain_cross_entropy
        self.cross_entropies: Callable[..., Tensor] = partial(plain_cross_entropy, reduction="none")
        if compiled:
            torch._dynamo.config.recompile_limit = 2 * COMPILED_SHAPES  # a block and the norm
            for part in (*self.body.layers, self.body.norm):
                part.compile(dynamic=False)  # in place, where modules' hooks work as ever
            self.cross_entropy, self.cross_entropies = LinearCrossEntropy.apply, linear_cross_entropies

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Of token ids, each [sequences, sequence length]."""
        return self.cross_entropy(self._hidden(inputs), self.head.weight, targets.flatten())

    def of_tokens(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each token, [sequences, sequence length], by the same forward pass and without gradients."""
        hidden = self._hidden(inputs).detach()  # nothing else holds activations, which are freed with the graph
        return self.cross_entropies(hidden, self.head.weight, targets.flatten()).view_as(targets)

    def _hidden(self, inputs: Tensor) -> Tensor:
        """What the head multiplies, [tokens, width]."""
        hidden = self.body.embed_tokens(inputs)
        positions = torch.arange(inputs.shape[1], device=inputs.device).unsqueeze(0)
        rotary = self.body.rotary_emb(hidden, position_ids=positions)
        for layer in self.body.layers:
            if self.recomputes:
                hidden = checkpoint(
                    layer, hidden, attention_mask=None, position_embeddings=rotary, use_reentrant=False,
                    preserve_rng_state=False,
                )  # fmt: skip
            else:
                hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
        normed: Tensor = self.body.norm(hidden)
        return normed.flatten(0, 1)


@dataclass
class _Recording:
    """A recorded step, and the dense gradients that it leaves to the method."""

    graph: torch.cuda.CUDAGraph
    dense: list[Tensor | None]


@dataclass
class _Evaluation:
    """A recorded evaluation of one batch, and where it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    targets: Tensor
    losses: Tensor


class Step:
    """Forward, backward, clipping and both optimizers, in place.

    A batch that does not fit into memory is taken in parts, and if these would get too small, without keeping
    activations; what is found in the first steps holds for the others. Ranks that hold shards cannot try, as one that
    ran out of memory would leave the others waiting for its part: they begin with the smallest parts, measure what
    these need, and go on with the largest that fit.

    Args:
        forward, engine, optimizer: of the cell; the optimizer's groups say whether they are `maskable`.
        grad_clip: norm, over all active weights, to which gradients are clipped.
        autocast: type of matrix products; None for the weights' own.
        fast: compile, and record a graph where the engine's tensors stay where they are; needs a GPU.
        ranks: that train the cell together; each has its own part of every batch.

    Attributes:
        fast: as given.
        sharded: does this rank hold but its part of the model (`shards`)?
        parts: into how many a batch is taken apart, at most.
        loss: of the last step, nats per token, on the device.
        sizes: root mean square updates of the maskable weights of the measured age, and of older ones, [2].
    """

    def __init__(
        self,
        forward: Loss,
        engine: SparseEngine,
        optimizer: torch.optim.AdamW,
        grad_clip: float,
        autocast: torch.dtype | None,
        fast: bool,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.engine, self.optimizer, self.grad_clip, self.autocast = engine, optimizer, grad_clip, autocast
        self.device = next(forward.parameters()).device
        self.forward, self.fast = forward, fast
        self.sharded = forward.recomputes = isinstance(forward, FSDPModule)
        self.records = fast and engine.together and ranks.size == 1
        self.loss, self.sizes = torch.zeros((), device=self.device), torch.zeros(2, device=self.device)
        self._maskable_lr: float | Tensor = torch.zeros((), dtype=torch.float64, device=self.device)
        self._measured_age: int | Tensor | None = torch.zeros((), dtype=torch.int64, device=self.device)
        self.parts = 1
        self._batch: tuple[Tensor, Tensor] | None = None
        self._number, self._steps = 0, 0
        self._evaluation: _Evaluation | None = None
        self._recordings: dict[tuple[bool, int], _Recording] = {}

    def take(
        self, number: int, inputs: Tensor, targets: Tensor, lr: float, maskable_lr: float, measured_age: int | None
    ) -> None:
        """One step on a batch of token ids, each [sequences, sequence length].

        Args:
            number: of the step, counted from 1.
            lr, maskable_lr: learning rates of embedding, head and norms, and of the maskable matrices.
            measured_age: age of the weights whose updates are measured, None for no measurement.

        Raises:
            InputError: not even one sequence fits into memory, or the optimizer's state, or parts of a sharded model's
                batch.
        """
        for group in self.optimizer.param_groups:
            rate = maskable_lr if group["maskable"] else lr
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if self.device.type == "cuda":
            assert isinstance(self._maskable_lr, Tensor)
            assert isinstance(self._measured_age, Tensor)
            self._maskable_lr.fill_(maskable_lr)
            self._measured_age.fill_(measured_age or 0)
        else:
            self._maskable_lr, self._measured_age = maskable_lr, measured_age
        if self._batch is None:
            self._batch = inputs.clone(), targets.clone()
            if self.sharded:
                self.parts = -(-len(inputs) // max(1, MICRO_BATCH_TOKENS // inputs.shape[1]))
        for place, tensor in zip(self._batch, (inputs, targets), strict=True):
            place.copy_(tensor)
        self._number = number
        self._steps += 1
        if self.records and self._steps > WARM_UP_STEPS and self._replays():
            return
        if self.sharded:
            self._take_in_shards()
            return
        while not self._fits():
            self._shrink()

    def losses_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of every token, nats, of token ids that are all of one shape, [sequences, sequence length].

        That of the micro-batches needs no compilation that training has not done.
        """
        if not self.fast or self.sharded:
            with torch.no_grad(), self._autocast():
                return self.forward.of_tokens(inputs, targets)
        if self._evaluation is None:
            ours = inputs.clone(), targets.clone()
            with self._autocast():
                self.forward.of_tokens(*ours)  # what happens at first calls only is not for a recording
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()), self._autocast():  # casts are part of it
                losses = self.forward.of_tokens(*ours)
            self._evaluation = _Evaluation(graph, *ours, losses)
        self._evaluation.inputs.copy_(inputs)
        self._evaluation.targets.copy_(targets)
        self._evaluation.graph.replay()
        return self._evaluation.losses.clone()

    @property
    def micro_batches(self) -> int:
        """A batch; PyTorch makes fewer than `parts` where these divide badly."""
        return self.parts if self._batch is None else len(self._micro_batches())

    @property
    def micro_batch_sequences(self) -> int | None:
        """Of the largest micro-batch; None before the first step."""
        return None if self._batch is None else len(self._micro_batches()[0][0])

    def forget(self) -> None:
        """Free what recordings hold; another step would record anew."""
        self._recordings.clear()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def _micro_batches(self) -> list[tuple[Tensor, Tensor]]:
        assert self._batch is not None
        inputs, targets = (torch.chunk(side, self.parts) for side in self._batch)
        return list(zip(inputs, targets, strict=True))

    def _replays(self) -> bool:
        """Do the work as it is recorded; False where there is not the memory for a recording, from now on."""
        self.engine.begin(self._number, len(self._micro_batches()))
        kind = self.engine.looking, self.engine.layout
        if kind not in self._recordings:
            self._recordings = {old: kept for old, kept in self._recordings.items() if old[1] == kind[1]}
            try:
                self._recordings[kind] = self._record()
            except torch.OutOfMemoryError:
                self.records = False
                self.forget()
                self.optimizer.zero_grad(set_to_none=True)  # it may have got as far as these
                return False
        recording = self._recordings[kind]
        recording.graph.replay()
        self.engine.dense = list(recording.dense)
        return True

    def _fits(self) -> bool:
        """Do the work; False where memory is short on any rank, and nothing has changed."""
        try:
            self._gradients()
            enough = True
        except torch.OutOfMemoryError:
            enough = False
        except ShortOfMemoryError:
            return False
        if not self.ranks.all(enough, self.device):
            return False
        self._finish()
        return True

    def _take_in_shards(self) -> None:
        """Do the work together with all ranks."""
        if self._steps == MEASURED_STEP:
            memory.forget_peak(self.device)
        try:
            self._gradients()
        except torch.OutOfMemoryError:
            shards = f"one of {self.ranks.size} shards of this model"
            if self._steps > MEASURED_STEP:
                raise InputError(
                    "device", self.device,
                    f"has not the memory to train {shards} with {self.micro_batch_sequences} sequences at a time, "
                    "though it seemed to have", "Start again, more processes, with no others on the devices.",
                ) from None  # fmt: skip
            raise InputError(
                "device", self.device, f"has not the memory to train {shards}",
                "Start more processes, use devices with more memory, or take a smaller model.",
            ) from None  # fmt: skip
        if self._steps == MEASURED_STEP:  # now, while all gradients are held
            self.parts = -(-self.parts // self.ranks.least(memory.room(self.device), self.device))
        self._finish()

    def _shrink(self) -> None:
        """Need less memory from now on."""
        self.optimizer.zero_grad(set_to_none=True)
        assert self._batch is not None
        sequences, tokens = len(self._batch[0]), self._batch[0].numel()
        if self.parts < sequences and (self.forward.recomputes or tokens >= 2 * self.parts * MICRO_BATCH_TOKENS):
            self.parts = min(2 * self.parts, sequences)
        elif not self.forward.recomputes:
            self.forward.recomputes, self.parts = True, 1
        else:
            raise InputError(
                "device", self.device, "has not the memory to train this model with one sequence at a time",
                "Use a device with more memory, or take a smaller model.",
            )  # fmt: skip
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _gradients(self) -> None:
        batches = self._micro_batches()
        self.engine.begin(self._number, len(batches))
        losses = []
        for inputs, targets in batches:
            with self._autocast():
                loss = self.forward(inputs, targets)
            if len(batches) > 1:
                loss = loss * (len(inputs) / sum(len(side) for side, _ in batches))
            loss.backward()
            losses.append(loss.detach())
        self.loss.copy_(losses[0] if len(losses) == 1 else torch.stack(losses).sum())

    def _finish(self) -> None:
        """Descend, or end: a step that breaks off here cannot be taken again."""
        try:
            self._descend()
        except torch.OutOfMemoryError:
            raise InputError(
                "device", self.device, "has not the memory for this model's optimizer",
                "Use a device with more memory, or more of them for a dense model, or take a smaller model.",
            ) from None  # fmt: skip

    def _descend(self) -> None:
        dense = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.ranks.average_all([self.loss] if self.sharded else [*dense, self.loss])  # shards were averaged
        clip = self._clip(dense)
        self.optimizer.step()
        sizes = self.engine.step(self._maskable_lr, clip, self._measured_age)
        self.optimizer.zero_grad(set_to_none=True)
        if sizes is not None:
            torch.stack([sizes.newborn, sizes.kept], out=self.sizes)

    def _clip(self, dense: list[Tensor]) -> Tensor:
        """Clip gradients outside the engine by the global norm over all active weights; returns the factor."""
        norm = torch.nn.utils.get_total_norm(dense)
        norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm, self.engine.gradient_norm()]
        norm = torch.linalg.vector_norm(torch.stack([norm for norm in norms if norm is not None]))
        factor: Tensor = (self.grad_clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(dense, factor)
        return factor

    def _record(self) -> _Recording:
        """Recording runs nothing; a replay is the first to."""
        graph = torch.cuda.CUDAGraph()
        pool = next((kept.graph.pool() for kept in self._recordings.values()), None)
        with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
            self._gradients()
            self._descend()
        return _Recording(graph, list(self.engine.dense))

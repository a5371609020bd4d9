"""Which blocks become active at a topology update: those that the method scores highest, by what it has seen."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedc.sparsity.draws import Draws
from sparsedc.sparsity.layer import SparseLayer
from sparsedc.sparsity.methods import Growing, Memory, Method
from sparsedc.sparsity.schedule import TopologySchedule
from sparsedc.sparsity.stretches import Stretches, places


@dataclass(frozen=True)
class Candidates:
    """The inactive blocks that may be grown, and how active ones would score if they were dropped."""

    ids: Tensor  # of the highest scored inactive blocks, best first
    scores: Tensor
    active: Tensor | None  # scores of the active blocks; None where none is taken back


class Growth:
    """What a method has seen of gradients, and the blocks that it grows.

    Gradients of an update's step are scored when they come, layer by layer, so that no more than the best candidates
    of each stay; or all at once in `choose`, where they are at hand.

    Args:
        layers, method, schedule, seed, counts: of the `SparseEngine`.

    Attributes:
        memories: by layer, what the method remembers from step to step.
        candidates: by layer, for the update of the present step.
    """

    def __init__(
        self,
        layers: list[SparseLayer],
        method: Method,
        schedule: TopologySchedule,
        seed: int,
        counts: Callable[[int | None], dict[str, int]],
    ) -> None:
        self.layers, self.method, self.schedule, self.seed, self._counts = layers, method, schedule, seed, counts
        self.memories: list[Memory] = [{} for _ in layers]
        self.candidates: list[Candidates | None] = [None for _ in layers]
        self._observed: set[int] = set()  # layers at whose gradient of this step the method has looked
        self._step = 0
        self._update: int | None = None  # the next one

    def births(self, layer: SparseLayer, update: int) -> int:
        """How many blocks the update at a step grows in a layer."""
        if not isinstance(self.method, Growing):
            return 0
        fraction, target = self.schedule.drop_fraction_at(update), self._counts(update)[layer.name]
        return self.method.births(fraction, layer.blocks.count, layer.active, target)

    def begin(self, step: int, update: int | None) -> None:
        """Gradients are those of this step from now on, for the next topology update; a step may begin again."""
        if step != self._step:
            self._observed.clear()
        self._step, self._update = step, update

    def look(self, number: int, gradient: Tensor) -> None:
        """Let the method look at a layer's dense gradient, [rows, columns]; at an update's step, keep candidates."""
        layer = self.layers[number]
        assert isinstance(self.method, Growing)
        assert self._update is not None  # it looks within the window of an update
        blocks, births = layer.blocks.split(gradient), self.births(layer, self._update)
        inactive = layer.inactive_ids()
        if self.method.window != 1 and number not in self._observed:
            self._observed.add(number)
            self.method.observe(self.memories[number], blocks, inactive, births)
        if self._update == self._step:
            self.candidates[number] = self._rank(number, blocks, inactive, births)

    def choose(
        self,
        numbers: range,
        mask: Tensor,
        dropped_ids: Tensor,
        dropped: Tensor,
        drops: list[int],
        births: list[int],
        dense: list[Tensor],
    ) -> Tensor:
        """Ids of the blocks to grow in some layers, layer by layer, the best first; counted through these layers.

        Args:
            numbers: of the layers.
            mask: which of their blocks are active, [blocks].
            dropped_ids, dropped: of what the update drops, ids and places among the active blocks.
            drops, births: how many of each layer.
            dense: the layers' gradients, where they are at hand and `look` has not ranked them; else none.
        """
        layers, device = [self.layers[number] for number in numbers], mask.device
        if not any(births):
            return dropped_ids[:0]
        assert isinstance(self.method, Growing)
        taken_back = drops if self.method.takes_back else [0] * len(layers)
        blocks = Stretches([layer.blocks.count for layer in layers], device)
        if self.method.window == 0 or dense:
            gradient = (
                torch.cat([layer.blocks.split(g) for layer, g in zip(layers, dense, strict=True)]) if dense else None
            )
            scores = self.method.grow_scores(blocks.total, gradient, {}, self._draws(layers))
            eligible = ~mask
            if self.method.takes_back:
                eligible[dropped_ids] = True
            sizes = [layer.blocks.count - layer.active for layer in layers]
            among = places(eligible, sum(sizes) + sum(taken_back))
            scores = scores[among]
        else:
            found = [c for number in numbers if (c := self.candidates[number]) is not None]
            sizes = [len(candidate.ids) for candidate in found]
            starts = blocks.starts[Stretches(sizes, device).number]
            among = torch.cat([candidate.ids for candidate in found]) + starts
            scores = torch.cat([candidate.scores for candidate in found])
            if self.method.takes_back:
                among = torch.cat([among, dropped_ids])
                scores = torch.cat([scores, torch.cat([c.active for c in found if c.active is not None])[dropped]])
            among, order = among.sort()
            scores = scores[order]
        eligible_of = Stretches([size + back for size, back in zip(sizes, taken_back, strict=True)], device)
        return among[eligible_of.highest(scores, births)]

    def end(self, last: bool) -> None:
        """An update is done; with `last`, no later one will ask."""
        self.candidates = [None for _ in self.layers]
        if self.method.window is not None or last:  # else the next window goes on where this one ends
            for memory in self.memories:
                memory.clear()

    def _rank(self, number: int, gradient: Tensor, inactive: Tensor, births: int) -> Candidates:
        """Score a layer's blocks for growth, and keep what an update may choose from."""
        layer = self.layers[number]
        assert isinstance(self.method, Growing)
        scores = self.method.grow_scores(layer.blocks.count, gradient, self.memories[number], self._draws([layer]))
        among = scores[inactive]
        best = Stretches([len(inactive)], among.device).highest(among, [min(births, len(inactive))])
        return Candidates(inactive[best], among[best], scores[layer.ids()] if self.method.takes_back else None)

    def _draws(self, layers: list[SparseLayer]) -> Draws:
        blocks = {layer.name: layer.blocks.count for layer in layers}
        return Draws.of(self.seed, "grow", self._step, blocks, layers[0].weight.device)

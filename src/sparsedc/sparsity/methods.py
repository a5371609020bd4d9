"""The sparse-training methods: each says how it scores drops and growth, and the engine does the rest.

To add a method, write one class below and put it into METHODS; docs/methods.md shows how. A layer is handed over as
blocks, [blocks, weights a block]; with single weights as blocks that is [weights, 1]. Scores are made with the
tensors' own operations, so this module imports no torch and a study can be checked without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import floor
from typing import TYPE_CHECKING, Any, ClassVar

from sparsedc.errors import InputError, one_of

if TYPE_CHECKING:
    from torch import Tensor

    from sparsedc.sparsity.draws import Draws

#: What a method remembers of a layer from step to step; checkpoints hold it.
Memory = dict[str, "Tensor"]


class Method:
    """A way to keep a model sparse. By itself, one whose topology never changes.

    Instances hold no state: what lasts is in the weights, the masks and the memories.

    Attributes:
        source: the paper.
        dynamic: does the topology change during training?
        grows: do weights become active during training?
        window: so many steps, up to and including that of a topology update, it looks at the gradients of inactive
            weights too: 0 none, 1 the update's own, None every step.
        defaults: hyperparameters in which the source differs from a study's defaults.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    dynamic: ClassVar[bool] = False
    grows: ClassVar[bool] = False
    window: ClassVar[int | None] = 0
    defaults: ClassVar[dict[str, Any]] = {}


class Dropping(Method):
    """A method that drops weights at topology updates."""

    dynamic = True

    def drop_scores(self, weights: Tensor, draws: Draws) -> Tensor:
        """Scores [active] of active blocks [active, area], of one layer after another; the lowest of each are dropped.
        By default, magnitude.

        Args:
            draws: a random number a block, named by the study's seed, the step and the layer.
        """
        return magnitude(weights)


class Growing(Dropping, ABC):
    """A method that also lets weights become active.

    Attributes:
        takes_back: may growth choose a block that the same update has dropped? It restarts from zero.
    """

    grows = True
    takes_back: ClassVar[bool] = True

    def births(self, drop_fraction: float, blocks: int, active: int, target: int) -> int:
        """How many blocks an update grows in a layer of `blocks`, of which `active` are active before it and `target`
        after it: the fraction of these, rounded down, and no more than there are to choose from."""
        free = blocks - (target if self.takes_back else active)
        return min(floor(drop_fraction * target), free)

    def observe(self, memory: Memory, gradient: Tensor, inactive: Tensor, births: int) -> None:
        """Look at a step's gradient, at each step of a window longer than 1. By default, nothing is remembered.

        Args:
            memory: of this layer; to be changed in place. A window that ends with an update starts with an empty one.
            gradient: [blocks, area], of inactive blocks too, in the type of the weights (bfloat16 on a GPU).
            inactive: ids of the inactive blocks, ascending.
            births: how many blocks the next update will grow.
        """

    @abstractmethod
    def grow_scores(self, blocks: int, gradient: Tensor | None, memory: Memory, draws: Draws) -> Tensor:
        """Scores [blocks]; the highest among each layer's candidates are grown.

        Args:
            blocks: of the layer; with a window of 0 or 1, of one layer after another.
            gradient: [blocks, area], of the update's step, in the type of the weights; None with a window of 0.
            memory: what `observe` has remembered; empty with a window of 0 or 1.
            draws: a random number a block, named by the study's seed, the step and the layer.
        """


def magnitude(weights: Tensor) -> Tensor:
    """The sum of absolute values of each block, [blocks, area] -> [blocks]."""
    absolute = weights.abs()
    return absolute.float().sum(1) if weights.shape[1] > 1 else absolute.squeeze(1)


class Dense(Method):
    """Every weight active: the control that sparse methods are held against."""

    name = "dense"
    source = "ordinary training"


class Static(Method):
    """A random topology drawn once: the control that tells exploration from sparsity."""

    name = "static"
    source = "Liu et al. 2022, The Unreasonable Effectiveness of Random Pruning, arXiv 2202.02643"


class SET(Growing):
    """Sparse evolutionary training: drop the smallest weights, grow at random."""

    name = "set"
    source = "Mocanu et al. 2018, Scalable training of artificial neural networks, arXiv 1707.04780"

    def grow_scores(self, blocks: int, gradient: Tensor | None, memory: Memory, draws: Draws) -> Tensor:
        return draws.uniform()


class RigL(Growing):
    """The rigged lottery: drop the smallest weights, grow where the loss falls fastest."""

    name = "rigl"
    source = "Evci et al. 2020, Rigging the Lottery, arXiv 1911.11134"
    window = 1

    def grow_scores(self, blocks: int, gradient: Tensor | None, memory: Memory, draws: Draws) -> Tensor:
        assert gradient is not None  # promised by the window
        return magnitude(gradient)


class AccumulatedRigL(Growing):
    """RigL by the gradient of several batches: candidates by the first, their sum over all decides.

    Twice as many candidates as births are followed, so that nothing dense is kept. The sum is of gradients, as in
    training on one larger batch; the code released with arXiv 2606.01155 adds absolute values, which grow with noise.
    """

    name = "rigl-acc"
    source = "candidates: Ansell et al. 2024, SpIEL, arXiv 2401.16405; growth: Evci et al. 2020, arXiv 1911.11134"
    window = 5
    takes_back = False

    def observe(self, memory: Memory, gradient: Tensor, inactive: Tensor, births: int) -> None:
        if not memory:
            order = magnitude(gradient[inactive]).argsort(descending=True, stable=True)
            memory["candidates"] = inactive[order[: 2 * births]]
            memory["sum"] = gradient[memory["candidates"]].float()
        else:
            memory["sum"] += gradient[memory["candidates"]]

    def grow_scores(self, blocks: int, gradient: Tensor | None, memory: Memory, draws: Draws) -> Tensor:
        total = memory["sum"]
        scores = total.new_full((blocks,), -1.0)
        scores[memory["candidates"]] = magnitude(total)
        return scores


class Momentum(Growing):
    """Sparse momentum: grow where the running mean of the gradient is largest.

    The mean is kept for every weight, inactive ones too, in float32: four bytes a weight more than other methods.
    """

    name = "momentum"
    source = "Dettmers and Zettlemoyer 2019, Sparse Networks from Scratch, arXiv 1907.04840"
    window = None
    decay: ClassVar[float] = 0.9

    def observe(self, memory: Memory, gradient: Tensor, inactive: Tensor, births: int) -> None:
        if not memory:
            memory["mean"] = gradient.float() * (1 - self.decay)
        else:
            memory["mean"].lerp_(gradient.float(), 1 - self.decay)

    def grow_scores(self, blocks: int, gradient: Tensor | None, memory: Memory, draws: Draws) -> Tensor:
        return magnitude(memory["mean"])


class SoftMagnitude:
    """Drop by chance, small weights rather than large: a block survives with odds as |weight|³.

    Survivors are sampled one after another without replacement in proportion to the cube, by adding Gumbel noise to
    its logarithm and keeping the highest (Efraimidis and Spirakis 2006).
    """

    power: ClassVar[float] = 3.0

    def drop_scores(self, weights: Tensor, draws: Draws) -> Tensor:
        noise = -(-draws.uniform().log()).log()
        return magnitude(weights).double().log() * self.power + noise


class SoftSET(SoftMagnitude, SET):
    """SET with soft-magnitude drop."""

    name = "set-soft"
    source = "drop: released code of arXiv 2606.01155 (`magnitude_soft`); growth: Mocanu et al. 2018"


class SoftRigL(SoftMagnitude, RigL):
    """RigL with soft-magnitude drop."""

    name = "rigl-soft"
    source = "NeuroTrails, arXiv 2505.17909; growth: Evci et al. 2020"


class GMP(Dropping):
    """Gradual magnitude pruning: from dense, the smallest weights go and none returns."""

    name = "gmp"
    source = "Zhu and Gupta 2017, To prune, or not to prune, arXiv 1710.01878"
    defaults: ClassVar[dict[str, Any]] = {"initial_density": 1.0, "drop_fraction": 0.0, "final_drop_fraction": 0.0}


class SMET(SET):
    """Sparse memory-efficient training: SET whose newborn weights are eased in, and never the ones just dropped."""

    name = "smet"
    source = "Sparse Memory-Efficient Training, ICML 2026, arXiv 2606.00888"
    takes_back = False
    defaults: ClassVar[dict[str, Any]] = {"drop_fraction": 0.2, "topology_stop": 1.0, "newborn": "linear"}


METHODS: dict[str, type[Method]] = {
    cls.name: cls for cls in (Dense, Static, SET, SoftSET, RigL, SoftRigL, AccumulatedRigL, Momentum, GMP, SMET)
}


def method(name: str) -> Method:
    """The method of that name, ready for the engine."""
    if name not in METHODS:
        raise InputError("method", name, "unknown method", one_of(name, METHODS))
    return METHODS[name]()

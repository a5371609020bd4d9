"""The sparse-training methods: each says how it scores drops and growth, and the engine does the rest.

To add a method, write one class below and put it into METHODS; docs/methods.md shows how. Scores are made
with the tensors' own operations, so this module imports no torch and a study can be checked without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NoReturn

from sparsedc.errors import InputError

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Method(ABC):
    """What is a method's own. Instances hold no state: all that lasts is in the weights and the masks.

    Random numbers come from `generator`, which lives on the CPU whatever the weight's device, so that a seed
    means the same topology on every device and rank.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    dynamic: ClassVar[bool] = True  # does the topology change during training?
    needs_gradient: ClassVar[bool] = False  # does growth look at the gradient of inactive weights?

    def drop_scores(self, weight: Tensor, generator: Generator) -> Tensor:
        """Scores [rows, columns]; the lowest among active weights are dropped. By default, magnitude."""
        return weight.abs()

    @abstractmethod
    def grow_scores(self, weight: Tensor, gradient: Tensor | None, generator: Generator) -> Tensor:
        """Scores [rows, columns]; the highest among inactive weights are grown.

        Args:
            weight: [rows, columns], zero where inactive.
            gradient: [rows, columns], of inactive weights too; None unless `needs_gradient`.
            generator: on the CPU, seeded from the study's seed, the step and the layer's name.
        """


class FixedTopology(Method):
    """Base of the controls, whose topology never changes: the engine asks for no scores."""

    dynamic = False

    def drop_scores(self, weight: Tensor, generator: Generator) -> NoReturn:
        raise NotImplementedError(f"{self.name} never drops a weight")

    def grow_scores(self, weight: Tensor, gradient: Tensor | None, generator: Generator) -> NoReturn:
        raise NotImplementedError(f"{self.name} never grows a weight")


class Dense(FixedTopology):
    """Every weight active: the control that sparse methods are held against."""

    name = "dense"
    source = "ordinary training"


class Static(FixedTopology):
    """A random topology drawn once: the control that tells exploration from sparsity."""

    name = "static"
    source = "Liu et al. 2022, The Unreasonable Effectiveness of Random Pruning, arXiv 2202.02643"


class SET(Method):
    """Sparse evolutionary training: drop the smallest weights, grow at random."""

    name = "set"
    source = "Mocanu et al. 2018, Scalable training of artificial neural networks, arXiv 1707.04780"

    def grow_scores(self, weight: Tensor, gradient: Tensor | None, generator: Generator) -> Tensor:
        return weight.new_empty(weight.shape, device="cpu").uniform_(generator=generator).to(weight.device)


class RigL(Method):
    """The rigged lottery: drop the smallest weights, grow where the loss falls fastest."""

    name = "rigl"
    source = "Evci et al. 2020, Rigging the Lottery, arXiv 1911.11134"
    needs_gradient = True

    def grow_scores(self, weight: Tensor, gradient: Tensor | None, generator: Generator) -> Tensor:
        assert gradient is not None  # promised by needs_gradient
        return gradient.abs()


METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (Dense, Static, SET, RigL)}


def method(name: str) -> Method:
    """The method of that name, ready for the engine."""
    if name not in METHODS:
        raise InputError("method", name, "unknown method", f"Use one of {', '.join(METHODS)}.")
    return METHODS[name]()

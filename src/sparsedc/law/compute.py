"""What a token costs to train on: 6 N or exact FLOPs, on hardware that multiplies zeros or on hardware that skips them.

A model is named by its dense-equivalent size, what its N would be at density 1 under the law's counting convention
(`sparsedc.law.counts`), and by its density. From these two follow the N that the law knows, and the FLOPs a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sparsedc.errors import InputError
from sparsedc.law.counts import DEFAULT_CONVENTION, Floats

if TYPE_CHECKING:
    from sparsedc.config import Shape

#: how many embedding-sized matrices each convention counts: none, the embedding, embedding and head
EMBEDDINGS = {"body": 0, "average": 0, "paper": 1, "active": 2}


@dataclass(frozen=True)
class Parts:
    """What a dense model of some size consists of; arrays of one shape."""

    width: Floats
    depth: Floats
    embedding: Floats  # parameters, and again as many in the head
    norms: Floats  # parameters
    maskable: Floats  # parameters


@dataclass(frozen=True)
class Family:
    """LLaMA-style models of every size: ln width and ln depth interpolated in ln size along a ladder of shapes.

    At the ladder's sizes all counts are exact. Beyond its ends width and depth grow as the cube root of size, which
    keeps the last aspect ratio.
    """

    vocab_size: int
    sequence_length: int
    ladder: Mapping[str, "Shape"] | None = None  # None: the built-in one

    @cached_property
    def _shapes(self) -> Floats:
        """Width, depth, embedding and body (norms included) of the ladder's shapes, (4, n)."""
        from sparsedc.model import LADDER, count_parameters  # brings pydantic, for which no 6 N D need wait

        rows = []
        for shape in (self.ladder or LADDER).values():
            counts = count_parameters(shape, self.vocab_size)
            rows.append((shape.width, shape.depth, counts.embedding, counts.maskable + counts.norms))
        return np.array(rows, dtype=np.float64).T

    def _knots(self, params: str) -> Floats:
        """ln size, ln width and ln depth of the ladder's shapes in order of size, (3, n)."""
        width, depth, embedding, body = self._shapes
        size, index = np.unique(body + EMBEDDINGS[params] * embedding, return_index=True)
        return np.asarray(np.log(np.array([size, width[index], depth[index]])), dtype=np.float64)

    def sizes(self, params: str = DEFAULT_CONVENTION) -> tuple[float, float]:
        """The sizes that the family has: from the ladder's smallest to 1,000 times its largest."""
        size = np.exp(self._knots(params)[0])
        return float(size[0]), 1000 * float(size[-1])

    def parts(self, size: Floats, params: str = DEFAULT_CONVENTION) -> Parts:
        """The parts of dense models of these sizes, N at density 1 under `params`."""
        log_size = np.log(size)
        knots, *logs = self._knots(params)
        beyond = np.maximum(log_size - knots[-1], 0) + np.minimum(log_size - knots[0], 0)
        width, depth = (np.exp(np.interp(log_size, knots, values) + beyond / 3) for values in logs)
        embedding, norms = self.vocab_size * width, (2 * depth + 1) * width
        return Parts(width, depth, embedding, norms, size - EMBEDDINGS[params] * embedding - norms)


@dataclass(frozen=True)
class Compute:
    """How compute is accounted.

    Args:
        zeros_free: only active weights cost anything, as on ideal sparse hardware. By default zeros are multiplied
            like other weights, as today's hardware does.
        exact: count the FLOPs of `family`, head and attention among them, as `sparsedc.model.training_flops` does.
            By default a token costs 6 N: N as the law counts it, or the dense-equivalent size where zeros cost.
        family: the models meant; needed for exact FLOPs. Without one every counted parameter is taken for maskable,
            N = size × density, which for N that counts embedding and head is rough below density 1.

    Raises:
        InputError: exact FLOPs of no family.
    """

    zeros_free: bool = False
    exact: bool = False
    family: Family | None = None

    def __post_init__(self) -> None:
        if self.exact and self.family is None:
            raise InputError("family", None, "exact FLOPs depend on vocabulary and shapes", "Give a Family.")

    def active(self, size: Floats, s: Floats, params: str = DEFAULT_CONVENTION) -> Floats:
        """N of models of these sizes at density s, as `params` counts it."""
        if self.family is None or params == "paper":
            return size * s
        parts = self.family.parts(size, params)
        return size - (1 - s) * parts.maskable

    def per_token(self, size: Floats, s: Floats, params: str = DEFAULT_CONVENTION) -> Floats:
        """Training FLOPs a token."""
        if not self.exact:
            return 6 * (self.active(size, s, params) if self.zeros_free else size * np.ones_like(s))
        assert self.family is not None
        parts = self.family.parts(size, params)
        attention = 2 * parts.depth * self.family.sequence_length * parts.width
        multiplied = s if self.zeros_free else np.ones_like(s)
        return 6 * (parts.embedding + parts.maskable * multiplied + attention)

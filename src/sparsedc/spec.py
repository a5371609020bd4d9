"""A cell's spec: everything that its numbers depend on, and what the trainer reads.

A spec is canonical JSON and its sha256 is part of the cell's id, hence of every path of the cell: a changed
hyperparameter is another cell, and a finished cell can never be mistaken for one that was trained otherwise.
This module imports no torch.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsedc import model
from sparsedc.config import Density, Hyperparameters, PositiveInt, Section, Seed, Shape, validated
from sparsedc.errors import InputError
from sparsedc.sparsity.distribution import layer_counts
from sparsedc.sparsity.methods import METHODS, method
from sparsedc.sparsity.schedule import TopologySchedule

#: Version of the training numerics. Raise it with every change that alters a loss: that, and no edited comment,
#: makes finished cells stale. tests/train/test_golden.py fails when losses change and this does not.
NUMERICS = 1

#: Version of the way from text to tokens. Raise it with every change that alters a token: all tokens, and with them
#: all cells, are then stale.
TEXT = 1

FINGERPRINT_LENGTH = 8  # hexadecimal digits of the spec's sha256 in a cell's id


def canonical_json(value: object) -> str:
    """JSON that is equal for equal values: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: object) -> str:
    """sha256 of the canonical JSON of a value, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Spec(Section):
    """Everything that a cell's numbers depend on; what the trainer reads."""

    numerics: int = NUMERICS
    data: str  # fingerprint of the corpus and tokenizer that the tokens come from
    size: str
    shape: Shape
    vocab_size: PositiveInt
    sequence_length: PositiveInt
    evaluation_split: str
    method: str
    density: Density
    unique_tokens: PositiveInt
    epochs: PositiveInt
    seed: Seed
    training: Hyperparameters

    @property
    def steps(self) -> int:
        """Optimizer steps: as many whole batches as U × epochs tokens hold."""
        return self.unique_tokens * self.epochs // self.training.batch_tokens

    @property
    def tokens(self) -> int:
        """Tokens trained on; D."""
        return self.steps * self.training.batch_tokens

    @property
    def maskable_lr(self) -> float:
        """Peak learning rate of the maskable matrices."""
        return self.training.maskable_lr or self.training.lr

    @cached_property
    def counts(self) -> model.ParameterCounts:
        return model.count_parameters(self.shape, self.vocab_size)

    @cached_property
    def layer_counts(self) -> dict[str, int]:
        """Active weights of each maskable matrix."""
        shapes = model.maskable_shapes(self.shape)
        return layer_counts(shapes, self.density, self.training.distribution)

    @property
    def active_maskable(self) -> int:
        return sum(self.layer_counts.values())

    @property
    def topology(self) -> TopologySchedule:
        return TopologySchedule(
            steps=self.steps,
            updates=self.training.topology_updates,
            drop_fraction=self.training.drop_fraction,
            final_drop_fraction=self.training.final_drop_fraction,
            stop_fraction=self.training.topology_stop,
        )

    def flops(self, sparse: bool) -> float:
        """Training FLOPs in all, on ideal sparse or on dense hardware."""
        active = self.active_maskable if sparse else None
        return model.training_flops(self.shape, self.vocab_size, self.sequence_length, self.tokens, active)

    def content(self) -> dict[str, Any]:
        """What is hashed and written: hyperparameters without effect on this cell are left out, so that changing
        them makes no other cell of it."""
        unused = set() if self.training.lr_schedule == "wsd" else {"decay_fraction"}
        if self.training.maskable_lr in (None, self.training.lr):
            unused |= {"maskable_lr"}
        if self.method == "dense":
            unused |= {"distribution"}
        if not METHODS[self.method].dynamic:
            unused |= {"drop_fraction", "final_drop_fraction", "topology_updates", "topology_stop"}
        return self.model_dump(mode="json", exclude={"training": unused})

    def check(self) -> None:
        """Refuse what would fail, or mean nothing, only after the training has begun.

        Raises:
            InputError: naming the field.
        """
        chosen = method(self.method)
        if (self.density == 1) != (chosen.name == "dense"):
            raise InputError(
                "density", self.density, f"does not go with the method {self.method}", "Density 1 is dense, and only 1."
            )
        batch = self.training.batch_tokens
        if batch % self.sequence_length:
            raise InputError(
                "batch_tokens", batch, f"is no multiple of the sequence length {self.sequence_length}",
                "Make it one: a batch is a whole number of sequences.",
            )  # fmt: skip
        if self.unique_tokens < self.sequence_length or self.unique_tokens % self.sequence_length:
            raise InputError(
                "unique_tokens", self.unique_tokens, f"holds no whole number of sequences of {self.sequence_length}",
                "Make it a multiple of sequence_length.",
            )  # fmt: skip
        if self.steps < 1:
            raise InputError(
                "batch_tokens", batch, f"is more than the {self.unique_tokens * self.epochs} tokens of the cell",
                "Lower it, or raise unique_tokens or epochs.",
            )  # fmt: skip
        if chosen.name != "dense":
            _ = self.layer_counts  # raises where a layer would be left without weights
        if chosen.dynamic:
            _ = self.topology.update_steps  # raises where the schedule cannot be


def read_spec(path: Path) -> Spec:
    """Read a cell's spec and verify that it is the one its file is named after.

    Raises:
        InputError: the file is missing or no spec, its content does not match the hash in its name, or it was
            written for other training numerics than this version's.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            "spec", path, error.strerror or "cannot be read", "`sparsedc study specs` writes it."
        ) from error
    except ValueError as error:
        raise InputError("spec", path, f"is not JSON ({error})", "`sparsedc study specs` writes it anew.") from error
    spec = validated(Spec, content, where="spec")
    digest = fingerprint(content)[:FINGERPRINT_LENGTH]
    if not path.stem.endswith(f"-{digest}"):
        raise InputError(
            "spec", path.name, f"does not match its hash ({digest})",
            "It was edited or damaged: delete it, change the study file instead, and run again.",
        )  # fmt: skip
    if spec.numerics != NUMERICS:
        raise InputError(
            "numerics", spec.numerics, f"this version of sparsedc trains with numerics {NUMERICS}",
            "Write the specs anew, or use the version that wrote this one.",
        )  # fmt: skip
    if fingerprint(spec.content()) != fingerprint(content):
        raise InputError(
            "spec", path.name, "leaves out what has a default, or says what has no effect",
            "`sparsedc study specs` writes it anew.",
        )  # fmt: skip
    spec.check()
    return spec

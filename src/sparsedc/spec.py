"""A cell's spec: everything that its numbers depend on, and what the trainer reads.

A spec is canonical JSON and its sha256 is part of the cell's id, hence of every path of the cell: a changed
hyperparameter is another cell, and a finished cell can never be mistaken for one that was trained otherwise.
This module imports no torch.
"""

import hashlib
import json
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property, lru_cache
from math import ceil, floor
from pathlib import Path
from typing import Any

from sparsedc import model
from sparsedc.config import MAX_AGE, Density, Hyperparameters, PositiveInt, Section, Seed, Shape, validated
from sparsedc.errors import InputError
from sparsedc.sparsity.distribution import active_blocks, attention_ratios, layer_counts
from sparsedc.sparsity.methods import METHODS, Growing, Method, method
from sparsedc.sparsity.schedule import DensitySchedule, TopologySchedule

#: Version of the training numerics. Raise it with every change that alters a loss: that, and no edited comment,
#: makes finished cells stale. tests/train/test_golden.py fails when losses change and this does not.
NUMERICS = 2

#: Version of the way from text to tokens. Raise it with every change that alters a token: all tokens, and with them
#: all cells, are then stale.
TEXT = 1

#: Hyperparameters that only sparse methods have, only those whose topology changes, and only those that grow weights.
GROWING_ONLY = {"drop_fraction", "final_drop_fraction", "newborn", "ramp_steps"}
DYNAMIC_ONLY = GROWING_ONLY | {
    "topology_updates", "topology_interval", "topology_stop", "initial_density", "density_shape",
}  # fmt: skip
SPARSE_ONLY = DYNAMIC_ONLY | {"distribution", "attention_ratio", "block"}

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
    def batch_sequences(self) -> int:
        """Sequences of an optimizer step."""
        return self.training.batch_tokens // self.sequence_length

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

    @property
    def block(self) -> tuple[int, int]:
        """Rows × columns of the weights that are active together; single ones of a dense model, which has no mask."""
        return (1, 1) if self.method == "dense" else self.training.block

    @cached_property
    def topology(self) -> TopologySchedule:
        """When the topology changes: never, where the method keeps it."""
        dynamic = METHODS[self.method].dynamic
        return TopologySchedule(
            steps=self.steps,
            updates=self.training.topology_updates if dynamic else 0,
            drop_fraction=self.training.drop_fraction,
            final_drop_fraction=self.training.final_drop_fraction,
            stop_fraction=self.training.topology_stop,
            interval=self.training.topology_interval if dynamic else None,
        )

    @cached_property
    def density_schedule(self) -> DensitySchedule:
        """How dense the maskable matrices are, from the first step to the last."""
        initial = self.training.initial_density if METHODS[self.method].dynamic else None
        return DensitySchedule(self.density, initial, self.training.density_shape, self.topology.update_steps)

    def block_counts_at(self, update_step: int | None) -> dict[str, int]:
        """Active blocks of each maskable matrix after the topology update at a step; None: before the first."""
        return self._scheduled_counts[update_step]

    @cached_property
    def _scheduled_counts(self) -> dict[int | None, dict[str, int]]:
        """Active blocks by layer, by update step, None before the first; no layer's count ever rises.

        Rounding by largest remainder may give a layer a block more at a lower density (the Alabama paradox), which a
        method that only drops could not follow; such a layer has the block from the start.
        """
        schedule = self.density_schedule
        if schedule.initial is None:
            return dict.fromkeys((None, *schedule.update_steps), self.block_counts)
        counts = {None: self._block_counts(schedule.start)} | {
            step: self._block_counts(schedule.density_at(step)) for step in schedule.update_steps
        }
        later = self.block_counts
        for step in reversed(counts):
            later = counts[step] = {name: max(count, later[name]) for name, count in counts[step].items()}
        return counts

    @property
    def block_counts(self) -> dict[str, int]:
        """Active blocks of each maskable matrix when training ends."""
        return self._block_counts(self.density)

    def _block_counts(self, density: float) -> dict[str, int]:
        training = self.training
        return dict(
            _layer_counts(self.shape, density, training.distribution, self.block, training.attention_ratio)
        )  # the cached one stays as it is

    @property
    def active_maskable(self) -> int:
        """Active weights of all maskable matrices when training ends."""
        return active_blocks(self.counts.maskable // self._area, self.density) * self._area

    @cached_property
    def active_maskable_mean(self) -> float:
        """The same, on average over the steps of training: a step has the topology that the last update before it
        left."""
        if self.density_schedule.initial is None:
            return float(self.active_maskable)
        updates = self.density_schedule.update_steps
        spans = (end - begin for begin, end in zip((0, *updates), (*updates, self.steps), strict=True))
        blocks = (sum(self.block_counts_at(step).values()) for step in (None, *updates))
        return self._area * sum(b * span for b, span in zip(blocks, spans, strict=True)) / self.steps

    @property
    def _area(self) -> int:
        return self.block[0] * self.block[1]

    def flops(self, sparse: bool) -> float:
        """Training FLOPs in all, on ideal sparse or on dense hardware."""
        active = self.active_maskable_mean if sparse else None
        return model.training_flops(self.shape, self.vocab_size, self.sequence_length, self.tokens, active)

    def content(self) -> dict[str, Any]:
        """What is hashed and written: hyperparameters without effect on this cell are left out, so that changing
        them makes no other cell of it."""
        training, chosen = self.training, METHODS[self.method]
        has_no_effect = {
            "decay_fraction": training.lr_schedule != "wsd",
            "maskable_lr": training.maskable_lr in (None, training.lr),
            "attention_ratio": training.distribution != "attention",
            "block": training.block == (1, 1),
            "topology_updates": training.topology_interval is not None,
            "topology_interval": training.topology_interval is None,
            "initial_density": training.initial_density in (None, self.density),
            "density_shape": training.initial_density in (None, self.density),
            "newborn": training.newborn == "reset",
            "ramp_steps": training.newborn not in ("linear", "compounding"),
        }
        unused = {key for key, without in has_no_effect.items() if without}
        if chosen.name == "dense":
            unused |= SPARSE_ONLY
        if not chosen.dynamic:
            unused |= DYNAMIC_ONLY
        if not chosen.grows:
            unused |= GROWING_ONLY
        return self.model_dump(mode="json", exclude={"training": unused})

    def check(self) -> None:
        """Refuse what would fail, or mean nothing, only after the training has begun.

        Raises:
            InputError: naming the field and the cell.
        """
        try:
            self._check(method(self.method))
        except InputError as error:
            cell = f"in a cell of size {self.size}, density {self.density} and method {self.method}"
            raise InputError(error.field, error.value, f"{error.problem} ({cell})", error.remedy) from error

    def _check(self, chosen: Method) -> None:
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
            self._check_sparse(chosen)

    def _check_sparse(self, chosen: Method) -> None:
        training = self.training
        for field in ("beta1", "beta2"):
            if getattr(training, field) ** MAX_AGE > 2**-25:
                raise InputError(
                    field, getattr(training, field),
                    f"too slow for a sparse method: ages of weights are 16-bit, and after {MAX_AGE} steps Adam's bias "
                    "correction would still matter",
                    "Use 0.9994 or less.",
                )  # fmt: skip
        initial = training.initial_density
        if initial is not None and not chosen.dynamic:
            raise InputError(
                "initial_density", initial, f"the topology of {chosen.name} is fixed, and with it the density",
                "Leave it out, or set it in `overrides` of the other methods.",
            )  # fmt: skip
        if chosen.dynamic:
            self._check_updates(chosen)
        self._check_counts()
        if chosen.dynamic and not chosen.grows and self._block_counts(self.density_schedule.start) == self.block_counts:
            raise InputError(
                "initial_density", initial, f"{chosen.name} only drops weights, down to the density {self.density}",
                "Give a higher initial_density, such as 1.",
            )  # fmt: skip
        if isinstance(chosen, Growing) and not any(self._births(chosen)):
            raise InputError(
                "drop_fraction", training.drop_fraction,
                f"{chosen.name} would grow nothing: at every update that is less than a block of any layer with room",
                "Raise it or the density, use a larger model or smaller blocks"
                + (", or let the density fall in more updates." if initial else "."),
            )  # fmt: skip

    def _check_updates(self, chosen: Method) -> None:
        training, topology = self.training, self.topology  # the latter raises where no interval fits
        updates = topology.update_steps
        longer = "Train for more steps, or raise topology_stop."
        if not updates:
            raise InputError(
                "topology_stop", training.topology_stop, f"leaves none of {self.steps} steps for a topology update",
                longer,
            )  # fmt: skip
        window = chosen.window or 0
        gap = min(after - before for before, after in zip((0, *updates), updates, strict=False))
        if gap < window:
            field = "topology_updates" if training.topology_interval is None else "topology_interval"
            most = topology.last // window
            enough = {"topology_updates": f"Give at most {most}", "topology_interval": f"Give at least {window}"}[field]
            raise InputError(
                field, getattr(training, field),
                f"{chosen.name} grows by the gradients of {window} steps, but has {gap} before some update",
                f"{enough}, or train for more steps." if most else longer,
            )  # fmt: skip

    def _check_counts(self) -> None:
        training = self.training
        # Raises where a layer would be left without a block. One with two blocks at the end has a share of more than
        # one, which only a higher density raises; then the densities on the way there need no look.
        final, schedule = self.block_counts, self.density_schedule
        if schedule.initial is not None and min(final.values()) < 2:
            for density in {schedule.density_at(step) for step in (0, *schedule.update_steps)}:
                self._block_counts(density)
        if self.active_maskable == self.counts.maskable:
            raise InputError(
                "density", self.density, f"keeps all of the {sum(final.values())} blocks of weights",
                "Lower it, or give density 1, which is dense.",
            )  # fmt: skip
        if training.distribution == "attention":
            ratio = Fraction(str(training.attention_ratio))
            lowest, highest = attention_ratios(model.maskable_shapes(self.shape), self.density, self.block)
            if not lowest <= ratio <= highest:
                full, bound = (  # bounds are rounded inwards
                    ("attention", f"at most {floor(highest * 1000) / 1000}")
                    if ratio > highest
                    else ("all but attention", f"at least {ceil(lowest * 1000) / 1000}")
                )
                raise InputError(
                    "attention_ratio", training.attention_ratio, f"cannot be had: {full} would be full",
                    f"Give {bound}, or lower the density.",
                )  # fmt: skip

    def _births(self, chosen: Growing) -> Iterator[int]:
        """How many blocks each topology update grows in each layer."""
        blocks = {
            name: rows * columns // self._area for name, (rows, columns) in model.maskable_shapes(self.shape).items()
        }
        before = self.block_counts_at(None)
        for step in self.topology.update_steps:
            fraction, targets = self.topology.drop_fraction_at(step), self.block_counts_at(step)
            for name, target in targets.items():
                yield chosen.births(fraction, blocks[name], before[name], target)
            before = targets


@lru_cache(maxsize=2**10)  # the cells of a study share few
def _layer_counts(
    shape: Shape, density: float, distribution: str, block: tuple[int, int], attention_ratio: float
) -> dict[str, int]:
    shapes = model.maskable_shapes(shape)
    return layer_counts(shapes, density, distribution, block=block, attention_ratio=attention_ratio)


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

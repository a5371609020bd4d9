"""A study: from a validated config to the list of cells, each with a spec that says all its numbers depend on.

A spec is canonical JSON and its sha256 is part of the cell's id, hence of every path of the cell: a changed
hyperparameter is another cell, and a finished cell can never be mistaken for one that was trained otherwise.
This module imports no torch.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from sparsedc import model
from sparsedc.config import (
    SUFFIXES,
    Corpus,
    Density,
    Factors,
    Hyperparameters,
    Listed,
    PositiveInt,
    Role,
    Section,
    Seed,
    Selector,
    Shape,
    StudyConfig,
    Tokenizer,
)
from sparsedc.errors import InputError
from sparsedc.sparsity.distribution import layer_counts
from sparsedc.sparsity.methods import METHODS, method
from sparsedc.sparsity.schedule import TopologySchedule

#: Version of the training numerics. Raise it with every change that alters a loss: that, and no edited comment,
#: makes finished cells stale. tests/train/test_golden.py fails when losses change and this does not.
NUMERICS = 1

FINGERPRINT_LENGTH = 8  # hexadecimal digits of the spec's sha256 in a cell's id

S = TypeVar("S", bound=Section)


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
        if self.unique_tokens < self.sequence_length:
            raise InputError(
                "unique_tokens", self.unique_tokens, f"is less than one sequence ({self.sequence_length} tokens)",
                "Raise it or shorten sequence_length.",
            )  # fmt: skip
        if self.steps < 1:
            raise InputError(
                "batch_tokens", batch, f"is more than the {self.unique_tokens * self.epochs} tokens of the cell",
                "Lower it, or raise unique_tokens or epochs.",
            )  # fmt: skip
        if chosen.name != "dense":
            assert self.layer_counts  # raises where a layer would be left without weights
        if chosen.dynamic:
            assert self.topology.update_steps is not None  # raises where the schedule cannot be


@dataclass(frozen=True)
class Cell:
    """One training run of a study."""

    role: Role
    spec: Spec

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.spec.content())

    @cached_property
    def id(self) -> str:
        spec = self.spec
        tag = f"{spec.size}-d{spec.density:g}-u{short(spec.unique_tokens)}-e{spec.epochs}-{spec.method}-s{spec.seed}"
        return f"{tag}-{self.fingerprint[:FINGERPRINT_LENGTH]}"


def short(count: int) -> str:
    """A count with a suffix where it is round: 262144 -> "262144", 64000 -> "64k", 1300000000 -> "1.3B"."""
    for suffix, factor in reversed(SUFFIXES.items()):
        if count >= factor and count % (factor // 100 or 1) == 0:
            return f"{Decimal(count) / factor}{suffix}"
    return str(count)


@dataclass(frozen=True)
class Study:
    """A validated study file and its cells, in the order in which they are trained: cheap ones last, so that
    no long cell is left to run alone at the end."""

    config: StudyConfig

    @property
    def name(self) -> str:
        return self.config.name

    @cached_property
    def data(self) -> str:
        """Fingerprint of the corpus and tokenizer settings: the folder name of their tokens."""
        return data_fingerprint(self.config.corpus, self.config.tokenizer)

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """id -> cell."""
        cells: dict[str, Cell] = {}
        for cell in self._expand():
            known = cells.setdefault(cell.id, cell)
            if known.role != cell.role:
                raise InputError("role", cell.role, f"{cell.id} also has the role {known.role}", "Give it one role.")
        if not cells:
            raise InputError("grid", "empty", "the study has no cells", "Fill `grid` or `cells`.")
        return dict(sorted(cells.items(), key=lambda item: (-item[1].spec.flops(sparse=False), item[0])))

    @property
    def budgets(self) -> list[int]:
        """Every number of unique tokens that a cell trains on, ascending."""
        return sorted({cell.spec.unique_tokens for cell in self.cells.values()})

    def _expand(self) -> Iterator[Cell]:
        used: set[int] = set()
        for listed in itertools.chain(*map(_product, self.config.grid), self.config.cells):
            excluded = [i for i, selector in enumerate(self.config.exclude) if _picks(selector, listed)]
            used.update(excluded)
            if not excluded:
                yield self._cell(listed, used)
        selectors = [*self.config.exclude, *self.config.overrides]
        for index, selector in enumerate(selectors):
            if index not in used:
                where = "exclude" if index < len(self.config.exclude) else "overrides"
                picked = selector.model_dump(exclude_none=True, exclude={"set"})
                raise InputError(where, picked, "picks no cell of the study", "Correct it or take it out.")

    def _cell(self, listed: Listed, used: set[int]) -> Cell:
        own: dict[str, Any] = {}
        for index, override in enumerate(self.config.overrides, start=len(self.config.exclude)):
            if _picks(override, listed):
                used.add(index)
                own |= override.set
        own |= listed.set
        training = validated(Hyperparameters, {**self.config.training.model_dump(), **own}, where="training")
        if "maskable_lr" not in own:
            rate = (training.maskable_lr or training.lr) * listed.density**-self.config.lr_density_exponent
            # Twelve digits: powers differ in the last ones from machine to machine, and the cell's id is not to.
            training = training.model_copy(update={"maskable_lr": float(f"{rate:.12g}")})
        shape = model.find_shape(listed.size, {**model.LADDER, **self.config.ladder})
        spec = Spec(
            data=self.data,
            size=listed.size,
            shape=shape,
            vocab_size=self.config.tokenizer.vocab_size,
            sequence_length=self.config.sequence_length,
            evaluation_split=self.config.evaluation_split,
            method=listed.method,
            density=listed.density,
            unique_tokens=listed.unique_tokens,
            epochs=listed.epochs,
            seed=listed.seed,
            training=training,
        )
        spec.check()
        return Cell(role=listed.role, spec=spec)


def _product(factors: Factors) -> Iterator[Listed]:
    """The cells of a grid. At density 1 a method has nothing to mask: dense, once. A dense method at a lower
    density is no cell."""
    for size, density, unique, epochs, name, seed, *values in itertools.product(
        factors.sizes, factors.densities, factors.unique_tokens, factors.epochs, factors.methods, factors.seeds,
        *factors.sweep.values(),
    ):  # fmt: skip
        if density < 1 and name == "dense":
            continue
        yield Listed(
            role=factors.role,
            size=size,
            density=density,
            unique_tokens=unique,
            epochs=epochs,
            method="dense" if density == 1 else name,
            seed=seed,
            set=dict(zip(factors.sweep, values, strict=True)),
        )


def _picks(selector: Selector, cell: Listed) -> bool:
    wanted = selector.model_dump(exclude_none=True, exclude={"set"})
    return all(getattr(cell, key) in values for key, values in wanted.items())


def data_fingerprint(corpus: Corpus, tokenizer: Tokenizer) -> str:
    """Names the tokens of a corpus by its settings. Where a folder lies does not count, so that a study's cells
    are the same on every machine; the trainer records the checksum of the tokens that it read."""
    settings = [corpus.model_dump(mode="json", exclude={"path"}), tokenizer.model_dump(mode="json")]
    return fingerprint(settings)[: 2 * FINGERPRINT_LENGTH]


def validated(schema: type[S], values: object, where: str) -> S:
    """Validate values against a section of the study file.

    Raises:
        InputError: naming the first key at fault, its value, and what it may be.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as invalid:
        error = invalid.errors()[0]
    field = ".".join(str(part) for part in (where, *error["loc"]) if part != "")
    if error["type"] == "extra_forbidden":
        near = get_close_matches(str(error["loc"][-1]), _keys(schema), n=1)
        remedy = f"Did you mean {near[0]}?" if near else "Take it out; config.yaml names every key."
        raise InputError(field, error["input"], "unknown key", remedy)
    if error["type"] == "missing":
        raise InputError(field, "(absent)", "is required", "Add it; config.yaml shows how.")
    raise InputError(field, error["input"], error["msg"], "Correct it; config.yaml names every key and its bounds.")


def _keys(schema: type[Section]) -> Iterable[str]:
    """All key names of a section and of the sections in it."""
    definitions = schema.model_json_schema()
    for section in (definitions, *definitions.get("$defs", {}).values()):
        yield from section.get("properties", {})


def load_study(source: Path | Mapping[str, Any]) -> Study:
    """Read a study file (YAML or JSON), or take its content, and validate all of it, every cell included.

    Raises:
        InputError: the file cannot be read, or a key, value or cell in it cannot be used.
    """
    if isinstance(source, Path):
        try:
            content = yaml.safe_load(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError("study file", source, error.strerror or "cannot be read", "Name a study file.") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError("study file", source, f"is not YAML ({error})", "Correct the file.") from error
    else:
        content = dict(source)
    if not isinstance(content, dict):
        raise InputError("study file", source, "holds no keys", "See config.yaml.")
    study = Study(validated(StudyConfig, content, where=""))
    assert study.cells  # expands and checks every cell
    return study


def write_text(text: str, path: Path) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


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
    spec.check()
    return spec

"""A study: from a validated config to the list of its cells. This module imports no torch."""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sparsedc import model
from sparsedc.config import (
    Corpus,
    Data,
    Factors,
    Hyperparameters,
    Listed,
    Role,
    Selector,
    Shape,
    StudyConfig,
    Tokenizer,
    validated,
)
from sparsedc.errors import InputError
from sparsedc.numbers import SUFFIXES
from sparsedc.sparsity.methods import method
from sparsedc.spec import FINGERPRINT_LENGTH, TEXT, Spec, fingerprint

P = TypeVar("P", bound=Selector)


@dataclass(frozen=True)
class Cell:
    """One training run of a study."""

    role: Role
    spec: Spec
    keeps_model: bool = False  # in results/<study>/models/<id>/

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
        return data_fingerprint(self.text.corpus, self.text.tokenizer)

    @cached_property
    def text(self) -> Data:
        """Which tokens the cells are trained on.

        Raises:
            InputError: the study file names none.
        """
        named = {"corpus": self.config.corpus, "tokenizer": self.config.tokenizer}
        return validated(Data, {key: value for key, value in named.items() if value is not None}, where="")

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """id -> cell. A study of published constants has none."""
        cells: dict[str, Cell] = {}
        if self.config.law.published:
            return cells
        for cell in self._expand():
            known = cells.setdefault(cell.id, cell)
            if known.role != cell.role:
                raise InputError("role", cell.role, f"{cell.id} also has the role {known.role}", "Give it one role.")
            if cell.keeps_model:  # whichever of its entries is picked
                cells[cell.id] = cell
        if not cells and self.config.exclude:
            picked = [selector.model_dump(exclude_none=True) for selector in self.config.exclude]
            raise InputError("exclude", picked, "the study has no cells left", "Take one out.")
        if not cells:
            raise InputError("grid", "empty", "the study has no cells", "Fill `grid` or `cells`.")
        return dict(sorted(cells.items(), key=lambda item: (-item[1].spec.flops(sparse=False), item[0])))

    def cell(self, name: str) -> Cell:
        """A cell by its id.

        Raises:
            InputError: there is none; it may have been one, until the study file was edited.
        """
        try:
            return self.cells[name]
        except KeyError:
            raise InputError(
                "cell", name, f"is no cell of the study {self.name}, which may have been edited since this job began",
                "Run snakemake again.",
            ) from None  # fmt: skip

    def gpus(self, name: str) -> tuple[int, int]:
        """On how many nodes, and on how many GPUs of each, a cell is trained; its id as in `cell`."""
        return self.config.gpus.get(self.cell(name).spec.size, (1, 1))

    def _expand(self) -> Iterator[Cell]:
        for place, size in self._sizes():
            model.find_shape(size, self._ladder, place)
        used: set[int] = set()
        for number, factors in enumerate(self.config.grid):
            where = f"grid[{number}]"
            cells = dict(self._kept(_product(factors, where), used))
            _check_sweep(factors, cells, where)
            yield from cells.values()
        for _, cell in self._kept(self.config.cells, used):
            yield cell
        for where in ("exclude", "overrides", "keep_models"):
            for number, selector in enumerate(getattr(self.config, where)):
                if id(selector) not in used:
                    picked = selector.model_dump(exclude_none=True, exclude={"set"})
                    raise InputError(
                        f"{where}[{number}]", picked, "picks no cell of the study", "Correct it or take it out."
                    )

    def _sizes(self) -> Iterator[tuple[str, str]]:
        """Each size that a cell may have, after its place in the file."""
        for number, factors in enumerate(self.config.grid):
            yield from ((f"grid[{number}].sizes[{place}]", size) for place, size in enumerate(factors.sizes))
        yield from ((f"cells[{number}].size", listed.size) for number, listed in enumerate(self.config.cells))

    @cached_property
    def _ladder(self) -> dict[str, Shape]:
        return {**model.LADDER, **self.config.ladder}

    def _kept(self, candidates: Iterable[Listed], used: set[int]) -> Iterator[tuple[Listed, Cell]]:
        """Those that no exclusion picks; notes which selectors are of use."""
        for listed in candidates:
            if not _picking(self.config.exclude, listed, used):
                yield listed, self._cell(listed, used)

    def _cell(self, listed: Listed, used: set[int]) -> Cell:
        chosen = [override.set for override in _picking(self.config.overrides, listed, used)]
        common, *own = (layer.model_dump(exclude_unset=True) for layer in (self.config.training, *chosen, listed.set))
        merged = _merged(method(listed.method).defaults, common, *own)
        training = validated(Hyperparameters, merged, where="training")
        if not any("maskable_lr" in layer for layer in own):
            rate = (training.maskable_lr or training.lr) * listed.density**-self.config.lr_density_exponent
            # Twelve digits: powers differ in the last ones from machine to machine, and the cell's id is not to.
            training = training.model_copy(update={"maskable_lr": float(f"{rate:.12g}")})
        length = self.config.sequence_length
        spec = Spec(
            data=self.data,
            size=listed.size,
            shape=self._ladder[listed.size],
            vocab_size=self.text.tokenizer.vocab_size,
            sequence_length=length,
            evaluation_split=self.config.evaluation_split,
            method=listed.method,
            density=listed.density,
            # Whole sequences, so that an epoch sees each of the U tokens exactly once and D / U is what it says.
            unique_tokens=listed.unique_tokens // length * length or listed.unique_tokens,
            epochs=listed.epochs,
            seed=listed.seed,
            training=training,
        )
        spec.check()
        return Cell(role=listed.role, spec=spec, keeps_model=bool(_picking(self.config.keep_models, listed, used)))


def _product(factors: Factors, where: str) -> Iterator[Listed]:
    """The cells of a grid. At density 1 a method has nothing to mask: dense, once. A dense method at a lower
    density is no cell."""
    if set(factors.methods) == {"dense"} and 1 not in factors.densities:
        raise InputError(
            f"{where}.methods", factors.methods, f"dense needs density 1, which is not in {factors.densities}",
            "Add density 1 to `densities`, or a sparse method.",
        )  # fmt: skip
    swept = [
        validated(Hyperparameters, dict(zip(factors.sweep, values, strict=True)), where=f"{where}.sweep")
        for values in itertools.product(*factors.sweep.values())
    ]
    for size, density, unique, epochs, name, seed, own in itertools.product(
        factors.sizes, factors.densities, factors.unique_tokens, factors.epochs, factors.methods, factors.seeds, swept
    ):
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
            set=own,
        )


def _check_gpus(study: Study) -> None:
    for size, (nodes, each) in study.config.gpus.items():
        cells = [cell.spec for cell in study.cells.values() if cell.spec.size == size]
        if not cells:
            raise InputError("gpus", size, "is the size of no cell of the study", "Correct it or take it out.")
        for spec in cells:
            if spec.batch_sequences % (nodes * each):
                raise InputError(
                    f"gpus.{size}", nodes * each, f"do not divide the {spec.batch_sequences} sequences of a batch",
                    "Give a number that does.",
                )  # fmt: skip


def _check_sweep(factors: Factors, cells: Mapping[Listed, Cell], where: str) -> None:
    """Refuse to sweep what makes no other cell anywhere in the grid."""
    for key, values in factors.sweep.items():
        alike: defaultdict[Listed, set[str]] = defaultdict(set)  # but for this key -> ids
        for listed, cell in cells.items():
            others = listed.set.model_copy(update={key: None})
            alike[listed.model_copy(update={"set": others})].add(cell.id)
        if cells and len(values) > 1 and all(len(ids) == 1 for ids in alike.values()):
            raise InputError(
                f"{where}.sweep.{key}", values, "all values give the same cells",
                "Take it out, or set what gives it an effect: config.yaml explains every key.",
            )  # fmt: skip


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of which later layers win. What says anew when the topology changes, by the number of updates
    or by their interval, wins over what said it the other way."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if "topology_updates" in layer:
            merged.pop("topology_interval", None)
        if layer.get("topology_interval") is not None:
            merged.pop("topology_updates", None)
        merged |= layer
    return merged


def _picking(selectors: list[P], cell: Listed, used: set[int]) -> list[P]:
    """Those that pick a cell; notes by their ids that they are of use."""
    found = [selector for selector in selectors if _picks(selector, cell)]
    used.update(map(id, found))
    return found


def _picks(selector: Selector, cell: Listed) -> bool:
    wanted = selector.model_dump(exclude_none=True, exclude={"set"})
    return all(getattr(cell, key) in values for key, values in wanted.items())


def data_fingerprint(corpus: Corpus, tokenizer: Tokenizer) -> str:
    """Names the tokens of a corpus by its settings. Where a folder lies does not count, so that a study's cells
    are the same on every machine; the trainer records the checksum of the tokens that it read."""
    settings = [TEXT, corpus.model_dump(mode="json", exclude={"path"}), tokenizer.model_dump(mode="json")]
    return fingerprint(settings)[: 2 * FINGERPRINT_LENGTH]


def load_study(source: Path | Mapping[str, Any]) -> Study:
    """Read a study file (YAML or JSON), or take its content, and validate all of it, every cell included.

    Raises:
        InputError: the file cannot be read, or a key, value or cell in it cannot be used.
    """
    content = _read_yaml(source) if isinstance(source, Path) else dict(source)
    study = Study(validated(StudyConfig, content, where=""))
    _ = study.cells  # expands and checks every cell
    _check_gpus(study)
    return study


def load_data(path: Path) -> Data:
    """Read which tokens a study uses: the keys `corpus` and `tokenizer` of a study file, whatever else is in it.

    Raises:
        InputError: as `load_study`.
    """
    content = _read_yaml(path)
    return validated(Data, {key: content[key] for key in Data.model_fields if key in content}, where="")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which PyYAML takes the last: a second `grid` would be all of the study."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands here twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError("study file", path, error.strerror or "cannot be read", "Name a study file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            at = error.problem_mark
            why = f"line {at.line + 1}, column {at.column + 1}: {error.problem}"
        else:
            why = " ".join(str(error).split())
        raise InputError(
            "study file", path, f"is not YAML ({why})", "Correct it; spaces indent, tabs do not."
        ) from error
    if not isinstance(content, dict):
        raise InputError("study file", path, "holds no keys", "See config.yaml.")
    return content

"""The study file: what a user writes in config.yaml and studies/*.yaml, with its types, bounds and defaults.

Unknown keys are errors. `sparsedc.study` turns a validated config into cells. This module imports no torch.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sparsedc.errors import InputError, nearest, one_of
from sparsedc.law.forms import COMPARED, get_form
from sparsedc.numbers import as_decimal, parse_count
from sparsedc.sparsity.methods import method

Density = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
NewbornPolicy = Literal["reset", "naive", "linear", "compounding"]  # sparsedc.optim.Newborn explains them
MAX_AGE = 2**15 - 1  # the optimizer counts the steps of a weight's life in 16 bits
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
Role = Literal["fit", "extrapolation"]
SplitName = Literal["train", "validation", "test"]


def in_a_path(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        problem = "may hold letters, digits, _, . and - only, and begins with a letter or digit"
        raise InputError("name", name, problem, "Write it like my-study.")
    return name


def known_method(name: str) -> str:
    return method(name).name


def known_form(name: str) -> str:
    get_form(name)
    return name


def as_list(value: object) -> object:
    return value if value is None or isinstance(value, list) else [value]


def train_and_validation(splits: dict[SplitName, str]) -> dict[SplitName, str]:
    if not {"train", "validation"} <= splits.keys():
        raise ValueError("splits must name both train and validation")
    return splits


def rows_and_columns(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("should be two numbers, [rows, columns]")
    return value


def none_or_several(refits: int) -> int:
    if refits == 1:
        raise ValueError("should be 0, or at least 2")
    return refits


def nodes_and_gpus(value: object) -> object:
    if isinstance(value, int):
        return 1, value
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("should be a number, or [nodes, GPUs of each]")
    return value


Name = Annotated[str, AfterValidator(in_a_path)]
MethodName = Annotated[str, AfterValidator(known_method)]
FormName = Annotated[str, AfterValidator(known_form)]
Splits = Annotated[dict[SplitName, str], AfterValidator(train_and_validation)]
Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0, le=10**18)]  # a column of the runs table holds it
Refits = Annotated[int, Field(ge=0, strict=True), AfterValidator(none_or_several)]
T = TypeVar("T")
OneOrMore = Annotated[list[T] | None, BeforeValidator(as_list)]
GpuCount = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(nodes_and_gpus)]
Block = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(rows_and_columns)]


class Section(BaseModel):
    """Base of all sections: unknown keys forbidden, numbers finite, values fixed once read."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def known_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                listed = f"{one_of(key, cls.model_fields)} config.yaml explains every key."
                near = nearest(key, cls.model_fields)
                raise InputError(str(key), values[key], "unknown key", f"Did you mean {near}?" if near else listed)
        return values


class Documents(Section):
    """What the three corpus sources share: how documents become splits."""

    seed: int = 0  # fixes the document order, of which budgets are prefixes
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02  # of documents, held out by document hash
    test_fraction: Fraction = 0.0

    @model_validator(mode="after")
    def some_for_training(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise InputError(
                "test_fraction", self.test_fraction,
                f"leaves nothing to train on beside a validation_fraction of {self.validation_fraction}",
                "Lower one of them.",
            )  # fmt: skip
        return self

    @property
    def split_names(self) -> set[str]:
        """The splits that there will be."""
        given: dict[SplitName, str] | None = getattr(self, "splits", None)
        if given is not None and given.keys() != {"train"}:
            return set(given)
        return {"train", "validation"} | ({"test"} if self.test_fraction else set())


class InstalledCorpus(Documents):
    """Docstrings of installed packages: real prose that is there without a network."""

    source: Literal["installed"]
    packages: list[str] = Field(default=["numpy", "scipy", "pandas"], min_length=1)


class FolderCorpus(Documents):
    """A folder of .txt, .md and .jsonl files, plain or .gz or .zst, and of .parquet files."""

    source: Literal["folder"]
    path: Path
    text_field: str = "text"  # of .jsonl and .parquet rows
    # Where the folder is already split: split name -> file glob. Fractions then do not apply.
    splits: Splits | None = None


class HubCorpus(Documents):
    """A Hugging Face dataset, streamed through `datasets`."""

    source: Literal["huggingface"]
    dataset: str
    revision: str | None = None  # a commit or tag of the dataset; None takes the newest
    subset: str | None = None  # the dataset's configuration name, such as "en"
    text_field: str = "text"
    # split name -> the dataset's split. With "train" alone, the fractions cut the others from it.
    splits: dict[SplitName, str] = {"train": "train"}
    max_documents: Count | None = None  # of each split; the stream ends there

    @model_validator(mode="after")
    def whole_splits(self) -> Self:
        if self.splits.keys() != {"train"}:
            train_and_validation(self.splits)
        return self


Corpus = Annotated[InstalledCorpus | FolderCorpus | HubCorpus, Field(discriminator="source")]


class Tokenizer(Section):
    """A byte-level BPE trained on the corpus, or a pretrained tokenizer by name."""

    vocab_size: Annotated[int, Field(ge=257, strict=True)]  # rows of the model's embedding and head
    pretrained: str | None = None  # such as "t5-base"; it may hold at most vocab_size tokens


class Shape(Section):
    """A LLaMA model without its vocabulary: the size of a cell."""

    width: PositiveInt  # residual stream
    depth: PositiveInt  # blocks
    heads: PositiveInt
    ffn: PositiveInt  # hidden width of the gated feed-forward layers

    @model_validator(mode="after")
    def heads_divide_width(self) -> Self:
        if self.width % (2 * self.heads):
            raise InputError(
                "heads", self.heads, f"the width {self.width} is no even multiple of it (rotary positions)",
                "Let each head have an even width.",
            )  # fmt: skip
        return self


class Hyperparameters(Section):
    """How a cell trains. Steps follow from tokens, so fractions are of the cell's training steps."""

    batch_tokens: Count = 8192  # tokens an optimizer step; a multiple of the sequence length
    lr: Annotated[float, Field(gt=0)] = 3e-3  # peak learning rate
    maskable_lr: Annotated[float, Field(gt=0)] | None = None  # that of the maskable matrices, if not the same
    lr_schedule: Literal["cosine", "wsd"] = "cosine"
    lr_final: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the peak at the last step
    warmup_fraction: Fraction = 0.05
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2  # of a wsd schedule
    weight_decay: Annotated[float, Field(ge=0)] = 0.1  # on matrices, not on norms
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    grad_clip: Annotated[float, Field(gt=0)] = 1.0  # global norm over active weights
    init_std: Annotated[float, Field(gt=0, le=1)] = 0.02
    # Of sparse methods only. A method may bring other defaults: `Method.defaults`.
    distribution: Literal["uniform", "erk", "attention"] = "uniform"  # of density over layers
    attention_ratio: Annotated[float, Field(gt=0)] = 1.0  # density in attention over elsewhere, in that distribution
    block: Block = (1, 1)  # rows × columns of weights that are active together
    drop_fraction: Fraction = 0.1  # of active weights, at the first topology update
    final_drop_fraction: Fraction = 0.005
    topology_updates: PositiveInt = 40
    topology_interval: PositiveInt | None = None  # steps between updates, in place of their number
    topology_stop: Annotated[float, Field(gt=0, le=1)] = 0.75  # share of training after which masks rest
    initial_density: Density | None = None  # falls to the cell's density at the last update; None: constant
    density_shape: Literal["cubic", "cosine", "linear"] = "cubic"  # of that fall
    newborn: NewbornPolicy = "reset"  # how Adam treats a regrown weight:
    # reset: bias correction from its own birth; naive: from Adam's global step; the others: reset, and a warm-up ramp
    ramp_steps: Annotated[int, Field(gt=0, le=MAX_AGE, strict=True)] = 100  # of that ramp

    @model_validator(mode="after")
    def one_update_rule(self) -> Self:
        if self.topology_interval is not None and "topology_updates" in self.model_fields_set:
            raise InputError(
                "topology_interval", self.topology_interval,
                f"topology_updates {self.topology_updates} beside it also says when the topology changes",
                "Take one of the two out.",
            )  # fmt: skip
        return self


class Selector(Section):
    """Picks cells: those that agree with every key given, and so with no keys all. A key takes a value or a list."""

    size: OneOrMore[str] = None
    density: OneOrMore[Density] = None
    unique_tokens: OneOrMore[Count] = None
    epochs: OneOrMore[PositiveInt] = None
    method: OneOrMore[MethodName] = None
    seed: OneOrMore[Seed] = None
    role: OneOrMore[Role] = None


class Override(Selector):
    """Hyperparameters of the cells that it picks, in place of those under `training`."""

    set: Hyperparameters


class Factors(Section):
    """A product of factors. At density 1 every method is `dense`, and one cell stands for all of them."""

    role: Role = "fit"
    sizes: list[str] = Field(min_length=1)
    densities: list[Density] = Field(min_length=1)
    unique_tokens: list[Count] = Field(min_length=1)
    epochs: list[PositiveInt] = Field(min_length=1)
    methods: list[MethodName] = Field(default=["rigl"], min_length=1)
    seeds: list[Seed] = Field(default=[0], min_length=1)
    sweep: dict[
        str, Annotated[list[Any], Field(min_length=1)]
    ] = {}  # hyperparameter -> values, further factors; for calibration


class Listed(Section):
    """One cell by name of its factors, with hyperparameters of its own if need be."""

    role: Role = "fit"
    size: str
    density: Density
    unique_tokens: Count
    epochs: PositiveInt
    method: MethodName = "rigl"
    seed: Seed = 0
    set: Hyperparameters = Hyperparameters()


class Law(Section):
    """What is fitted to the runs table."""

    published: bool = False  # written `law: published`: the paper's constants, and nothing is trained or fitted
    forms: list[FormName] = Field(default=list(COMPARED), min_length=1)
    params: Literal["body", "active", "paper", "average"] = "body"  # which count is the law's N; see docs/law.md
    huber_delta: Annotated[float, Field(gt=0)] = 1e-3  # of log-loss residuals
    bootstrap: Refits = 200  # for intervals; 0: none


def published_by_name(value: object) -> object:
    return {"published": True} if value == "published" else value


class Figures(Section):
    """What the figures ask the law about."""

    unique_tokens: list[Count] = Field(default=[], max_length=3)  # budgets; by default those of the fit cells


class Data(Section):
    """Which tokens: the part of a study file that the corpus steps read."""

    corpus: Corpus
    tokenizer: Tokenizer


class StudyConfig(Section):
    """A whole study file."""

    name: Name  # results/<name>/
    corpus: Corpus | None = None  # None in a study of published constants alone, as is the tokenizer
    tokenizer: Tokenizer | None = None
    sequence_length: Annotated[int, Field(ge=2, strict=True)] = 256
    evaluation_split: Literal["validation", "test"] = "validation"  # test: for published numbers, once
    ladder: dict[Name, Shape] = {}  # sizes beside the built-in ones
    training: Hyperparameters = Hyperparameters()
    lr_density_exponent: Annotated[float, Field(ge=0, le=2)] = 0.0  # maskable_lr × density^-p, but in cells' own `set`
    grid: list[Factors] = []
    cells: list[Listed] = []
    exclude: list[Selector] = []
    overrides: list[Override] = []
    keep_models: list[Selector] = []  # cells whose trained model is kept
    law: Annotated[Law, BeforeValidator(published_by_name)] = Law()
    figures: Figures = Figures()
    gpus: dict[str, GpuCount] = {}  # size -> those that train one of its cells together; elsewhere one
    sustained_tflops: Annotated[float, Field(gt=0)] = 0.02  # of one device, to estimate hours and jobs' time limits

    @model_validator(mode="after")
    def split_exists(self) -> Self:
        if self.corpus is not None and self.evaluation_split not in self.corpus.split_names:
            raise InputError(
                "evaluation_split", self.evaluation_split, "the corpus will have no such split",
                "Give corpus.test_fraction, or name it in corpus.splits.",
            )  # fmt: skip
        return self

    @model_validator(mode="after")
    def published_law_stands_alone(self) -> Self:
        if self.law.published:
            others = StudyConfig.model_fields.keys() - {"name", "law", "figures"}
            given = sorted(key for key in others if getattr(self, key) != StudyConfig.model_fields[key].default)
            if given:
                raise InputError(
                    "law", "published", f"trains nothing, so that {', '.join(given)} would have no effect",
                    "Take them out, or fit a law of your own.",
                )  # fmt: skip
        return self


S = TypeVar("S", bound=Section)


def validated(schema: type[S], values: object, where: str) -> S:
    """Validate values against a section of the study file. Its validators raise a ValueError of their own value, or an
    InputError of that or of a key of the section.

    Raises:
        InputError: naming the place of the first value at fault, the value, and what it may be.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as invalid:
        error = invalid.errors()[0]
    kind, value, about = error["type"], error["input"], error.get("ctx", {})
    reason = about.get("error")

    def at(*keys: str) -> str:
        return "".join([where, *_steps(values, error["loc"]), *(f".{key}" for key in keys)]).removeprefix(".")

    if kind in ("missing", "union_tag_not_found"):
        key = about["discriminator"].strip("'") if "discriminator" in about else str(error["loc"][-1])
        raise InputError(at(key), "(absent)", "is required", "Add it; config.yaml shows how.")
    if kind == "union_tag_invalid":
        field, tag = at(about["discriminator"].strip("'")), about["tag"]
        raise InputError(field, tag, "unknown", one_of(tag, _quoted(about["expected_tags"])))
    if kind == "literal_error":
        raise InputError(at(), value, "unknown", one_of(value, _quoted(about["expected"])))
    if kind == "float_parsing":
        raise InputError(at(), value, "is not a number", as_decimal(value))
    if isinstance(reason, InputError):
        field = at() if reason.value == value else at(reason.field)
        raise InputError(field, reason.value, reason.problem, reason.remedy)
    no_section = kind in ("model_type", "model_attributes_type", "dict_type")
    problem = "should be keys with values" if no_section else str(reason or error["msg"])
    raise InputError(at(), value, problem, "Correct it; config.yaml explains every key.")


def _steps(values: object, loc: tuple[int | str, ...]) -> Iterator[str]:
    """The way to a value, such as .grid [0] .sizes; what Pydantic adds to it, as the tag of a union, leads nowhere."""
    for part in loc:
        inside = values if isinstance(values, dict) else dict(enumerate(values if isinstance(values, list) else ()))
        if part in inside:
            yield f"[{part}]" if isinstance(part, int) else f".{part}"
            values = inside[part]


def _quoted(words: str) -> list[str]:
    return re.findall("'(.+?)'", words)

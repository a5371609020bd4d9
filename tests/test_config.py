"""The study file's types: counts with suffixes, selectors, shapes, and what every section refuses."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sparsedc.config import Factors, HubCorpus, Hyperparameters, Section, Selector, Shape, StudyConfig, validated
from sparsedc.errors import InputError
from sparsedc.numbers import parse_count
from sparsedc.study import short

POWERS = {"": 0, "k": 3, "M": 6, "B": 9, "T": 12}


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 12), st.sampled_from(list(POWERS)))
def test_count_with_suffix_is_shifted_decimal(digits: int, places: int, suffix: str) -> None:
    """The reference moves the decimal point of a string, with no arithmetic."""
    padded = f"{digits:013d}"
    whole, part = (padded[:-places], padded[-places:]) if places else (padded, "")
    text = f"{whole.lstrip('0') or '0'}.{part}" if part else whole.lstrip("0")
    zeros = POWERS[suffix] - len(part.rstrip("0"))
    if zeros >= 0:
        assert parse_count(text + suffix) == int(whole + part.rstrip("0") + "0" * zeros)
    else:
        with pytest.raises(ValueError, match="not a whole number"):
            parse_count(text + suffix)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (65536, 65536),
        ("65536", 65536),
        ("64k", 64_000),
        ("0.3M", 300_000),
        ("1.3B", 1_300_000_000),  # 1.3 × 10⁹ is 1300000000.0000002 in binary floats of some orders of evaluation
        ("0.1T", 100_000_000_000),
        ("1_000_000", 1_000_000),
        ("1,000", 1_000),
        ("8 k", 8_000),
        (3e8, 300_000_000),
    ],
)
def test_spellings_of_a_count(written: object, meant: int) -> None:
    assert parse_count(written) == meant
    assert isinstance(parse_count(written), int)


@pytest.mark.parametrize(
    "written", ["", "k", "300m", "lots", "1.5", "0.0015k", "nan", "inf", "sNaN", "1e999999999", 1.5, float("inf"), True]
)
def test_what_is_no_count(written: object) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_count(written)


@settings(deadline=None)
@given(st.text(alphabet="0123456789.eE+-_kMBTnaif ,", max_size=12))
def test_any_text_is_a_whole_number_or_a_value_error(text: str) -> None:
    """Nothing else may come out of it: other exceptions would reach the user as a traceback."""
    try:
        count = parse_count(text)
    except ValueError:
        return
    assert isinstance(count, int)


@pytest.mark.parametrize("count", [0, -5, "-1k", "1e30"])
def test_counts_are_positive_and_fit_the_runs_table(count: object) -> None:
    with pytest.raises(ValidationError):
        Hyperparameters.model_validate({"batch_tokens": count})


@settings(deadline=None)
@given(st.integers(1, 10**18))
def test_short_spelling_reads_back(count: int) -> None:
    assert parse_count(short(count)) == count


@settings(deadline=None)
@given(st.integers(1, 9999), st.sampled_from(["k", "M", "B", "T"]))
def test_short_spelling_of_round_counts_has_a_suffix(digits: int, suffix: str) -> None:
    spelt = short(digits * 10 ** POWERS[suffix])
    assert spelt[-1] in "kMBT"
    assert Decimal(spelt[:-1]) < 10_000


def test_short_spellings() -> None:
    assert [short(n) for n in (262144, 64000, 1_300_000_000, 999, 31457280)] == [
        "262144",
        "64k",
        "1.3B",
        "999",
        "31457.28k",
    ]


def test_selector_takes_a_value_or_a_list() -> None:
    one, several = Selector.model_validate({"size": "50k", "unique_tokens": "64k"}), Selector(size=["50k"])
    assert one.size == several.size == ["50k"]
    assert one.unique_tokens == [64000]
    assert one.epochs is None


@pytest.mark.parametrize(
    ("width", "heads", "good"), [(32, 2, True), (32, 16, True), (30, 4, False), (34, 2, False), (32, 32, False)]
)
def test_heads_leave_an_even_width_each(width: int, heads: int, good: bool) -> None:
    """Rotary positions turn pairs of dimensions."""
    values = {"width": width, "depth": 1, "heads": heads, "ffn": 64}
    if good:
        Shape.model_validate(values)
    else:
        with pytest.raises(ValidationError, match="heads"):
            Shape.model_validate(values)


def test_a_split_dataset_needs_both_train_and_validation() -> None:
    values: dict[str, Any] = {"source": "huggingface", "dataset": "d"}
    assert HubCorpus(**values).splits == {"train": "train"}
    assert HubCorpus(**values, splits={"train": "a", "validation": "b"})
    for splits in ({"validation": "b"}, {"train": "a", "test": "c"}):
        with pytest.raises(ValidationError, match="both train and validation"):
            HubCorpus(**values, splits=splits)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["lr", "weight_decay", "grad_clip", "init_std"])
def test_numbers_are_finite(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=r"finite|greater|less"):
        Hyperparameters.model_validate({key: value})


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("distribution", ["uniform", "erk", "attention"], ["er", 1]),
        ("attention_ratio", [0.01, 1, 10], [0, -1, float("inf"), float("nan"), "half"]),
        ("block", [[1, 1], [1, 16], (4, 2)], [[1], [1, 2, 3], [0, 1], [1, -2], [1.5, 1], 16, "1x16"]),
        ("drop_fraction", [0, 0.99], [1, 1.5, -0.1]),
        ("final_drop_fraction", [0, 0.99], [1, -0.1]),
        ("topology_updates", [1, 40], [0, -1, 2.5, True]),
        ("topology_interval", [None, 1, 500], [0, -1, 2.5, "often", True]),
        ("initial_density", [None, 0.1, 1], [0, 1.1, -0.5, float("nan")]),
        ("density_shape", ["cubic", "cosine", "linear"], ["square", None]),
        ("newborn", ["reset", "naive", "linear", "compounding"], ["new", None]),
        ("ramp_steps", [1, 100, 32767], [0, 32768, 1.5]),
    ],
)
def test_bounds_of_the_sparse_hyperparameters(key: str, good: list[object], bad: list[object]) -> None:
    for value in good:
        Hyperparameters.model_validate({key: value})
    for value in bad:
        with pytest.raises(ValidationError, match=key):
            Hyperparameters.model_validate({key: value})


def test_updates_come_by_number_or_by_interval() -> None:
    with pytest.raises(
        ValidationError, match=r"topology_interval = 100: topology_updates 40 .* Take one of the two out"
    ):
        Hyperparameters(topology_updates=40, topology_interval=100)
    assert Hyperparameters(topology_interval=100).topology_updates == 40  # the default, which nobody wrote
    assert Hyperparameters(topology_updates=20, topology_interval=None).topology_interval is None


@pytest.mark.parametrize(
    ("values", "field", "value", "problem"),
    [
        ({"block": 16}, "training.block", 16, "two numbers, [rows, columns]"),
        ({"block": [1, 2, 3]}, "training.block", [1, 2, 3], "two numbers, [rows, columns]"),
        (
            {"topology_interval": 3, "topology_updates": 4},
            "training.topology_interval",
            3,
            "topology_updates 4 beside it",
        ),
        ({"batch_tokens": "lots"}, "training.batch_tokens", "lots", "'lots' is not a number such as"),
        (3, "training", 3, "should be keys with values"),
    ],
)
def test_errors_are_in_our_words_and_of_one_key(values: object, field: str, value: object, problem: str) -> None:
    with pytest.raises(InputError) as raised:
        validated(Hyperparameters, values, where="training")
    assert (raised.value.field, raised.value.value) == (field, value)
    assert problem in raised.value.problem
    for internal in ("Value error", "tuple", "Hyperparameters"):
        assert internal not in str(raised.value)


def sections(base: type[Section]) -> list[type[Section]]:
    return [base, *(deeper for cls in base.__subclasses__() for deeper in sections(cls))]


@pytest.mark.parametrize("section", sections(Section)[1:], ids=lambda section: section.__name__)
def test_every_section_refuses_unknown_keys_and_is_frozen(section: type[Section]) -> None:
    with pytest.raises(ValidationError) as raised:
        section.model_validate({"no_such_key": 1})
    assert "no_such_key = 1: unknown key. " in str(raised.value)
    assert section.model_config["frozen"] is True


def test_epochs_are_whole() -> None:
    good: dict[str, Any] = {"sizes": ["50k"], "densities": [1], "unique_tokens": [65536], "epochs": [1]}
    Factors.model_validate(good)
    for bad in (0, -1, 1.5, "2", True):
        with pytest.raises(ValidationError, match="epochs"):
            Factors.model_validate({**good, "epochs": [bad]})


@pytest.mark.parametrize("name", ["a/b", "..", "", "-x", "a b"])
def test_study_name_is_a_folder_name(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        StudyConfig.model_validate({"name": name})

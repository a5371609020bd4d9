"""The tokenizer encodes any text, the same way each time it is trained, saved and loaded."""

from pathlib import Path

import pytest
from corpora import prose, texts_of
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sparsedc.config import Tokenizer
from sparsedc.corpus import tokenizer as tokenizer_module
from sparsedc.corpus.tokenizer import END_OF_DOCUMENT, build_tokenizer, train
from sparsedc.errors import InputError

TRAINED = train(iter([prose(200)]), 300)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_survives_the_round_trip(text: str) -> None:
    TRAINED.encode_special_tokens = True
    ids = TRAINED.encode(text, add_special_tokens=False).ids
    assert TRAINED.decode(ids, skip_special_tokens=False) == text
    assert max(ids, default=0) < 300


def test_saved_and_loaded_by_transformers_it_encodes_identically(built: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(built / "tokenizer")
    assert len(loaded) == 300
    assert loaded.eos_token == END_OF_DOCUMENT
    direct = train(iter([texts_of(built / "documents", "train")]), 300)
    for text in prose(50):
        assert loaded(text)["input_ids"] == direct.encode(text).ids
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_training_twice_gives_the_same_file(built: Path, tmp_path: Path) -> None:
    build_tokenizer(Tokenizer(vocab_size=300), built / "documents", tmp_path / "again")
    for file in (built / "tokenizer").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_it_learns_from_the_train_split_only_and_up_to_the_cap(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def record(texts, vocab_size):  # type: ignore[no-untyped-def]
        batches = list(texts)
        read.extend(text for batch in batches for text in batch)
        return train(iter(batches), vocab_size)

    monkeypatch.setattr(tokenizer_module, "train", record)
    build_tokenizer(Tokenizer(vocab_size=260), built / "documents", tmp_path / "tokenizer")
    assert read == texts_of(built / "documents", "train")

    monkeypatch.setattr("sparsedc.corpus.tokenizer.TRAINING_CHARACTERS", 10)
    monkeypatch.setattr(
        tokenizer_module, "read_texts", lambda documents, split: iter([["a" * 8], ["b" * 8], ["c" * 8]])
    )
    read.clear()
    build_tokenizer(Tokenizer(vocab_size=258), built / "documents", tmp_path / "tokenizer")
    assert read == ["a" * 8, "b" * 8]


def test_a_pretrained_tokenizer(built: Path, tmp_path: Path) -> None:
    config = Tokenizer(vocab_size=384, pretrained=str(built / "tokenizer"))
    build_tokenizer(config, built / "documents", tmp_path / "copy")
    copy = AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert copy(prose(3))["input_ids"] == AutoTokenizer.from_pretrained(built / "tokenizer")(prose(3))["input_ids"]


def test_bad_tokenizers(built: Path, tmp_path: Path) -> None:
    PreTrainedTokenizerFast(tokenizer_object=TRAINED).save_pretrained(tmp_path / "endless")
    cases = [
        (Tokenizer(vocab_size=100_000), r"text for \d+ tokens only"),
        (Tokenizer(vocab_size=299, pretrained=str(built / "tokenizer")), "has 300 tokens"),
        (Tokenizer(vocab_size=300, pretrained=str(tmp_path / "nowhere")), "cannot be loaded"),
        (Tokenizer(vocab_size=300, pretrained=str(tmp_path / "endless")), "no end-of-sequence token"),
    ]
    for config, problem in cases:
        with pytest.raises(InputError, match=problem):
            build_tokenizer(config, built / "documents", tmp_path / "out")
    with pytest.raises(InputError, match="Build the documents first"):
        build_tokenizer(Tokenizer(vocab_size=300), tmp_path, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["endless"]

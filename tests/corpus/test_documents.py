"""Documents are unique, split by content, and in one order a seed."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import prose, texts_of, write_jsonl

from sparsedc.config import FolderCorpus
from sparsedc.corpus import documents
from sparsedc.corpus.documents import build_documents, read_index
from sparsedc.errors import InputError

Build = Callable[..., Path]


def test_every_text_lands_in_one_split_once(documents_of: Build) -> None:
    texts = prose(300)
    built = documents_of([*texts, *texts[:50], "", " \n"], texts[100:120], test_fraction=0.1)
    split = {name: texts_of(built, name) for name in ("train", "validation", "test")}
    assert sorted(itertools.chain(*split.values())) == sorted(texts)
    index = read_index(built)
    assert (index["read"], index["empty"], index["duplicates"]) == (372, 2, 70)
    for name, kept in split.items():
        assert index["splits"][name] == {"documents": len(kept), "characters": sum(map(len, kept))}
    assert 30 < len(split["validation"]) < 90  # 0.2 of 300
    assert 10 < len(split["test"]) < 55  # 0.1 of 300


def test_order_and_splits_depend_on_content_and_seed_alone(documents_of: Build) -> None:
    texts = prose(100)
    one = documents_of(texts, name="one")
    other = documents_of(texts[60:], texts[:60][::-1], ["", *texts[:5]], name="other")
    seeded = documents_of(texts, name="seeded", seed=1)
    for split in ("train", "validation"):
        assert texts_of(one, split) == texts_of(other, split) != texts_of(seeded, split)
        assert (one / f"{split}.parquet").read_bytes() == (other / f"{split}.parquet").read_bytes()
    assert texts_of(one, "train") != sorted(texts_of(one, "train"))
    assert set(texts_of(one, "validation")) != set(texts_of(seeded, "validation"))


def test_more_text_moves_no_document_to_another_split(documents_of: Build) -> None:
    few, many = documents_of(prose(50), name="few"), documents_of(prose(200), name="many")
    kept = [text for text in texts_of(many, "train") if text in set(prose(50))]
    assert kept == texts_of(few, "train")


def test_the_held_out_copy_of_a_text_is_the_one_that_stays(documents_of: Build) -> None:
    splits = {"train": "0*", "validation": "1*", "test": "2*"}
    built = documents_of(["a", "b", "c", "c", "d"], ["b", "v", "d"], ["c", "d"], splits=splits)
    assert [sorted(texts_of(built, name)) for name in ("train", "validation", "test")] == [
        ["a"],
        ["b", "v"],
        ["c", "d"],
    ]
    index = read_index(built)
    assert (index["duplicates"], index["duplicates_across_splits"]) == (5, 5)


def test_memory_bounded_row_groups_keep_the_order(documents_of: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    one = documents_of(prose(100), name="one")
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 500)
    many = documents_of(prose(100), name="many")
    assert texts_of(one, "train") == texts_of(many, "train")
    assert len(list(documents.read_texts(many, "train"))) > 10


def test_the_index_records_config_and_provenance(documents_of: Build) -> None:
    index = read_index(documents_of(prose(30), seed=3))
    assert index["corpus"]["seed"] == 3
    assert index["corpus"]["source"] == "folder"
    assert index["provenance"]["files"] == 1
    json.dumps(index)


@pytest.mark.parametrize(
    ("files", "config", "problem"),
    [
        ([["", " "]], {}, "2 documents, all empty"),
        ([[]], {}, "0 documents, all empty"),
        ([["one"]], {}, "split has no documents"),
        (
            [prose(50)],
            {"validation_fraction": 1e-9},
            "validation_fraction = 1e-09: the validation split has no documents",
        ),
        ([prose(50)], {"validation_fraction": 0.5, "test_fraction": 0.499999}, "the train split has no documents"),
        ([["a"], ["a"]], {"splits": {"train": "0*", "validation": "1*"}}, "the train split has no documents"),
    ],
)
def test_bad_corpora_leave_nothing_behind(
    documents_of: Build, tmp_path: Path, files: list[list[str]], config: dict[str, object], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        documents_of(*files, **config)
    assert [entry.name for entry in tmp_path.iterdir()] == ["documents-source"]


def test_a_failed_rebuild_leaves_the_finished_one(documents_of: Build, tmp_path: Path) -> None:
    built = documents_of(prose(50))
    before = {file.name: file.read_bytes() for file in built.iterdir()}
    (tmp_path / "documents-source" / "bad.jsonl").write_text("{")
    with pytest.raises(InputError, match="line 1"):
        build_documents(FolderCorpus(source="folder", path=tmp_path / "documents-source"), built)
    assert {file.name: file.read_bytes() for file in built.iterdir()} == before
    assert len(list(tmp_path.iterdir())) == 2


def test_documents_can_be_a_corpus_again(documents_of: Build, tmp_path: Path) -> None:
    built = documents_of(prose(50))
    splits = {"train": "train.*", "validation": "validation.*"}
    build_documents(
        FolderCorpus.model_validate({"source": "folder", "path": built, "splits": splits}), tmp_path / "again"
    )
    assert texts_of(tmp_path / "again", "train") == texts_of(built, "train")


def test_missing_documents(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["a"])
    with pytest.raises(InputError, match=r"no documents\.json"):
        read_index(tmp_path)

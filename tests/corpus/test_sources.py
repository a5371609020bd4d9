"""Every format and place of text, and every way in which it can be bad."""

import gzip
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from sparsedc.config import FolderCorpus, HubCorpus, InstalledCorpus
from sparsedc.corpus.installed import MIN_CHARACTERS
from sparsedc.corpus.sources import open_source
from sparsedc.errors import InputError


def jsonl(*texts: str | None) -> bytes:
    return "".join(json.dumps({"text": text, "source": "x"}, ensure_ascii=False) + "\n" for text in texts).encode()


def zst(*frames: bytes) -> bytes:
    return b"".join(zstandard.ZstdCompressor().compress(frame) for frame in frames)


def parquet(file: Path, **columns: list[object]) -> None:
    pq.write_table(pa.table(columns), file)


def read(folder: Path, **config: object) -> list[tuple[str | None, str]]:
    source = open_source(FolderCorpus.model_validate({"source": "folder", "path": folder, **config}))
    return list(source.documents())


def texts(folder: Path, **config: object) -> list[str]:
    return [text for _, text in read(folder, **config)]


class TestFolder:
    @pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "a.md.zst", "A.TXT", "v1.2.txt.zst"])
    def test_plain_text_is_one_document(self, tmp_path: Path, name: str) -> None:
        text = "# Grüße\n\nsecond line\u2028still the second\n"
        pack = {".gz": gzip.compress, ".zst": zst}.get(Path(name).suffix, bytes)
        (tmp_path / name).write_bytes(pack(text.encode()))
        assert texts(tmp_path) == [text]

    @pytest.mark.parametrize("pack", [bytes, gzip.compress, zst])
    @pytest.mark.parametrize("frames", [1, 3])
    def test_jsonl_is_one_document_a_line(self, tmp_path: Path, pack: object, frames: int) -> None:
        ending = {bytes: "", gzip.compress: ".gz", zst: ".zst"}[pack]
        rows = [f"é\u2028{i}\n" for i in range(3 * frames)]
        parts = [jsonl(*rows[3 * i : 3 * i + 3]) for i in range(frames)]
        (tmp_path / f"a.jsonl{ending}").write_bytes(b"".join(map(pack, parts)))  # frames one after the other
        assert texts(tmp_path) == rows

    def test_jsonl_skips_blank_lines_and_a_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl("one") + b"\n \r\n" + jsonl("two", None))
        assert texts(tmp_path) == ["one", "two", ""]

    def test_parquet_is_one_document_a_row(self, tmp_path: Path) -> None:
        parquet(tmp_path / "a.parquet", body=["one", None, "three"], n=[1, 2, 3])
        assert texts(tmp_path, text_field="body") == ["one", "", "three"]

    def test_subfolders_are_read_and_hidden_and_foreign_files_are_not(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / ".git").mkdir()
        for name in ["sub/a.txt", ".git/b.txt", ".c.txt", "d.pdf", "e.zst", "f.parquet.gz"]:
            (tmp_path / name).write_text(name)
        source = open_source(FolderCorpus(source="folder", path=tmp_path))
        assert [text for _, text in source.documents()] == ["sub/a.txt"]
        assert source.provenance == {"files": 1, "bytes": 9, "ignored_files": 3}

    def test_globs_assign_splits(self, tmp_path: Path) -> None:
        for name in ["train-0.txt", "train-1.txt", "val.txt", "other.txt"]:
            (tmp_path / name).write_text(name)
        assert read(tmp_path, splits={"train": "train-*", "validation": "val*"}) == [
            ("train", "train-0.txt"),
            ("train", "train-1.txt"),
            ("validation", "val.txt"),
        ]

    @pytest.mark.parametrize(
        ("name", "content", "problem"),
        [
            ("a.txt", b"\x89PNG\r\n\xff", "not UTF-8"),
            ("a.txt", b"text\0text", "binary"),
            ("a.jsonl", jsonl("fine") + b"{broken\n", "line 2 is not JSON"),
            ("a.jsonl", jsonl("fine", "fine") + b'{"txt": "x"}\n', "line 3 lacks the field 'text'"),
            ("a.jsonl", b'["text"]\n', "line 1 lacks the field"),
            ("a.jsonl", b'{"text": "x", "n": ' + b"9" * 5000 + b"}\n", "line 1 is not JSON"),
            ("a.jsonl", b"[" * 100_000 + b"\n", "line 1 is not JSON"),
            ("a.jsonl", b'{"text": 3}\n', "line 1: the field 'text' is not a string"),
            ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1 escapes half a surrogate pair"),
            ("a.jsonl", b'{"text": "\xff"}\n', "not UTF-8"),
            ("a.jsonl.zst", zst(jsonl("x" * 1000), jsonl("y" * 1000))[:-4], "damaged"),
            ("a.jsonl.gz", gzip.compress(jsonl("x" * 1000), mtime=0)[:-4], "damaged"),
            ("a.txt.gz", b"not gzip at all", "damaged"),
            ("a.txt.zst", b"not zstd at all", "damaged"),
            ("a.parquet", b"not parquet at all", "damaged"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path: Path, name: str, content: bytes, problem: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=problem) as caught:
            read(tmp_path)
        assert str(tmp_path / name) in str(caught.value)

    def test_bad_parquet_columns(self, tmp_path: Path) -> None:
        parquet(tmp_path / "a.parquet", body=["one"], number=[1])
        with pytest.raises(InputError, match="no column 'text' \\(it has body, number\\)"):
            read(tmp_path)
        with pytest.raises(InputError, match="holds int64, not strings"):
            read(tmp_path, text_field="number")

    def test_bad_folders(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder"):
            read(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"no \.txt.* file here \(0 files"):
            read(tmp_path)
        (tmp_path / "a.pdf").touch()
        with pytest.raises(InputError, match=r"\(1 files with other endings\)"):
            read(tmp_path)

    @pytest.mark.parametrize(
        ("validation", "problem"),
        [("val*", "no .txt"), ("*.txt", "two splits"), ("/etc/*", "not a usable glob"), ("", "not a usable glob")],
    )
    def test_bad_globs(self, tmp_path: Path, validation: str, problem: str) -> None:
        (tmp_path / "train.txt").write_text("text")
        with pytest.raises(InputError, match=problem) as caught:
            read(tmp_path, splits={"train": "train*", "validation": validation})
        assert caught.value.field.startswith("corpus.splits")


class TestInstalled:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.syspath_prepend(str(tmp_path))
        root = tmp_path / "somepackage"
        (root / "tests").mkdir(parents=True)
        return root

    def test_docstrings_of_modules_classes_and_functions(self, package: Path) -> None:
        long = "word " * MIN_CHARACTERS
        (package / "__init__.py").write_text(
            f'"""Module. {long}"""\nraise RuntimeError("imported")\n'
            f'class A:\n    """Class.\n\n        Indented. {long}\n    """\n'
            f'    async def f(self):\n        """Function. {long}"""\n'
            f'def g():\n    """Escape. \\ud800 {long}"""\n'
            f'def short():\n    """Short."""\n'
        )
        (package / "tests" / "test_it.py").write_text(f'"""Test. {long}"""\n')
        (package / "template.py").write_text("{{ not python }}")
        source = open_source(InstalledCorpus(source="installed", packages=["somepackage"]))
        found = [text for _, text in source.documents()]
        assert [text.split()[0] for text in found] == ["Module.", "Class.", "Escape.", "Function."]
        assert found[1].startswith("Class.\n\nIndented.")
        assert "somepackage" not in sys.modules

    def test_an_installed_package_with_its_version(self) -> None:
        source = open_source(InstalledCorpus(source="installed", packages=["pyarrow", "json"]))
        documents = list(source.documents())
        assert len(documents) > 100
        assert documents == list(source.documents())
        assert source.provenance["packages"]["pyarrow"] == f"pyarrow {pa.__version__}"  # type: ignore[index]

    @pytest.mark.parametrize(
        ("name", "problem"),
        [("not_installed", "not installed"), ("numpy.linalg", "top-level"), ("sys", "no Python source")],
    )
    def test_bad_packages(self, name: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            open_source(InstalledCorpus(source="installed", packages=[name]))


class TestHub:
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        for split in ("train", "validation"):
            (tmp_path / f"{split}.jsonl").write_bytes(jsonl(*(f"{split} {i}" for i in range(5)), None))
        return tmp_path

    def read(self, folder: Path, **config: object) -> list[tuple[str | None, str]]:
        corpus = HubCorpus.model_validate({"source": "huggingface", "dataset": str(folder), **config})
        return list(open_source(corpus).documents())

    def test_train_alone_is_left_to_the_fractions(self, dataset: Path) -> None:
        assert self.read(dataset) == [*((None, f"train {i}") for i in range(5)), (None, "")]

    def test_splits_by_name_and_max_documents_of_each(self, dataset: Path) -> None:
        splits = {"train": "validation", "validation": "train"}
        assert self.read(dataset, splits=splits, max_documents=1) == [
            ("train", "validation 0"),
            ("validation", "train 0"),
        ]

    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            ({"splits": {"train": "nowhere"}}, "no such split"),
            ({"subset": "en"}, "cannot be opened"),
            ({"dataset": "/nowhere/at/all"}, "cannot be opened"),
            ({"text_field": "body"}, r"no text there \(its fields: text, source\)"),
        ],
    )
    def test_bad_datasets(self, dataset: Path, config: dict[str, object], problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            self.read(dataset, **config)

    def test_a_stream_that_breaks_off(self, dataset: Path) -> None:
        (dataset / "train.jsonl").write_bytes(jsonl("fine") + b"{broken\n")
        with pytest.raises(InputError, match="reading it failed"):
            self.read(dataset)

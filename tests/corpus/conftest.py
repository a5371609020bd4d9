"""A small corpus, and the directories that each step makes of it."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from corpora import prose, write_jsonl

from sparsedc.config import FolderCorpus, Tokenizer
from sparsedc.corpus.documents import build_documents
from sparsedc.corpus.packing import build_tokens
from sparsedc.corpus.tokenizer import build_tokenizer

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when datasets is first imported


@pytest.fixture
def documents_of(tmp_path: Path) -> Callable[..., Path]:
    """Build the documents of some texts, each element of `files` one .jsonl file."""

    def build(*files: Iterable[str], name: str = "documents", **config: object) -> Path:
        for number, texts in enumerate(files):
            write_jsonl(tmp_path / f"{name}-source" / f"{number}.jsonl", texts)
        corpus = FolderCorpus.model_validate(
            {"source": "folder", "path": tmp_path / f"{name}-source", "validation_fraction": 0.2, **config}
        )
        build_documents(corpus, tmp_path / name)
        return tmp_path / name

    return build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`documents/`, `tokenizer/` and `tokens/` of 200 documents. Not to be written to."""
    root = tmp_path_factory.mktemp("built")
    write_jsonl(root / "source" / "all.jsonl", prose(200))
    build_documents(
        FolderCorpus(source="folder", path=root / "source", validation_fraction=0.2, test_fraction=0.1),
        root / "documents",
    )
    build_tokenizer(Tokenizer(vocab_size=300), root / "documents", root / "tokenizer")
    build_tokens(root / "documents", root / "tokenizer", root / "tokens")
    return root

"""Packed files are the documents' ids, each closed by the end token: nothing lost, nothing added."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from corpora import texts_of
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sparsedc.corpus.packing import build_tokens
from sparsedc.corpus.tokens import Split, open_tokens
from sparsedc.errors import InputError


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_packing_is_concatenation(built: Path, split: Split) -> None:
    backend = Backend.from_file(str(built / "tokenizer" / "tokenizer.json"))
    backend.encode_special_tokens = True
    expected: list[int] = []
    for text in texts_of(built / "documents", split):
        expected += [*backend.encode(text).ids, 0]
    tokens = open_tokens(built / "tokens", split)
    assert tokens.ids.tolist() == expected
    assert tokens.eod == 0


def test_the_documents_come_back_from_the_tokens(built: Path) -> None:
    """Also where a text spells the end token."""
    tokens = open_tokens(built / "tokens", "train")
    tokenizer = AutoTokenizer.from_pretrained(built / "tokenizer")
    texts = texts_of(built / "documents", "train")
    assert any("<|endoftext|>" in text for text in texts)
    pieces = np.split(tokens.ids, tokens.document_starts()[1:])
    assert [tokenizer.decode(piece[:-1]) for piece in pieces] == texts


def test_the_manifest_describes_the_files(built: Path) -> None:
    manifest = json.loads((built / "tokens" / "manifest.json").read_text())
    assert (manifest["format"], manifest["dtype"], manifest["vocab_size"], manifest["eod"]) == (1, "uint16", 300, 0)
    for split, entry in manifest["splits"].items():
        content = (built / "tokens" / f"{split}.bin").read_bytes()
        texts = texts_of(built / "documents", split)
        assert entry == {
            "file": f"{split}.bin",
            "tokens": len(content) // 2,
            "sha256": hashlib.sha256(content).hexdigest(),
            "documents": len(texts),
            "characters": sum(map(len, texts)),
        }
    assert manifest["documents"]["corpus"]["source"] == "folder"
    assert manifest["documents"]["duplicates"] == 0


def test_building_twice_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    build_tokens(built / "documents", built / "tokenizer", tmp_path / "tokens")
    for file in (built / "tokens").iterdir():
        assert (tmp_path / "tokens" / file.name).read_bytes() == file.read_bytes()


def test_large_vocabularies_take_four_bytes_and_get_no_special_tokens_of_their_own(built: Path, tmp_path: Path) -> None:
    backend = Backend.from_file(str(built / "tokenizer" / "tokenizer.json"))
    backend.add_tokens([f"<unused {i}>" for i in range(2**16)])
    backend.add_special_tokens(["<s>"])
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
    backend.enable_truncation(4)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(tmp_path / "large")
    build_tokens(built / "documents", tmp_path / "large", tmp_path / "tokens")
    wide, narrow = open_tokens(tmp_path / "tokens", "train"), open_tokens(built / "tokens", "train")
    assert (wide.ids.dtype, wide.vocab_size) == (np.dtype("<u4"), 300 + 2**16 + 1)
    assert np.array_equal(wide.ids, narrow.ids)


def test_failures_leave_nothing_behind(built: Path, tmp_path: Path) -> None:
    backend = Backend.from_file(str(built / "tokenizer" / "tokenizer.json"))
    stop = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=".")  # an ordinary token of the vocabulary
    stop.save_pretrained(tmp_path / "stop")
    shutil.copytree(built / "documents", tmp_path / "documents")
    (tmp_path / "documents" / "documents.json").unlink()
    before = sorted(tmp_path.iterdir())
    for documents, tokenizer, problem in [
        (built / "documents", tmp_path / "nowhere", "cannot be loaded"),
        (tmp_path / "documents", built / "tokenizer", r"no documents\.json"),
        (built / "documents", tmp_path / "stop", "stands for text"),
    ]:
        with pytest.raises(InputError, match=problem):
            build_tokens(documents, tokenizer, tmp_path / "tokens")
    assert sorted(tmp_path.iterdir()) == before

"""Token files open only as what their manifest says, and budgets are nested prefixes of train."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparsedc.corpus.budgets import build_budget
from sparsedc.corpus.tokens import Tokens, budget, open_tokens
from sparsedc.errors import InputError


@pytest.fixture
def tokens(built: Path, tmp_path: Path) -> Path:
    """A token directory to damage."""
    return Path(shutil.copytree(built / "tokens", tmp_path / "tokens"))


def toy(*ids: int) -> Tokens:
    return Tokens(np.array(ids, dtype="<u2"), eod=0, vocab_size=10, sha256="")


def test_every_token_belongs_to_a_document() -> None:
    tokens = toy(5, 6, 0, 0, 7, 0)  # the second document has an end token only
    assert tokens.document_starts().tolist() == [0, 3, 4]
    assert tokens.document_ids().tolist() == [0, 0, 0, 1, 2, 2]


def test_document_counts_agree_with_the_manifest(tokens: Path) -> None:
    for split, entry in json.loads((tokens / "manifest.json").read_text())["splits"].items():
        opened = open_tokens(tokens, split)
        assert len(opened.document_starts()) == entry["documents"] == opened.document_ids()[-1] + 1
        assert not opened.ids.flags.writeable


def test_budgets_are_nested(tokens: Path) -> None:
    train = open_tokens(tokens, "train")
    small, large = budget(train, 100), budget(train, 1000)
    assert np.array_equal(small, large[:100])
    assert np.array_equal(budget(train, train.ids.size), train.ids)


def test_no_budget_holds_a_validation_document(tokens: Path) -> None:
    train, held_out = open_tokens(tokens, "train"), open_tokens(tokens, "validation")
    documents = [
        {piece.tobytes() for piece in np.split(opened.ids, opened.document_starts()[1:])}
        for opened in (train, held_out)
    ]
    assert documents[0].isdisjoint(documents[1])


def test_budgets_are_described(tokens: Path, tmp_path: Path) -> None:
    train = open_tokens(tokens, "train")
    first = int(train.document_starts()[1])
    documents = {10: 1, first: 1, first + 1: 2, train.ids.size: len(train.document_starts())}
    for unique_tokens, touched in documents.items():
        build_budget(tokens, unique_tokens, tmp_path / "budget.json")
        assert json.loads((tmp_path / "budget.json").read_text()) == {
            "unique_tokens": unique_tokens,
            "documents": touched,
            "share": unique_tokens / train.ids.size,
            "sha256": hashlib.sha256(train.ids[:unique_tokens].tobytes()).hexdigest(),
        }


@pytest.mark.parametrize("unique_tokens", [0, -5, 10**9])
def test_impossible_budgets(tokens: Path, tmp_path: Path, unique_tokens: int) -> None:
    size = open_tokens(tokens, "train").ids.size
    with pytest.raises(InputError, match=f"the train split has {size} tokens"):
        build_budget(tokens, unique_tokens, tmp_path / "budget.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens"]


def flip_a_byte(tokens: Path) -> None:
    content = bytearray((tokens / "train.bin").read_bytes())
    content[-2] ^= 1
    (tokens / "train.bin").write_bytes(content)


def cut_short(tokens: Path) -> None:
    (tokens / "train.bin").write_bytes((tokens / "train.bin").read_bytes()[:-2])


def edit(tokens: Path, **changes: object) -> None:
    manifest = json.loads((tokens / "manifest.json").read_text())
    (tokens / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_a_byte, r"train\.bin: its sha256 is not"),
        (cut_short, r"train\.bin: it has \d+ bytes, its manifest says \d+"),
        (lambda tokens: (tokens / "train.bin").unlink(), r"train\.bin: this file is missing"),
        (lambda tokens: (tokens / "manifest.json").unlink(), r"manifest\.json: this file is missing"),
        (lambda tokens: (tokens / "manifest.json").write_text("{"), r"manifest\.json: this file is damaged"),
        (lambda tokens: edit(tokens, format=2), "its format is 2, this version reads 1"),
        (lambda tokens: edit(tokens, vocab_size=258), r"token id \d+ is outside the vocabulary of 258"),
    ],
)
def test_damaged_token_files(tokens: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(tokens)
    with pytest.raises(InputError, match=problem) as caught:
        open_tokens(tokens, "train")
    assert "snakemake" in caught.value.remedy


def test_a_split_that_is_not_there(tokens: Path) -> None:
    with pytest.raises(InputError, match="have train, validation, test only"):
        open_tokens(tokens, "dev")


def test_the_checksum_can_be_left_out(tokens: Path) -> None:
    flip_a_byte(tokens)
    assert open_tokens(tokens, "train", verify=False).ids.size


def test_opening_tokens_imports_numpy_only() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'pydantic', 'pyarrow'}"
    script = f"import sys, sparsedc.corpus.tokens; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

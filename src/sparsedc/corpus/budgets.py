"""Unique-token budgets: nested prefixes of the train split, checked before any training and put on record."""

import hashlib
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from sparsedc.atomic import write_text
from sparsedc.corpus.tokens import budget, open_tokens


@dataclass(frozen=True)
class Budget:
    """One budget of unique tokens.

    Attributes:
        unique_tokens: its length U, in tokens.
        documents: how many documents it touches; the last one may be cut.
        share: of the train split's tokens.
        sha256: of its ids as the token file stores them, in hexadecimal.
    """

    unique_tokens: int
    documents: int
    share: float
    sha256: str


def check_budgets(directory: Path, budgets: list[int]) -> list[Budget]:
    """Describe budgets of a token directory's train split, in ascending order and each once.

    Raises:
        InputError: a budget that the train split cannot fill, or tokens that cannot be opened.
    """
    tokens = open_tokens(directory, "train")
    starts = tokens.document_starts()
    digest, hashed, rows = hashlib.sha256(), 0, []
    for unique_tokens in sorted(set(budgets)):
        ids = budget(tokens, unique_tokens)
        digest.update(np.ascontiguousarray(ids[hashed:]).data)  # nested: each continues the one before
        hashed = unique_tokens
        documents = int(np.searchsorted(starts, unique_tokens))
        rows.append(Budget(unique_tokens, documents, unique_tokens / tokens.ids.size, digest.hexdigest()))
    return rows


def build_budgets(tokens: Path, budgets: list[int], out: Path) -> None:
    """Write `check_budgets` of a token directory as a tab-separated table with one row a budget.

    Raises:
        InputError: as `check_budgets`.
    """
    rows = [
        [field.name for field in fields(Budget)],
        *(map(str, astuple(row)) for row in check_budgets(tokens, budgets)),
    ]
    write_text("".join("\t".join(row) + "\n" for row in rows), out)

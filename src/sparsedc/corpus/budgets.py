"""Unique-token budgets: nested prefixes of the train split, checked before any training and put on record."""

import hashlib
import json
from dataclasses import asdict, dataclass
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


def describe_budget(directory: Path, unique_tokens: int) -> Budget:
    """Describe a budget of a token directory's train split.

    Raises:
        InputError: the train split cannot fill it, or the tokens cannot be opened.
    """
    tokens = open_tokens(directory, "train")
    ids = budget(tokens, unique_tokens)
    documents = int(np.searchsorted(tokens.document_starts(), unique_tokens))
    digest = hashlib.sha256(np.ascontiguousarray(ids).data).hexdigest()
    return Budget(unique_tokens, documents, unique_tokens / tokens.ids.size, digest)


def build_budget(directory: Path, unique_tokens: int, out: Path) -> None:
    """Write `describe_budget` as JSON.

    Raises:
        InputError: as `describe_budget`.
    """
    write_text(json.dumps(asdict(describe_budget(directory, unique_tokens)), indent=1) + "\n", out)

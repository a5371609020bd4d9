"""Token files as the trainer reads them: memory-mapped, checked against their manifest, cut to budgets."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sparsedc.errors import InputError

Split = Literal["train", "validation", "test"]
MANIFEST = "manifest.json"
FORMAT = 1
REMEDY = "Delete it and run snakemake again, which rebuilds it and trains its cells again."


@dataclass(frozen=True, eq=False)
class Tokens:
    """One split of a corpus as token ids.

    Attributes:
        ids: shape (tokens,), uint16 or uint32, memory-mapped and read-only: documents one after the other,
            each with the end-of-document token as its last.
        eod: the end-of-document token's id.
        vocab_size: ids are below this.
        sha256: of the file's bytes, in hexadecimal.
    """

    ids: npt.NDArray[np.unsignedinteger[Any]]
    eod: int
    vocab_size: int
    sha256: str

    def document_starts(self) -> npt.NDArray[np.int64]:
        """Position of each document's first token, shape (documents,), ascending from 0."""
        ends = np.flatnonzero(self.ids == self.eod)
        return np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)

    def document_ids(self) -> npt.NDArray[np.int64]:
        """Index of the document that each token, its end token too, belongs to, shape (tokens,)."""
        is_end = np.equal(self.ids, self.eod)
        documents: npt.NDArray[np.int64] = np.cumsum(is_end, dtype=np.int64) - is_end
        return documents


def read_manifest(directory: Path) -> dict[str, Any]:
    """The content of a token directory's `manifest.json`.

    Raises:
        InputError: it is missing, not readable, or of another format version.
    """
    file = directory / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise InputError("tokens", file, "this file is missing", "Run snakemake, which builds it.") from error
    except ValueError as error:
        raise InputError("tokens", file, f"this file is damaged ({error})", REMEDY) from error
    if manifest.get("format") != FORMAT:
        found = manifest.get("format")
        raise InputError("tokens", file, f"its format is {found}, this version reads {FORMAT}", REMEDY)
    return manifest


def open_tokens(directory: Path, split: str, verify: bool = True) -> Tokens:
    """Open one split of the token directory that `packing.build_tokens` wrote.

    Args:
        directory: holds `manifest.json` and `<split>.bin`.
        split: train, validation or test.
        verify: read the file once to compare its checksum (about a second per gigabyte).

    Raises:
        InputError: the manifest, the split or its file is missing, or the file is not what the manifest says.
    """
    manifest = read_manifest(directory)
    if split not in manifest["splits"]:
        have = ", ".join(manifest["splits"])
        raise InputError("split", split, f"the tokens in {directory} have {have} only", "Name one of these.")
    entry = manifest["splits"][split]
    vocab_size: int = manifest["vocab_size"]
    dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
    file = directory / str(entry["file"])
    if not file.is_file():
        raise InputError("tokens", file, "this file is missing", "Run snakemake, which builds it.")
    size, expected = file.stat().st_size, entry["tokens"] * dtype.itemsize
    if size != expected:
        raise InputError("tokens", file, f"it has {size} bytes, its manifest says {expected}", REMEDY)
    if verify:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != entry["sha256"]:
            raise InputError("tokens", file, "its sha256 is not the one in its manifest", REMEDY)
    ids = np.memmap(file, dtype=dtype, mode="r")
    if (largest := int(ids.max())) >= vocab_size:
        raise InputError("tokens", file, f"token id {largest} is outside the vocabulary of {vocab_size}", REMEDY)
    return Tokens(ids, manifest["eod"], vocab_size, entry["sha256"])


def budget(tokens: Tokens, unique_tokens: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The first `unique_tokens` ids of a split, shape (unique_tokens,): larger budgets contain smaller ones.

    Raises:
        InputError: the split has fewer tokens, or the budget is not positive.
    """
    if not 0 < unique_tokens <= tokens.ids.size:
        raise InputError(
            "unique_tokens",
            unique_tokens,
            f"the train split has {tokens.ids.size} tokens",
            "Choose a budget from 1 to that, or give a larger corpus.",
        )
    return tokens.ids[:unique_tokens]

"""Documents, each once, in splits and in one fixed order: the order of which every budget is a prefix.

One hash of seed and text decides everything about a document: whether it is a copy of another, which split it
falls into, and its place in the order. So none of these depends on file names, file order or machine, and
another seed gives another draw of all.
"""

import hashlib
import json
import mmap
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sparsedc.config import Corpus
from sparsedc.corpus.sources import open_source
from sparsedc.corpus.staging import staged
from sparsedc.corpus.tokens import Split
from sparsedc.errors import InputError

INDEX = "documents.json"
# Of copies in several splits the one in the latest of these is kept: a held-out text must not be trained on.
SPLITS: tuple[Split, ...] = get_args(Split)
UNDECIDED = len(SPLITS)
ROW_GROUP_BYTES = 16 * 2**20  # of text; bounds the memory of writers and readers
SCHEMA = pa.schema([("text", pa.large_string())])


def build_documents(corpus: Corpus, out: Path) -> None:
    """Read a corpus and write one parquet file a split, such as `train.parquet`, and `documents.json`.

    The text passes through a temporary file beside `out`; memory holds under 200 bytes a document.

    Args:
        corpus: the study's corpus section.
        out: the directory to write; `documents.json` in it holds the config, its provenance and all counts.

    Raises:
        InputError: a source that cannot be read, no text in it, or a split without documents.
    """
    source = open_source(corpus)
    with staged(out, INDEX) as stage, tempfile.TemporaryFile(dir=stage) as spool:
        offsets = array("Q", [0])
        keys = bytearray()
        assigned = bytearray()
        read = 0
        salt = f"{corpus.seed}\n".encode()
        for split, text in source.documents():
            read += 1
            if not text or text.isspace():
                continue
            encoded = text.encode()
            spool.write(encoded)
            offsets.append(offsets[-1] + len(encoded))
            keys += hashlib.sha256(salt + encoded).digest()
            assigned.append(UNDECIDED if split is None else SPLITS.index(split))
        if not keys:
            raise InputError(
                "corpus.source",
                corpus.source,
                f"it holds no text ({read} documents, all empty)",
                "Give more text.",
            )
        spool.flush()

        hashes = np.frombuffer(keys, dtype=">u8").reshape(-1, 4)
        splits = np.frombuffer(assigned, dtype=np.uint8)
        splits = np.where(splits == UNDECIDED, _draw_splits(hashes, corpus), splits)
        order, across = _unique_in_order(hashes, splits)
        counts: dict[Split, dict[str, int]] = {}
        for code, split in enumerate(SPLITS):
            rows = order[splits[order] == code]
            if rows.size:
                characters = _write(stage / f"{split}.parquet", spool, np.asarray(offsets), rows)
                counts[split] = {"documents": int(rows.size), "characters": characters}
        _require_splits(corpus, source.splits, counts)
        index = {
            "corpus": corpus.model_dump(mode="json"),
            "provenance": source.provenance,
            "read": read,
            "empty": read - len(hashes),
            "duplicates": len(hashes) - len(order),
            "duplicates_across_splits": across,
            "splits": counts,
        }
        (stage / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def read_index(documents: Path) -> dict[str, Any]:
    """The content of a directory's `documents.json`.

    Raises:
        InputError: the directory holds none.
    """
    try:
        index: dict[str, Any] = json.loads((documents / INDEX).read_text())
    except FileNotFoundError as error:
        raise InputError("documents", documents, f"there is no {INDEX} in it", "Build the documents first.") from error
    return index


def read_texts(documents: Path, split: Split) -> Iterator[list[str]]:
    """The texts of a split in order, some megabytes at a time."""
    with pq.ParquetFile(documents / f"{split}.parquet") as table:
        for group in range(table.num_row_groups):
            yield table.read_row_group(group).column("text").to_pylist()


def _draw_splits(hashes: npt.NDArray[np.uint64], corpus: Corpus) -> npt.NDArray[np.uint8]:
    uniform = hashes[:, 0] / 2.0**64  # the other three words give the order, independent of this one
    held_out = corpus.test_fraction + corpus.validation_fraction
    codes = np.full(len(hashes), SPLITS.index("train"), dtype=np.uint8)
    codes[uniform < held_out] = SPLITS.index("validation")
    codes[uniform < corpus.test_fraction] = SPLITS.index("test")
    return codes


def _unique_in_order(hashes: npt.NDArray[np.uint64], splits: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.intp], int]:
    """Rows to keep, in order, and the number of dropped copies whose kept copy is in another split."""
    preference = len(SPLITS) - splits.astype(np.int64)  # sorts the copy to keep first
    order = np.lexsort((preference, hashes[:, 0], hashes[:, 3], hashes[:, 2], hashes[:, 1]))
    copy = np.zeros(len(order), dtype=bool)
    copy[1:] = (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)
    kept = np.maximum.accumulate(np.where(copy, 0, np.arange(len(order))))  # the kept copy of each
    across = splits[order] != splits[order[kept]]
    return order[~copy], int(across.sum())


def _write(file: Path, spool: IO[bytes], offsets: npt.NDArray[np.uint64], rows: npt.NDArray[np.intp]) -> int:
    """Gather rows from the spool into a parquet file; returns their number of characters."""
    characters = size = 0
    texts: list[str] = []
    with (
        mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as spooled,
        pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False) as writer,
    ):
        for position, row in enumerate(rows, start=1):
            encoded = spooled[offsets[row] : offsets[row + 1]]
            texts.append(encoded.decode())
            characters += len(texts[-1])
            size += len(encoded)
            if size >= ROW_GROUP_BYTES or position == len(rows):
                writer.write_table(pa.table([texts], schema=SCHEMA))
                texts, size = [], 0
    return characters


def _require_splits(corpus: Corpus, given: tuple[Split, ...] | None, counts: dict[Split, dict[str, int]]) -> None:
    drawn: tuple[Split, ...] = ("train", "validation", "test") if corpus.test_fraction else ("train", "validation")
    for split in given or drawn:
        if split in counts:
            continue
        total = sum(count["documents"] for count in counts.values())
        problem = f"the {split} split has no documents (of {total} different ones)"
        if given is not None:
            remedy = "Give it documents of its own: of a text in several splits, only the held-out copy is kept."
            raise InputError("corpus.splits", ", ".join(given), problem, remedy)
        fraction = "test_fraction" if split == "test" else "validation_fraction"
        remedy = "Change the fractions, or give more documents."
        raise InputError(f"corpus.{fraction}", getattr(corpus, fraction), problem, remedy)

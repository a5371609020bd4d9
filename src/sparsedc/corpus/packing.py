"""Packing: a split's documents, each followed by the end-of-document token, as one flat file of token ids.

A flat file is all that training needs: a budget is a prefix of it, a sequence is a slice of it, and the
operating system's page cache is the data loader.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from sparsedc.corpus.documents import read_index, read_texts
from sparsedc.corpus.staging import staged
from sparsedc.corpus.tokenizer import load
from sparsedc.corpus.tokens import FORMAT, MANIFEST, Split
from sparsedc.errors import InputError


def build_tokens(documents: Path, tokenizer: Path, out: Path) -> None:
    """Encode every split of `documents` and write `<split>.bin` for each, and `manifest.json`.

    Ids are little-endian uint16 where the vocabulary allows it, else uint32. Text is encoded as text even
    where it spells a special token, so the end-of-document token marks ends of documents and nothing else.

    Args:
        documents: a directory that `build_documents` wrote.
        tokenizer: a directory that `build_tokenizer` wrote.
        out: the directory to write.

    Raises:
        InputError: documents or tokenizer are missing, or the tokenizer makes its end token out of text.
    """
    index = read_index(documents)
    loaded = load("tokenizer", str(tokenizer))
    vocab_size, eod = len(loaded), int(loaded.eos_token_id)
    dtype = np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")
    backend = loaded.backend_tokenizer
    backend.encode_special_tokens = True  # off, as it reads: "<|endoftext|>" within a text is then text
    backend.no_truncation()
    backend.no_padding()
    with staged(out, MANIFEST) as stage:
        splits = {
            split: counts | _pack(documents, split, backend, eod, dtype, stage / f"{split}.bin")
            for split, counts in index["splits"].items()
        }
        manifest = {
            "format": FORMAT,
            "dtype": dtype.name,
            "vocab_size": vocab_size,
            "eod": eod,
            "tokenizer_sha256": hashlib.sha256((tokenizer / "tokenizer.json").read_bytes()).hexdigest(),
            "splits": splits,
            "documents": {key: value for key, value in index.items() if key != "splits"},
        }
        (stage / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _pack(documents: Path, split: Split, backend: Any, eod: int, dtype: np.dtype[Any], file: Path) -> dict[str, object]:
    digest = hashlib.sha256()
    tokens = 0
    with file.open("wb") as stream:
        for texts in read_texts(documents, split):
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
            ids = np.concatenate([np.asarray([*encoding.ids, eod], dtype=dtype) for encoding in encodings])
            if np.count_nonzero(ids == eod) != len(texts):
                raise InputError(
                    "tokenizer",
                    eod,
                    "this tokenizer's end-of-sequence token also stands for text within documents",
                    "Choose another, or train one.",
                )
            stream.write(ids.data)
            digest.update(ids.data)
            tokens += ids.size
    return {"file": file.name, "tokens": tokens, "sha256": digest.hexdigest()}

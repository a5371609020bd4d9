"""Texts to build small corpora from, and ways to write and read them."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

from sparsedc.corpus.documents import read_texts
from sparsedc.corpus.tokens import Split

WORDS = ["sparse", "dense", "naïve", "Maß", "語彙", "🙂", "<|endoftext|>", "it's", "3.14", "\n\n"]


def prose(count: int) -> list[str]:
    """Different texts of 5 to 60 words."""
    draw = random.Random(0)
    return [" ".join(["document", str(i), *draw.choices(WORDS, k=draw.randint(3, 58))]) for i in range(count)]


def write_jsonl(file: Path, texts: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def texts_of(documents: Path, split: Split) -> list[str]:
    return [text for texts in read_texts(documents, split) for text in texts]

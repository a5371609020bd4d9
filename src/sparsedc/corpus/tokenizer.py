"""The tokenizer: a byte-level BPE trained on the train split, or a pretrained one, in transformers' format.

Byte level with all 256 bytes in the vocabulary: any text of any language survives the round trip, so a small
vocabulary trained on one corpus can still encode its held-out text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from sparsedc.config import Tokenizer
from sparsedc.corpus.documents import read_index, read_texts
from sparsedc.corpus.staging import staged
from sparsedc.errors import InputError

END_OF_DOCUMENT = "<|endoftext|>"
TRAINING_CHARACTERS = 200_000_000
"""Training reads no further, which bounds its time and memory on large corpora."""


def build_tokenizer(config: Tokenizer, documents: Path, out: Path) -> None:
    """Train a tokenizer on the train split of `documents`, or load a pretrained one, and save it to `out`.

    Raises:
        InputError: a vocabulary that the text cannot fill or a pretrained tokenizer exceeds, or what `load` raises.
    """
    from transformers import PreTrainedTokenizerFast  # slow to import

    if config.pretrained is None:
        read_index(documents)
        backend = train(_first_characters(documents, TRAINING_CHARACTERS), config.vocab_size)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_DOCUMENT)
    else:
        tokenizer = load("tokenizer.pretrained", config.pretrained)
        if len(tokenizer) > config.vocab_size:
            raise InputError(
                "tokenizer.vocab_size",
                config.vocab_size,
                f"{config.pretrained} has {len(tokenizer)} tokens",
                f"Set it to {len(tokenizer)} or more; a multiple of 128 suits GPUs.",
            )
    with staged(out, "tokenizer.json") as stage:
        tokenizer.save_pretrained(stage)


def train(texts: Iterator[list[str]], vocab_size: int) -> Backend:
    """A byte-level BPE of exactly `vocab_size` tokens: `END_OF_DOCUMENT`, 256 bytes, and learned merges.

    Raises:
        InputError: the text has too few different words for so many tokens.
    """
    tokenizer = Backend(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    reached = tokenizer.get_vocab_size()
    if reached != vocab_size:
        raise InputError(
            "tokenizer.vocab_size",
            vocab_size,
            f"the train split has text for {reached} tokens only",
            f"Set it to {reached} or less, or give more text.",
        )
    return tokenizer


def load(field: str, name: str) -> Any:
    """A transformers tokenizer, from a directory or the hub, that can mark ends of documents.

    Args:
        field: what to call `name` in errors.
        name: a directory that `build_tokenizer` wrote, or whatever `AutoTokenizer.from_pretrained` accepts.

    Raises:
        InputError: it is not found, has no end-of-sequence token, or is not one of the `tokenizers` library.
    """
    from transformers import AutoTokenizer  # slow to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            field,
            name,
            f"this tokenizer cannot be loaded ({str(error).splitlines()[0]})",
            "Check its name on huggingface.co, the network, and HF_TOKEN if it is gated.",
        ) from error
    if tokenizer.eos_token_id is None:
        raise InputError(
            field, name, "this tokenizer has no end-of-sequence token", "Choose one that has, or train one."
        )
    if not tokenizer.is_fast:
        raise InputError(
            field,
            name,
            "this tokenizer is not one of the tokenizers library",
            "Choose one with a tokenizer.json.",
        )
    return tokenizer


def _first_characters(documents: Path, limit: int) -> Iterator[list[str]]:
    for texts in read_texts(documents, "train"):
        yield texts
        limit -= sum(map(len, texts))
        if limit <= 0:
            return

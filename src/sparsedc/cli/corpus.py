"""`sparsedc corpus …`: the steps from text to budgets, each of which the workflow calls with its files."""

from pathlib import Path
from typing import Annotated

import typer

from sparsedc.cli.options import StudyFile

app = typer.Typer(no_args_is_help=True, help="The workflow's steps from text to tokens to unique-token budgets.")

Documents = Annotated[Path, typer.Option(help="The folder that `corpus documents` wrote.")]


@app.command()
def documents(
    config: StudyFile,
    out: Annotated[Path, typer.Option(help="Folder for the documents of each split.", file_okay=False)],
) -> None:
    """Read a study's text: drop duplicates, split by document hash, fix the order."""
    from sparsedc.corpus.documents import build_documents
    from sparsedc.study import load_data

    build_documents(load_data(config).corpus, out)


@app.command()
def tokenizer(
    config: StudyFile,
    documents: Documents,
    out: Annotated[Path, typer.Option(help="Folder for the tokenizer, as transformers loads it.", file_okay=False)],
) -> None:
    """Train or load a study's tokenizer."""
    from sparsedc.corpus.tokenizer import build_tokenizer
    from sparsedc.study import load_data

    build_tokenizer(load_data(config).tokenizer, documents, out)


@app.command()
def tokens(
    documents: Documents,
    tokenizer: Annotated[Path, typer.Option(help="The folder that `corpus tokenizer` wrote.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the token files, and manifest.json with their checksums.", file_okay=False)
    ],
) -> None:
    """Encode the documents into one flat token file a split."""
    from sparsedc.corpus.packing import build_tokens

    build_tokens(documents, tokenizer, out)


@app.command()
def budget(
    tokens: Annotated[Path, typer.Option(help="The folder that `corpus tokens` wrote.")],
    unique_tokens: Annotated[
        str, typer.Option(help="U: the budget is the first U tokens of the train split, such as 64k.")
    ],
    out: Annotated[Path, typer.Option(help="The JSON file to write.", dir_okay=False)],
) -> None:
    """Describe a unique-token budget, if the corpus can fill it: its documents, its share, its checksum."""
    from sparsedc.corpus.budgets import build_budget
    from sparsedc.numbers import read_count

    build_budget(tokens, read_count("unique-tokens", unique_tokens), out)

"""`sparsedc plan`: what a law says to train on a corpus."""

import json
from typing import Annotated

import typer

from sparsedc.cli.options import LAW, Json


def plan(
    unique_tokens: Annotated[str, typer.Option(help="U: how much text there is, in tokens, such as 300M.")],
    flops: Annotated[str, typer.Option(help="Compute for the one training run, such as 1e20.")],
    law: Annotated[str, typer.Option(help=LAW)] = "published",
    max_params: Annotated[str | None, typer.Option(help="Largest dense-equivalent size, such as 8B.")] = None,
    sparsity_is_free: Annotated[
        bool,
        typer.Option("--sparsity-is-free/--dense-hardware", help="Whether zeros cost nothing, or as much as weights."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what to train on a corpus: how large a model, how sparse, over how many epochs."""
    from sparsedc.law.published import load_law
    from sparsedc.numbers import read_number
    from sparsedc.plan import make_plan

    answer = make_plan(
        load_law(law),
        read_number("unique-tokens", unique_tokens),
        read_number("flops", flops),
        max_params=None if max_params is None else read_number("max-params", max_params),
        sparsity_is_free=sparsity_is_free,
    )
    print(json.dumps(answer.to_dict(), indent=2, ensure_ascii=False) if as_json else answer.text())

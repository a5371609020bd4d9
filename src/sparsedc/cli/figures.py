"""`sparsedc figure` and `sparsedc summary`: what is drawn and told of a runs table and a law."""

from pathlib import Path
from typing import Annotated

import typer

from sparsedc.figures import FIGURES


def figure(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(FIGURES)}.")],
    runs: Annotated[
        Path,
        typer.Option(
            help="A runs table; contrasts, topology and stability are drawn from the table of that name beside it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The figure to write: a path without suffix; .svg and .png are added.")],
    law: Annotated[
        Path | None,
        typer.Option(help="The folder that `law compare` wrote; those three need none."),
    ] = None,
    unique_tokens: Annotated[
        list[str] | None, typer.Option(help="A budget to ask the law about; repeat for several. Default: the cells'.")
    ] = None,
) -> None:
    """Draw one figure."""
    from sparsedc.figures import get_figure
    from sparsedc.numbers import read_number

    get_figure(name)(runs, law, out, [read_number("unique-tokens", each) for each in unique_tokens or ()])


def summary(
    runs: Annotated[Path, typer.Option(help="A runs table.")],
    law: Annotated[Path, typer.Option(help="The folder that `law compare` wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.", dir_okay=False)],
) -> None:
    """Sum a study up in one table, in plain words."""
    from sparsedc.atomic import write_text
    from sparsedc.figures.summary import summary_table
    from sparsedc.law.table import read_table

    write_text(summary_table(read_table(runs), law), out)

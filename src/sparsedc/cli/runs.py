"""`sparsedc runs …`: to write a runs table, and to ask it what needs no law."""

from pathlib import Path
from typing import Annotated

import typer

from sparsedc.cli.options import Columns, Table
from sparsedc.errors import InputError

app = typer.Typer(
    no_args_is_help=True, help="Runs tables, one row a cell: collect and merge them, compare sparse with dense."
)


@app.command()
def collect(
    cells: Annotated[Path, typer.Argument(help="A study's cells.tsv; its cells lie in the folder cells beside it.")],
    out: Annotated[Path, typer.Argument(help="The runs table to write.", dir_okay=False)],
    so_far: Annotated[bool, typer.Option("--so-far", help="Leave out cells that have no metrics yet.")] = False,
) -> None:
    """Collect the metrics of a study's cells into its runs table, and topology.csv and stability.csv beside it."""
    from sparsedc.collect import collect_runs

    collect_runs(cells, out, so_far=so_far)


@app.command()
def merge(
    tables: Annotated[
        list[Path], typer.Argument(help="Runs tables; of a cell that stands in several, the first counts.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The runs table to write; the merged topology.csv and stability.csv go beside it.", dir_okay=False
        ),
    ],
) -> None:
    """Merge runs tables by cell, and topology.csv and stability.csv that lie beside them."""
    from sparsedc.collect import merge_runs

    merge_runs(tables, out)


@app.command()
def contrast(
    table: Table,
    out: Annotated[
        Path | None, typer.Option(help="The table of contrasts to write; optima.csv goes beside it.", dir_okay=False)
    ] = None,
    columns: Columns = None,
    noise_of: Annotated[
        Path | None, typer.Option(help="Another runs table whose seeds say what is noise, for one with single seeds.")
    ] = None,
) -> None:
    """Tell who wins, sparse or dense, beyond the noise or not, and at which density loss is lowest: of runs, no law."""
    from sparsedc import contrasts, optima
    from sparsedc import noise as of_seeds
    from sparsedc.law.options import parse_columns
    from sparsedc.law.table import read_table

    runs = read_table(table, parse_columns(columns) if columns else None)
    noise = of_seeds.noise_of(runs if noise_of is None else read_table(noise_of))
    if noise_of is not None and noise is None:
        raise InputError("noise-of", noise_of, of_seeds.NO_NOISE, "Name a table with several seeds of a cell.")
    found, best = contrasts.contrasts(runs, noise), optima.optima(runs, noise)
    if out:
        contrasts.write_contrasts(found, out)
        optima.write_optima(best, out.with_name("optima.csv"))
    print("\n\n".join(text for text in (contrasts.render(found, noise), optima.render(best)) if text))

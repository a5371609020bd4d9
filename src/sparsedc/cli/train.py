"""`sparsedc train`: one cell, in this process or in a child of the run's warm server."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    spec: Annotated[Path, typer.Argument(help="A cell's spec file, as `study specs` writes it.")],
    metrics: Annotated[Path, typer.Argument(help="The metrics file to write, such as metrics.json.", dir_okay=False)],
    model: Annotated[
        Path | None, typer.Argument(help="The folder to keep the model in, if it is to be kept.", file_okay=False)
    ] = None,
    tokens: Annotated[Path | None, typer.Option(help="Folder of tokens. Default: the study's own.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints. Default: the study's own.", file_okay=False)
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1. Default: a GPU if there is one.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, of all ranks of a machine together.")] = 1,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that train it together, each on a GPU of its own.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of a Slurm job with so many ranks each.")] = 1,
    gpu_mb: Annotated[
        int,
        typer.Option(
            min=0, help="GPU memory that it will take, in MB: cells of one Snakemake run share a GPU while theirs fits."
        ),
    ] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="PyTorch's deterministic algorithms on a GPU, too; slower.")
    ] = False,
) -> None:
    """Train one cell and measure its held-out loss."""
    from sparsedc.train.warm import run_warm

    status = run_warm(sys.argv[1:])
    if status is not None:
        sys.exit(status)
    if "torch" not in sys.modules:  # what is no spec is refused before the seconds in which it is imported
        from sparsedc.spec import read_spec

        read_spec(spec)
    from sparsedc.train.cell import run_cell

    run_cell(
        spec, metrics, model,
        tokens=tokens, work=work, device=device, threads=threads, nodes=nodes, ranks=ranks,
        deterministic=deterministic,
    )  # fmt: skip

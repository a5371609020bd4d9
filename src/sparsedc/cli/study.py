"""`sparsedc study …`: what a study file says, where its cells stand, and what no longer belongs to it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsedc.cli.options import Json, StudyFile
from sparsedc.cli.stderr import tell
from sparsedc.errors import InputError

if TYPE_CHECKING:
    from sparsedc.study import Study

app = typer.Typer(no_args_is_help=True, help="A study: its cells, what they will cost and where they stand.")


@app.command()
def check(
    config: StudyFile,
    runs: Annotated[
        Path | None, typer.Option(help="A runs table, to be compared with the specs of its cells; needs no text.")
    ] = None,
) -> None:
    """Validate a study file and every cell in it, without running anything; or a runs table against it."""
    from sparsedc.audit import audit
    from sparsedc.corpus.sources import watched_files
    from sparsedc.runs import read_runs

    study = _load(config)
    if study.config.law.published:  # its table comes from constants, and is no input
        print(f"{config}: the published law, no cells")
        return
    roles = [cell.role for cell in study.cells.values()]
    if runs is None:
        watched_files(study.config.corpus)  # raises where a folder is not there
        print(f"{config}: {len(roles)} cells ({roles.count('fit')} fit, {roles.count('extrapolation')} extrapolation)")
        return
    found = audit(study, read_runs(runs))
    print(f"{runs}: {found.done} of {len(roles)} cells, each as its spec says; {found.diverged} diverged")
    if found.missing:
        first, *others = found.missing
        tell(f"no row: {first}" + (f" and {len(others)} other cells" if others else ""))


@app.command()
def show(
    config: StudyFile,
    tflops: Annotated[
        float | None,
        typer.Option(help="What a device sustains, in place of the file's: MFU × its peak, such as 0.4 × 989 TFLOP/s."),
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="A runs table: hours by what its finished cells have sustained, size by size.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List a study's cells with parameters, tokens and FLOPs, and what they will cost: hours, memory and disk."""
    from sparsedc import speed
    from sparsedc.listing import listing, render

    if tflops is not None and measured is not None:
        raise InputError("tflops", tflops, "--measured says it already", "Give one of the two.")
    study = _load(config)
    known = speed.stated(study.config.sustained_tflops if tflops is None else tflops)
    if measured is not None:
        known = speed.measured(measured)
    table = listing(study, known)
    print(table.to_json(orient="records", double_precision=15) if as_json else render(table, known))


@app.command()
def status(config: StudyFile, as_json: Json = False) -> None:
    """Tell where each cell stands: done, diverged, running, waiting, failed or stale, and why."""
    from dataclasses import asdict

    from sparsedc.prune import leftovers
    from sparsedc.status import render, standings

    study = _load(config)
    folder = Path("results") / study.name
    found = standings(study, folder)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return
    print(render(found))
    if others := len(leftovers(study, folder)):
        print(f"{others} files and folders of other cells or tokens; `sparsedc study prune {config}` lists them")


@app.command()
def prune(
    config: StudyFile, yes: Annotated[bool, typer.Option("--yes", help="Remove them without asking.")] = False
) -> None:
    """List what is left of cells and tokens that the study no longer has, and remove it on consent."""
    from sparsedc.prune import check_idle, leftovers, remove, size

    study = _load(config)
    folder = Path("results") / study.name
    check_idle(study, folder)
    found = leftovers(study, folder)
    sizes = [size(path) for path in found]
    for path, bytes_ in zip(found, sizes, strict=True):
        print(f"{bytes_ / 1e6:12,.1f} MB  {path}")
    print(f"{len(found)} files and folders, {sum(sizes) / 1e6:,.1f} MB, are not of {config}")
    if found and (yes or typer.confirm("Remove them?")):
        check_idle(study, folder)  # again, after a while
        for path in found:
            remove(path)


@app.command()
def results(config: StudyFile) -> None:
    """Print the folder of a study's results."""
    print(f"results/{_load(config).name}")


@app.command()
def index(
    config: StudyFile,
    out: Annotated[Path, typer.Argument(help="The table to write, such as cells.tsv.", dir_okay=False)],
) -> None:
    """Write the list of a study's cells as a tab-separated table."""
    from sparsedc.atomic import write_text
    from sparsedc.listing import listing
    from sparsedc.speed import stated

    study = _load(config)
    write_text(listing(study, stated(study.config.sustained_tflops)).to_csv(sep="\t", index=False), out)


@app.command()
def specs(
    config: StudyFile,
    out: Annotated[Path, typer.Option(help="Folder for the specs, such as results/mine/specs.", file_okay=False)],
) -> None:
    """Write every cell's spec file, as the workflow does, for training without it."""
    from sparsedc.atomic import write_text
    from sparsedc.spec import canonical_json

    study = _load(config)
    for cell in study.cells.values():
        write_text(canonical_json(cell.spec.content()) + "\n", out / f"{cell.id}.json")
    print(f"{len(study.cells)} specs in {out}")


def _load(config: Path) -> "Study":
    from sparsedc.study import load_study

    return load_study(config)

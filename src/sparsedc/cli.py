"""The command line: `sparsedc …`, which the workflow's rules call and a user may call as well.

Commands import what they need when they run, so that none waits for a library of another. Bad input ends with
one message and exit status 2.
"""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from sparsedc.errors import InputError, SparsedcWarning

if TYPE_CHECKING:
    from sparsedc.study import Study

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="How to spend a fixed corpus: how large a language model, how sparse, over how many passes.",
)  # fmt: skip
study_app = typer.Typer(no_args_is_help=True, help="What a study file says: its cells, and what they will cost.")
corpus_app = typer.Typer(no_args_is_help=True, help="From text to tokens to unique-token budgets.")
runs_app = typer.Typer(no_args_is_help=True, help="The runs table: one row a cell.")
law_app = typer.Typer(no_args_is_help=True, help="Scaling laws from a runs table.")
app.add_typer(study_app, name="study")
app.add_typer(corpus_app, name="corpus")
app.add_typer(runs_app, name="runs")
app.add_typer(law_app, name="law")

StudyFile = Annotated[Path, typer.Argument(help="A study file, such as config.yaml.")]
Out = Annotated[Path, typer.Option(help="Where to write.")]


def main() -> None:
    """Run the command line; exit status 2 for an input that cannot be used."""
    warnings.showwarning = _show_warning
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say our own warnings in one line, and leave out those that libraries mean for developers."""
    if issubclass(category, SparsedcWarning):
        print(f"warning: {message}", file=sys.stderr)


@study_app.command()
def check(config: StudyFile) -> None:
    """Validate a study file and every cell in it, without running anything."""
    from sparsedc.corpus.sources import watched_files

    study = _load(config)
    watched_files(study.config.corpus)  # raises where a folder is not there
    roles = [cell.role for cell in study.cells.values()]
    print(f"{config}: {len(roles)} cells ({roles.count('fit')} fit, {roles.count('extrapolation')} extrapolation)")


@study_app.command()
def show(
    config: StudyFile,
    tflops: Annotated[float | None, typer.Option(help="Sustained TFLOP/s of a device, in place of the file's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List a study's cells with parameters, tokens, FLOPs and estimated hours."""
    from sparsedc.listing import listing, render

    study = _load(config)
    table = listing(study, tflops or study.config.sustained_tflops)
    print(table.to_json(orient="records", double_precision=15) if as_json else render(table))


@study_app.command()
def results(config: StudyFile) -> None:
    """Print the folder of a study's results."""
    print(f"results/{_load(config).name}")


@study_app.command()
def index(config: StudyFile, out: Annotated[Path, typer.Argument(help="The table to write.")]) -> None:
    """Write the list of a study's cells as a tab-separated table."""
    from sparsedc.atomic import write_text
    from sparsedc.listing import listing

    study = _load(config)
    write_text(listing(study, study.config.sustained_tflops).to_csv(sep="\t", index=False), out)


@study_app.command()
def specs(config: StudyFile, out: Out) -> None:
    """Write every cell's spec file, as the workflow does, for training without it."""
    from sparsedc.atomic import write_text
    from sparsedc.spec import canonical_json

    study = _load(config)
    for cell in study.cells.values():
        write_text(canonical_json(cell.spec.content()) + "\n", out / f"{cell.id}.json")
    print(f"{len(study.cells)} specs in {out}")


@corpus_app.command()
def documents(config: StudyFile, out: Out) -> None:
    """Read a study's text: drop duplicates, split by document hash, fix the order."""
    from sparsedc.corpus.documents import build_documents
    from sparsedc.study import load_data

    build_documents(load_data(config).corpus, out)


@corpus_app.command()
def tokenizer(config: StudyFile, documents: Annotated[Path, typer.Option()], out: Out) -> None:
    """Train or load a study's tokenizer."""
    from sparsedc.corpus.tokenizer import build_tokenizer
    from sparsedc.study import load_data

    build_tokenizer(load_data(config).tokenizer, documents, out)


@corpus_app.command()
def tokens(documents: Annotated[Path, typer.Option()], tokenizer: Annotated[Path, typer.Option()], out: Out) -> None:
    """Encode the documents into one flat token file a split."""
    from sparsedc.corpus.packing import build_tokens

    build_tokens(documents, tokenizer, out)


@corpus_app.command()
def budget(
    tokens: Annotated[Path, typer.Option()],
    unique_tokens: Annotated[int, typer.Option(min=1, help="U: the budget is the first U tokens of the train split.")],
    out: Out,
) -> None:
    """Describe a unique-token budget, if the corpus can fill it: its documents, its share, its checksum."""
    from sparsedc.corpus.budgets import build_budget

    build_budget(tokens, unique_tokens, out)


@app.command()
def train(
    spec: Annotated[Path, typer.Argument(help="A cell's spec file.")],
    out: Annotated[Path, typer.Option(help="Folder for metrics.json.")],
    tokens: Annotated[Path | None, typer.Option(help="Token folder; by default the study's own.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for checkpoints; by default the study's own.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; by default a GPU if there is one.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train and evaluate one cell."""
    from sparsedc.train.warm import run_warm

    status = run_warm(sys.argv[1:])
    if status is not None:
        sys.exit(status)
    from sparsedc.train.cell import run_cell

    run_cell(spec, out, tokens, work, device, threads)


@runs_app.command()
def collect(
    cells: Annotated[Path, typer.Argument(help="A study's cells.tsv; its cells lie in the folder cells beside it.")],
    out: Annotated[Path, typer.Argument(help="The runs table to write.")],
) -> None:
    """Collect the metrics of a study's cells into its runs table."""
    from sparsedc.collect import collect_runs

    collect_runs(cells, out)


@runs_app.command()
def merge(
    tables: Annotated[
        list[Path], typer.Argument(help="Runs tables; of a cell that stands in several, the first counts.")
    ],
    out: Out,
) -> None:
    """Merge runs tables by cell."""
    from sparsedc.collect import merge_runs

    merge_runs(tables, out)


@law_app.command()
def fit(
    runs: Annotated[Path, typer.Argument(help="A runs table.")],
    out: Out,
    form: Annotated[list[str] | None, typer.Option(help="A form of the law; repeat for several. Default: all.")] = None,
    params: Annotated[str, typer.Option(help="Which parameters N counts: body, active or paper.")] = "body",
    delta: Annotated[float, typer.Option(help="Huber threshold of log-loss residuals.")] = 1e-3,
) -> None:
    """Fit laws to a runs table, choose one by AICc, and validate it on the extrapolation cells."""
    from sparsedc.law.forms import FORMS
    from sparsedc.law.select import fit_laws

    fit_laws(runs, out, form or list(FORMS), params, delta)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="Such as isoloss.")],
    runs: Annotated[Path, typer.Option(help="A runs table.")],
    law: Annotated[Path, typer.Option(help="The folder that `law fit` wrote.")],
    out: Annotated[Path, typer.Option(help="Path without suffix; .svg and .png are added.")],
) -> None:
    """Draw one figure."""
    from sparsedc.figures import get_figure

    get_figure(name)(runs, law, out)


@app.command()
def summary(
    runs: Annotated[Path, typer.Option(help="A runs table.")],
    law: Annotated[Path, typer.Option(help="The folder that `law fit` wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
) -> None:
    """Sum a study up in one table, in plain words."""
    from sparsedc.atomic import write_text
    from sparsedc.figures.summary import summary_table
    from sparsedc.runs import read_runs

    write_text(summary_table(read_runs(runs), law), out)


def _load(config: Path) -> "Study":
    from sparsedc.study import load_study

    return load_study(config)


if __name__ == "__main__":
    main()

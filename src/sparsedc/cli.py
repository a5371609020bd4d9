"""The command line: `sparsedc …`, which the workflow's rules call and a user may call as well.

Commands import what they need when they run, so that none waits for a library of another. Bad input ends with
one message and exit status 2.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from sparsedc.driver import end_with_driver
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
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
Table = Annotated[Path, typer.Argument(help="A runs table, or any CSV with one row a run.")]
Columns = Annotated[
    str | None, typer.Option(help="Our column=the file's, such as params_active=N,tokens=D,val_loss=loss.")
]
Params = Annotated[
    str | None, typer.Option(help="Which parameters N counts: body, active, paper or average; see docs/law.md.")
]
Delta = Annotated[str, typer.Option(help="Huber threshold of residuals.")]
Bootstrap = Annotated[int, typer.Option(help="Refits to resampled runs, for intervals; 1000 are usual.")]
LawFile = Annotated[str, typer.Argument(help="`published`, or a fit's JSON file.")]


def main() -> None:
    """Run the command line; exit status 2 for an input that cannot be used."""
    warnings.showwarning = _show_warning
    end_with_driver()
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
    roles = [cell.role for cell in study.cells.values()]
    if runs is None:
        watched_files(study.config.corpus)  # raises where a folder is not there
        print(f"{config}: {len(roles)} cells ({roles.count('fit')} fit, {roles.count('extrapolation')} extrapolation)")
        return
    found = audit(study, read_runs(runs))
    print(f"{runs}: {found.done} of {len(roles)} cells, each as its spec says; {found.diverged} diverged")
    if found.missing:
        first, *others = found.missing
        _tell(f"no row: {first}" + (f" and {len(others)} other cells" if others else ""))


@study_app.command()
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


@study_app.command()
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


@study_app.command()
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


@study_app.command()
def results(config: StudyFile) -> None:
    """Print the folder of a study's results."""
    print(f"results/{_load(config).name}")


@study_app.command()
def index(config: StudyFile, out: Annotated[Path, typer.Argument(help="The table to write.")]) -> None:
    """Write the list of a study's cells as a tab-separated table."""
    from sparsedc.atomic import write_text
    from sparsedc.listing import listing
    from sparsedc.speed import stated

    study = _load(config)
    write_text(listing(study, stated(study.config.sustained_tflops)).to_csv(sep="\t", index=False), out)


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
    unique_tokens: Annotated[str, typer.Option(help="U: the budget is the first U tokens of the train split.")],
    out: Out,
) -> None:
    """Describe a unique-token budget, if the corpus can fill it: its documents, its share, its checksum."""
    from sparsedc.corpus.budgets import build_budget
    from sparsedc.numbers import read_count

    build_budget(tokens, read_count("unique-tokens", unique_tokens), out)


@app.command()
def train(
    spec: Annotated[Path, typer.Argument(help="A cell's spec file.")],
    metrics: Annotated[Path, typer.Argument(help="The metrics file to write, such as metrics.json.")],
    model: Annotated[Path | None, typer.Argument(help="The folder to keep the model in, if it is to be kept.")] = None,
    tokens: Annotated[Path | None, typer.Option(help="Token folder; by default the study's own.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for checkpoints; by default the study's own.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; by default a GPU if there is one.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, of all ranks of a machine together.")] = 1,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that train it together, each on a GPU of its own.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of a Slurm job with so many ranks each.")] = 1,
    gpu_mb: Annotated[
        int, typer.Option(min=0, help="GPU memory that it will take: cells of one run share a GPU while theirs fits.")
    ] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="PyTorch's deterministic algorithms on a GPU, too; slower.")
    ] = False,
) -> None:
    """Train and evaluate one cell."""
    from sparsedc.train.warm import run_warm

    status = run_warm(sys.argv[1:])
    if status is not None:
        sys.exit(status)
    from sparsedc.train.cell import run_cell

    run_cell(
        spec, metrics, model,
        tokens=tokens, work=work, device=device, threads=threads, nodes=nodes, ranks=ranks,
        deterministic=deterministic,
    )  # fmt: skip


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="The folder of a kept model.")],
    tasks: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness, such as piqa,hellaswag.")],
    include_path: Annotated[Path | None, typer.Option(help="A folder of task files of your own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Examples a task; by default all.")] = None,
    out: Annotated[Path | None, typer.Option(help="The JSON file to write.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; by default a GPU if there is one.")] = None,
) -> None:
    """Evaluate a kept model on downstream tasks."""
    from sparsedc.harness import evaluate_tasks, render, save

    names = [name for name in map(str.strip, tasks.split(",")) if name]
    if not names:
        raise InputError("tasks", tasks, "names none", "Name some, separated by commas.")
    scores = evaluate_tasks(model, names, include_path, limit, device)
    if out:
        save(scores, model, limit, out)
    print(render(scores))


@runs_app.command()
def collect(
    cells: Annotated[Path, typer.Argument(help="A study's cells.tsv; its cells lie in the folder cells beside it.")],
    out: Annotated[Path, typer.Argument(help="The runs table to write.")],
    so_far: Annotated[bool, typer.Option("--so-far", help="Leave out cells that have no metrics yet.")] = False,
) -> None:
    """Collect the metrics of a study's cells into its runs table, and topology.csv and stability.csv beside it."""
    from sparsedc.collect import collect_runs

    collect_runs(cells, out, so_far=so_far)


@runs_app.command()
def merge(
    tables: Annotated[
        list[Path], typer.Argument(help="Runs tables; of a cell that stands in several, the first counts.")
    ],
    out: Out,
) -> None:
    """Merge runs tables by cell, and topology.csv and stability.csv that lie beside them."""
    from sparsedc.collect import merge_runs

    merge_runs(tables, out)


@runs_app.command()
def contrast(
    table: Table,
    out: Annotated[
        Path | None, typer.Option(help="The table of contrasts to write; optima.csv goes beside it.")
    ] = None,
    columns: Columns = None,
    noise_of: Annotated[
        Path | None, typer.Option(help="Another runs table whose seeds say what is noise, for one with single seeds.")
    ] = None,
) -> None:
    """Tell who wins, sparse or dense, by how much, and whether it is beyond the noise: of the runs alone, no law."""
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


@law_app.command()
def fit(
    table: Table,
    form: Annotated[str, typer.Option(help="A form of the law, such as chinchilla or sparse:untied; see docs/law.md.")],
    columns: Columns = None,
    params: Params = None,
    likelihood: Annotated[str, typer.Option(help="How residuals are weighed: huber, gaussian or student.")] = "huber",
    delta: Delta = "1e-3",
    residuals: Annotated[str, typer.Option(help="Of what: log, of ln loss, or loss.")] = "log",
    starts: Annotated[
        int | None,
        typer.Option(help="Searches, spread over the parameters' ranges. Default: 4 a parameter."),
    ] = None,
    fix: Annotated[str | None, typer.Option(help="Parameters held at a value: NAME=VALUE,...")] = None,
    bootstrap: Bootstrap = 0,
    profile: Annotated[
        str | None, typer.Option(help="Quantities to profile, such as R_D_star,beta-alpha,R_D_star(s=0.5).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of starts and resampling.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The fit to write, as JSON.")] = None,
) -> None:
    """Fit one form of the law to a table of runs, ours or any CSV."""
    from dataclasses import replace

    from sparsedc.law.bootstrap import bootstrap as resample
    from sparsedc.law.fit import finished, fit_finished
    from sparsedc.law.options import parse_columns, parse_likelihood, parse_values
    from sparsedc.law.profile import profile as profile_of
    from sparsedc.law.render import render_fit
    from sparsedc.law.select import warn_of_mixtures
    from sparsedc.law.table import read_table

    how = parse_likelihood(likelihood, delta, residuals)
    fixed = parse_values(fix) if fix else None
    runs = read_table(table, parse_columns(columns) if columns else None)
    kept = finished(runs, "fit")
    warn_of_mixtures(kept)
    law = fit_finished(
        kept,
        form,
        params=params,
        likelihood=how,
        starts=starts,
        seed=seed,
        fixed=fixed,
        n_left_out=int((runs["role"] == "fit").sum()) - len(kept),
    )
    profiles = {}
    quantities = [quantity.strip() for quantity in profile.split(",")] if profile else []
    if quantities and law.status == "not identifiable":
        _tell("no profiles: the runs do not identify the law")
        quantities = []
    for quantity in quantities:  # before the bootstrap, which no misspelling should waste
        _tell(f"profiling {quantity}")
        profiles[quantity] = profile_of(kept, law, quantity).to_dict()
    if bootstrap and law.status == "not identifiable":
        _tell("no bootstrap: the runs do not identify the law")
    elif bootstrap:
        _tell(f"refitting to {bootstrap} resamplings")
        law = resample(kept, law, n=bootstrap, seed=seed)
    law = replace(law, profiles=profiles or None)
    if out:
        law.save(out)
    print(render_fit(law))


@law_app.command()
def compare(
    table: Table,
    form: Annotated[
        list[str] | None, typer.Option(help="A form of the law; repeat for several. Default: seven of them.")
    ] = None,
    columns: Columns = None,
    params: Params = None,
    delta: Delta = "1e-3",
    bootstrap: Bootstrap = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of starts and resampling.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for law.json, the chosen fit, and what it rests on.")] = None,
) -> None:
    """Fit several forms, choose one by AICc, and test all on runs that they were not fitted to."""
    from sparsedc.law.forms import COMPARED
    from sparsedc.law.options import parse_columns, parse_likelihood
    from sparsedc.law.render import render_comparison
    from sparsedc.law.select import save_selection, select_law
    from sparsedc.law.table import read_table

    likelihood = parse_likelihood("huber", delta)
    runs = read_table(table, parse_columns(columns) if columns else None)
    selection = select_law(
        runs,
        form or list(COMPARED),
        params=params,
        likelihood=likelihood,
        seed=seed,
        draws=bootstrap,
        tell=_tell,
    )
    if out:
        save_selection(selection, runs, out)
    print(render_comparison(selection))


@law_app.command()
def predict(
    law: LawFile,
    params_active: Annotated[str, typer.Option(help="N, counted as the law counts it.")],
    unique_tokens: Annotated[str, typer.Option(help="U.")],
    tokens: Annotated[str | None, typer.Option(help="D. Default: one epoch.")] = None,
    epochs: Annotated[str | None, typer.Option(help="In place of --tokens.")] = None,
    density: Annotated[str, typer.Option(help="Share of the maskable weights that are not zero.")] = "1",
    as_json: Json = False,
) -> None:
    """Print the held-out loss that a law predicts for one run, in nats per token."""
    from sparsedc.law.published import load_law
    from sparsedc.numbers import read_number

    N, U = read_number("params-active", params_active), read_number("unique-tokens", unique_tokens)
    if tokens is not None and epochs is not None:
        raise InputError("epochs", epochs, "--tokens says it already", "Give one of the two.")
    D = U * read_number("epochs", epochs) if epochs is not None else read_number("tokens", tokens or unique_tokens)
    s = read_number("density", density, most=1.0)
    fitted = load_law(law)
    if not fitted.usable:
        remedy = "Add the runs that are missing, or fit a simpler form."
        raise InputError("law", law, f"is {fitted.status}: {'; '.join(fitted.reasons)}", remedy)
    loss = float(fitted.predict(N, U, D, s)[0])
    notes = fitted.outside(N, U, D, s)
    if fitted.status not in ("ok", "published"):
        notes.append(f"the law is {fitted.status}: {'; '.join(fitted.reasons)}")
    for note in notes:
        warnings.warn(note, SparsedcWarning, stacklevel=1)
    if not as_json:
        print(f"{loss:.6f}")
        return
    interval = [float(end) for end in fitted.run_interval(N, U, D, s)[0]]
    answer = {
        "loss": loss,
        "interval": interval if fitted.noise == fitted.noise else None,
        "interval_of": "a run; the law's own uncertainty is left out" if fitted.draws is None else "a run",
        "level": 0.95,
        "law": law,
        "form": fitted.form,
        "status": fitted.status,
        "params": fitted.params,
        "params_active": N,
        "unique_tokens": U,
        "tokens": D,
        "density": s,
        "warnings": notes,
    }
    print(json.dumps(answer, indent=2, ensure_ascii=False))


@law_app.command()
def published(
    runs: Annotated[Path, typer.Option(help="The table of its validation runs to write.")],
    out: Annotated[Path, typer.Option(help="Folder for law.json and what goes with it.")],
) -> None:
    """Write the law of the paper as a study's law, with the runs that its authors tested it on."""
    from sparsedc.atomic import whole
    from sparsedc.law.render import render_comparison
    from sparsedc.law.select import published_study, save_selection

    selection, table = published_study()
    with whole(runs) as partial:
        table.to_csv(partial, index=False)
    save_selection(selection, table, out)
    print(render_comparison(selection))


@app.command()
def plan(
    unique_tokens: Annotated[str, typer.Option(help="U: how much text there is, in tokens, such as 300M.")],
    flops: Annotated[str, typer.Option(help="Compute for the one training run, such as 1e20.")],
    law: Annotated[str, typer.Option(help="`published`, or a fit's JSON file.")] = "published",
    max_params: Annotated[str | None, typer.Option(help="Largest dense-equivalent size.")] = None,
    sparsity_is_free: Annotated[
        bool, typer.Option("--sparsity-is-free/--dense-hardware", help="Whether zeros cost compute.")
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


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="Such as isoloss.")],
    runs: Annotated[Path, typer.Option(help="A runs table.")],
    out: Annotated[Path, typer.Option(help="Path without suffix; .svg and .png are added.")],
    law: Annotated[
        Path | None,
        typer.Option(help="The folder that `law compare` wrote; contrasts, topology and stability need none."),
    ] = None,
    unique_tokens: Annotated[
        list[str] | None, typer.Option(help="A budget to ask the law about; repeat for several. Default: the cells'.")
    ] = None,
) -> None:
    """Draw one figure."""
    from sparsedc.figures import get_figure
    from sparsedc.numbers import read_number

    get_figure(name)(runs, law, out, [read_number("unique-tokens", each) for each in unique_tokens or ()])


@app.command()
def summary(
    runs: Annotated[Path, typer.Option(help="A runs table.")],
    law: Annotated[Path, typer.Option(help="The folder that `law compare` wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
) -> None:
    """Sum a study up in one table, in plain words."""
    from sparsedc.atomic import write_text
    from sparsedc.figures.summary import summary_table
    from sparsedc.law.table import read_table

    write_text(summary_table(read_table(runs), law), out)


def _tell(what: str) -> None:
    """Say what takes a while; what a command answers is on the other stream."""
    print(what, file=sys.stderr, flush=True)


def _load(config: Path) -> "Study":
    from sparsedc.study import load_study

    return load_study(config)


if __name__ == "__main__":
    main()

"""`sparsedc law …`: to fit a law, choose among several and ask one for a loss."""

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer

from sparsedc.cli.options import LAW, Columns, Json, Table
from sparsedc.cli.stderr import tell
from sparsedc.errors import InputError, SparsedcWarning

app = typer.Typer(
    no_args_is_help=True, help="Scaling laws: fit them to a runs table, choose among them, predict a loss."
)

Params = Annotated[
    str | None, typer.Option(help="Which parameters N counts: body, active, paper or average; see docs/law.md.")
]
Delta = Annotated[str, typer.Option(help="Huber threshold of residuals.")]
Bootstrap = Annotated[int, typer.Option(help="Refits to resampled runs, for intervals; 1000 are usual.")]
LawFolder = typer.Option(
    help="Folder for law.json, the chosen fit, with selection.json, comparison.csv and predictions.csv.",
    file_okay=False,
)


@app.command()
def fit(
    table: Table,
    form: Annotated[str, typer.Option(help="A form of the law, such as chinchilla or sparse:untied; see docs/law.md.")],
    columns: Columns = None,
    params: Params = None,
    likelihood: Annotated[str, typer.Option(help="How residuals are weighed: huber, gaussian or student.")] = "huber",
    delta: Delta = "1e-3",
    residuals: Annotated[str, typer.Option(help="Residuals of what: log, the logarithm of the loss, or loss.")] = "log",
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
    out: Annotated[Path | None, typer.Option(help="The fit to write, as JSON.", dir_okay=False)] = None,
) -> None:
    """Fit one form of the law to a table of runs, ours or any CSV."""
    from dataclasses import replace

    from sparsedc.law.bootstrap import bootstrap as resample
    from sparsedc.law.fitting import finished, fit_finished
    from sparsedc.law.options import check_bootstrap, parse_columns, parse_likelihood, parse_values
    from sparsedc.law.profile import profile as profile_of
    from sparsedc.law.render import render_fit
    from sparsedc.law.select import warn_of_mixtures
    from sparsedc.law.table import read_table

    check_bootstrap(bootstrap)
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
        tell("no profiles: the runs do not identify the law")
        quantities = []
    for quantity in quantities:  # before the bootstrap, which no misspelling should waste
        tell(f"profiling {quantity}")
        profiles[quantity] = profile_of(kept, law, quantity).to_dict()
    if bootstrap and law.status == "not identifiable":
        tell("no bootstrap: the runs do not identify the law")
    elif bootstrap:
        tell(f"refitting to {bootstrap} resamplings")
        law = resample(kept, law, n=bootstrap, seed=seed)
    law = replace(law, profiles=profiles or None)
    if out:
        law.save(out)
    print(render_fit(law))


@app.command()
def compare(
    table: Table,
    form: Annotated[
        list[str] | None, typer.Option(help="A form of the law; repeat for several. Default: seven; see docs/law.md.")
    ] = None,
    columns: Columns = None,
    params: Params = None,
    delta: Delta = "1e-3",
    bootstrap: Bootstrap = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of starts and resampling.")] = 0,
    out: Annotated[Path | None, LawFolder] = None,
) -> None:
    """Fit several forms, choose one by AICc, and test all on runs that they were not fitted to."""
    from sparsedc.law.forms import COMPARED
    from sparsedc.law.options import check_bootstrap, parse_columns, parse_likelihood
    from sparsedc.law.render import render_comparison
    from sparsedc.law.select import save_selection, select_law
    from sparsedc.law.table import read_table

    check_bootstrap(bootstrap)
    likelihood = parse_likelihood("huber", delta)
    runs = read_table(table, parse_columns(columns) if columns else None)
    selection = select_law(
        runs,
        form or list(COMPARED),
        params=params,
        likelihood=likelihood,
        seed=seed,
        draws=bootstrap,
        tell=tell,
    )
    if out:
        save_selection(selection, runs, out)
    print(render_comparison(selection))


@app.command()
def predict(
    law: Annotated[str, typer.Argument(help=LAW)],
    params_active: Annotated[str, typer.Option(help="N: active parameters as the law counts them, such as 100M.")],
    unique_tokens: Annotated[str, typer.Option(help="U: how much text there is, in tokens, such as 300M.")],
    tokens: Annotated[str | None, typer.Option(help="D: tokens trained on. Default: one epoch.")] = None,
    epochs: Annotated[str | None, typer.Option(help="D / U, in place of --tokens.")] = None,
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


@app.command()
def published(
    runs: Annotated[Path, typer.Option(help="The runs table to write, of its eleven validation runs.", dir_okay=False)],
    out: Annotated[Path, LawFolder],
) -> None:
    """Write the published law as a study's law, with the runs that its authors tested it on."""
    from sparsedc.atomic import whole
    from sparsedc.law.render import render_comparison
    from sparsedc.law.select import published_study, save_selection

    selection, table = published_study()
    with whole(runs) as partial:
        table.to_csv(partial, index=False)
    save_selection(selection, table, out)
    print(render_comparison(selection))

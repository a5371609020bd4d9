"""Arguments and options that commands of several groups share."""

from pathlib import Path
from typing import Annotated

import typer

LAW = "`published`, or the file of a fit, such as results/mine/law/law.json."
StudyFile = Annotated[Path, typer.Argument(help="A study file, such as config.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Table = Annotated[Path, typer.Argument(help="A runs table, or any CSV with one row a run.")]
Columns = Annotated[
    str | None,
    typer.Option(help="Columns that a CSV names otherwise: ours=its, such as params_active=N,tokens=D,val_loss=loss."),
]

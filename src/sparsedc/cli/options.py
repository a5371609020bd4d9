"""Arguments and options that commands of several groups share."""

from pathlib import Path
from typing import Annotated

import typer

StudyFile = Annotated[Path, typer.Argument(help="A study file, such as config.yaml.")]
Out = Annotated[Path, typer.Option(help="Where to write.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
Table = Annotated[Path, typer.Argument(help="A runs table, or any CSV with one row a run.")]
Columns = Annotated[
    str | None, typer.Option(help="Our column=the file's, such as params_active=N,tokens=D,val_loss=loss.")
]

"""The command line: `sparsedc …`, which the workflow's rules call and a user may call as well.

Commands import what they need when they run, so that none waits for a library of another. Bad input ends with
one message and exit status 2, a fault of a GPU with its traceback and 75; so does a GPU that is missing where the
workflow has given it.
"""

import os
import sys
import traceback
import warnings
from typing import Annotated

import typer

from sparsedc import __version__
from sparsedc.cli import corpus, evaluate, figures, law, plan, runs, study, train
from sparsedc.cli.stderr import show_warning
from sparsedc.driver import end_with_driver
from sparsedc.errors import GPU_FAULT, InputError, MissingGpuError, is_gpu_fault
from sparsedc.train.warm import FORKED_VARIABLE

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="How to spend a fixed corpus: how large a language model, how sparse, over how many passes.",
)  # fmt: skip
app.add_typer(study.app, name="study")
app.add_typer(corpus.app, name="corpus")
app.add_typer(runs.app, name="runs")
app.add_typer(law.app, name="law")
for command in (train.train, evaluate.evaluate, plan.plan, figures.figure, figures.summary):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sparsedc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print it.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of no command."""


def main() -> None:
    """Run the command line; exit status 2 for an input that cannot be used, GPU_FAULT for a GPU that failed."""
    warnings.showwarning = show_warning
    end_with_driver()
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(GPU_FAULT if isinstance(error, MissingGpuError) and FORKED_VARIABLE in os.environ else 2)
    except OSError as error:  # a full disk, a folder that may not be written
        where = error.filename2 or error.filename
        print(f"error: {where}: {error.strerror}" if where else f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if not is_gpu_fault(error):
            raise
        traceback.print_exc()
        sys.exit(GPU_FAULT)

"""`sparsedc evaluate`: a kept model on downstream tasks."""

from pathlib import Path
from typing import Annotated

import typer

from sparsedc.errors import InputError


def evaluate(
    model: Annotated[Path, typer.Argument(help="The folder of a kept model, such as results/mine/models/CELL.")],
    tasks: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness, such as piqa,hellaswag.")],
    include_path: Annotated[Path | None, typer.Option(help="A folder of task files of your own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Examples a task. Default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="The scores to write, as JSON.", dir_okay=False)] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1. Default: a GPU if there is one.")] = None,
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

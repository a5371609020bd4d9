"""What a kept model does on downstream tasks, measured by EleutherAI's lm-evaluation-harness.

Numbers are the harness's own for any model that transformers loads, and so compare with those of others. It puts the
end-of-document token before a text only where a task gives no context, and cuts contexts on the left to the model's
sequence length.
"""

import json
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsedc.atomic import write_text
from sparsedc.errors import InputError, nearest

BATCH = 16  # texts at once


@dataclass(frozen=True)
class Score:
    """A metric of a task or of a group of tasks, with its standard error over examples, where the harness knows one."""

    task: str
    metric: str
    value: float
    standard_error: float | None


def evaluate_tasks(
    model: Path, tasks: Sequence[str], include: Path | None, limit: int | None, device: str | None
) -> list[Score]:
    """Evaluate a model's folder on tasks of the harness.

    Args:
        include: a folder of further task files.
        limit: of examples a task.
        device: by default a GPU if there is one.

    Raises:
        InputError: the harness is not installed, or it has no such task; there is no model, or no such device.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(
            "tasks", ",".join(tasks), f"need lm-evaluation-harness, which cannot be imported ({error})",
            "Install it: `pip install 'sparsedc[evaluate]'`, or `pip install -e '.[evaluate]'` in a checkout.",
        ) from error  # fmt: skip
    from sparsedc.train.cell import find_device

    if not (model / "config.json").is_file():
        raise InputError("model", model, "holds no model", "Name a folder that training has kept a model in.")
    if include is not None and not include.is_dir():
        raise InputError("include-path", include, "is no folder", "Name one with task files.")
    chosen = str(find_device(device))
    manager = TaskManager(include_path=None if include is None else str(include))
    for task in tasks:
        if task not in manager.all_tasks:
            near = nearest(task, manager.all_tasks)
            remedy = f"Did you mean {near}?" if near else "`lm-eval ls tasks` lists them."
            raise InputError("tasks", task, "no such task", remedy)
    with redirect_stdout(sys.stderr):  # to which it tells of its progress
        loaded = HFLM(pretrained=str(model), device=chosen, batch_size=BATCH)
        found = simple_evaluate(loaded, tasks=list(tasks), limit=limit, task_manager=manager, log_samples=False)
    return scores(found["results"])


def scores(results: dict[str, dict[str, Any]]) -> list[Score]:
    """The harness's results, task -> "metric,filter" -> value, without what it tells of a task beside them."""
    found = []
    for task, values in results.items():
        for key, value in values.items():
            metric, _, how = key.partition(",")
            if how and not metric.endswith("_stderr") and isinstance(value, int | float):
                name = metric if how == "none" else f"{metric} ({how})"
                found.append(Score(task, name, float(value), _finite(values.get(f"{metric}_stderr,{how}"))))
    return found


def render(scores: Sequence[Score]) -> str:
    """For a terminal."""
    rows = [("task", "metric", "value", "standard error")]
    for one in scores:
        error = "–" if one.standard_error is None else f"{one.standard_error:.4f}"
        rows.append((one.task, one.metric, f"{one.value:.4f}", error))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(
        f"{task:{first}}  {metric:{second}}  {value:>10}  {error:>14}" for task, metric, value, error in rows
    )


def save(scores: Sequence[Score], model: Path, limit: int | None, out: Path) -> None:
    """Write scores as JSON, with what they are of."""
    from importlib.metadata import version

    told = {
        "model": str(model),
        "limit": limit,
        "lm_eval": version("lm_eval"),
        "scores": [asdict(one) for one in scores],
    }
    write_text(json.dumps(told, indent=1) + "\n", out)


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

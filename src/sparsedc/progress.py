"""How far a study is: cells done of cells in all, tokens a second, and the time that is left.

Read off the study's folder, so that cells which train side by side, or in a later run, all tell the same. The
time left is judged by the FLOPs of the cells that this run has finished; cells whose budget the corpus cannot fill are
not waited for.
"""

import csv
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparsedc.train.warm import RUN_VARIABLE


@dataclass(frozen=True)
class Progress:
    cells: int
    done: int
    tokens_per_second: float | None  # over all cells of this run together
    seconds_left: float | None

    def __str__(self) -> str:
        parts = [f"{self.done} of {self.cells} cells"]
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        if self.seconds_left is not None and self.done < self.cells:
            parts.append(f"about {duration(self.seconds_left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as "2:05:09" or "4:07"."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def study_progress(study: Path, data: str) -> Progress | None:
    """Progress of the study in a folder (results/<name>), or None where no cells.tsv says what its cells are.

    Args:
        data: the folder of its tokens in `corpus`, where every budget is made before the first cell is trained.
    """
    try:
        with (study / "cells.tsv").open(newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
    except FileNotFoundError:
        return None
    run_started = float(os.environ.get(RUN_VARIABLE, f"0 {time.time()}").split()[1])
    started = _times(study / "work" / row["fingerprint"] / "lock" for row in rows)
    finished = _times(study / "cells" / row["cell"] / "metrics.json" for row in rows)
    now = time.time()
    elapsed = now - min((moment for moment in started if moment is not None and moment >= run_started), default=now)
    recent = [row for row, moment in zip(rows, finished, strict=True) if moment is not None and moment >= run_started]
    budgets = {path.stem for path in (study / "corpus" / data / "budgets").glob("*.json")}
    left = sum(
        float(row["flops_dense"])
        for row, moment in zip(rows, finished, strict=True)
        if moment is None and (row["unique_tokens"] in budgets or not budgets)  # none where it trains by hand
    )
    done = sum(moment is not None for moment in finished)
    if not recent or elapsed <= 0:
        return Progress(len(rows), done, None, None)
    speed = sum(float(row["flops_dense"]) for row in recent) / elapsed
    return Progress(len(rows), done, sum(int(row["tokens"]) for row in recent) / elapsed, left / speed)


def _times(paths: Iterable[Path]) -> list[float | None]:
    """Modification times, None for files that do not exist."""
    times: list[float | None] = []
    for path in paths:
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            times.append(None)
    return times

"""What failed in a run, in a few lines at its end: each error once, with how many jobs it ended and a log to read.

Snakemake ends with "At least one job did not complete successfully", when what the jobs have said is hundreds of lines
above. Which jobs failed for good is asked of Snakemake, as logs do not tell: there are those of earlier runs, and of
attempts after which another went well.
"""

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SHOWN = 10  # errors, at most
LONGEST = 500  # characters of one
PAUSE = 0.5  # seconds in which the `tee` that writes the last job's log ends

ERROR = re.compile(r"^error:.*", re.MULTILINE)
EXCEPTION = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", re.MULTILINE)


def report(workflow: Any, began: float) -> str:
    """Why a run has failed, or nothing where none of its jobs did. Never raises: a run is to end with its own error.

    Args:
        workflow: Snakemake's, after the run.
        began: when the run did. What was written before is of another.
    """
    try:
        failed = [list(job) if job.is_group() else [job] for job in workflow.scheduler.failed]
        if not failed:  # it was interrupted
            return ""
        time.sleep(PAUSE)
        known = {job for jobs in failed for job in jobs}
        others = sum(job not in known for job in workflow.scheduler.remaining_jobs)
        return render([[Path(log) for job in jobs for log in job.log] for jobs in failed], others, began)
    except Exception as error:
        return f"What failed could not be found out ({error!r}); the logs will tell."


def render(failed: Iterable[list[Path]], others: int, began: float) -> str:
    """For a terminal.

    Args:
        failed: logs of each failed job, those of its cells if it was a group of them.
        others: how many jobs were not run, most of them for want of what those make.
    """
    reasons: dict[str, list[Path]] = {}
    for logs in failed:
        for log, reason in _reasons(logs, began).items():
            reasons.setdefault(reason, []).append(log)
    if not reasons:
        return ""
    count = sum(map(len, reasons.values()))
    lines = [f"{_jobs(count)} failed, {others} not run:"]
    ranked = sorted(reasons.items(), key=lambda one: (-len(one[1]), min(one[1])))
    for reason, logs in ranked[:SHOWN]:
        lines += [reason[:LONGEST], f"    {_jobs(len(logs))}, {'such as ' if len(logs) > 1 else ''}{min(logs)}"]
    if left := ranked[SHOWN:]:
        lines.append(f"and {_jobs(sum(len(logs) for _, logs in left))} for other reasons, such as {min(left[0][1])}")
    return "\n".join(lines)


def last_words(log: Path) -> str:
    """The last error that a log tells of, or its last line."""
    lines = [line for line in _read(log).splitlines() if line.strip()]
    return _error(log) or (lines or ["ended without a word"])[-1]


def _reasons(logs: list[Path], began: float) -> dict[Path, str]:
    """Log -> error. Of a group of jobs that failed as one: those that tell of an error, or if none does, as where the
    group was killed, the one that was written last."""
    written = [log for log in logs if log.exists() and log.stat().st_mtime >= began]
    found = {log: error for log in written if (error := _error(log))}
    if found or not logs:
        return found
    if not written:
        return {logs[0]: "ended without a word"}
    last = max(written, key=lambda log: log.stat().st_mtime)
    return {last: last_words(last)}


def _error(log: Path) -> str | None:
    """What a command has said of an input, or else the exception that it ended with."""
    text = _read(log)
    found: list[str] = ERROR.findall(text) or EXCEPTION.findall(text)
    return found[-1] if found else None


def _read(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"

"""The end of a failed run, on made-up logs, and on Snakemake's jobs as far as they are looked at."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsedc import failures
from sparsedc.failures import last_words, render, report

BEGAN = 1_700_000_000.0
FULL = "error: unique_tokens = 9: the train split has 8. Use less."
TRACEBACK = """13k: step 3
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()

KeyError: 'first'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 1, in <module>
    g()
    ^^^
ValueError: a shape
of two lines
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(failures, "PAUSE", 0)
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str, at: float = BEGAN + 1) -> Path:
    log = Path(name)
    log.write_text(text)
    os.utime(log, (at, at))
    return log


def test_each_error_once_with_its_jobs_and_the_most_frequent_first() -> None:
    logs = [write("a.log", f"{FULL}\n"), *(write(f"{cell}.log", "step 1\nerror: clock = 3: x. Y.\n") for cell in "dbc")]
    assert render([[log] for log in logs], 5, BEGAN).splitlines() == [
        "4 jobs failed, 5 not run:",
        "error: clock = 3: x. Y.",
        "    3 jobs, such as b.log",
        FULL,
        "    1 job, a.log",
    ]


def test_what_other_runs_have_said_is_not_told() -> None:
    """As of a job that its cluster never began."""
    old = write("old.log", f"{FULL}\n", at=BEGAN - 1)
    assert render([[old]], 0, BEGAN).splitlines() == [
        "1 job failed, 0 not run:",
        "ended without a word",
        "    1 job, old.log",
    ]
    assert render([[Path("none.log")]], 0, BEGAN).endswith("ended without a word\n    1 job, none.log")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{FULL}\nerror: lr = -1: is negative. Raise it.\n13k: stopped\n", "error: lr = -1: is negative. Raise it."),
        (TRACEBACK, "ValueError: a shape"),
        (f"{TRACEBACK}warning: a semaphore leaked\n", "ValueError: a shape"),
        (f"{TRACEBACK}{FULL}\n", FULL),
        ("13k: step 3\n13k: step 4\n\n", "13k: step 4"),
        ("\n", "ended without a word"),
    ],
)
def test_last_words(text: str, words: str) -> None:
    assert last_words(write("a.log", text)) == words
    assert render([[Path("a.log")]], 0, BEGAN).splitlines()[1] == words


def test_of_a_group_only_jobs_with_an_error_have_failed() -> None:
    done, failed = write("done.log", "13k: held-out loss 4.2\n"), write("failed.log", TRACEBACK)
    assert render([[done, failed]], 0, BEGAN) == "1 job failed, 0 not run:\nValueError: a shape\n    1 job, failed.log"


def test_a_group_that_was_killed_has_failed_where_it_was() -> None:
    logs = [write(f"{cell}.log", f"{cell}: step 3\n", at=BEGAN + at) for cell, at in (("a", 1), ("b", 3), ("c", 2))]
    assert render([logs], 0, BEGAN) == "1 job failed, 0 not run:\nb: step 3\n    1 job, b.log"


def test_many_errors_are_cut() -> None:
    logs = [[write(f"{cell:02}.log", f"error: {cell}" + "x" * 1000)] for cell in range(14)]
    lines = render(logs, 0, BEGAN).splitlines()
    assert len(lines) == 1 + 2 * 10 + 1
    assert max(map(len, lines)) == 500
    assert lines[-1] == "and 4 jobs for other reasons, such as 10.log"


class Job:
    def __init__(self, *logs: Path) -> None:
        self.log = logs

    def is_group(self) -> bool:
        return False


class Group(list[Job]):
    __hash__ = object.__hash__  # type: ignore[assignment]

    def is_group(self) -> bool:
        return True


def test_which_jobs_failed_is_asked_of_snakemake() -> None:
    alone, first, second = Job(write("a.log", FULL)), Job(write("b.log", FULL)), Job(write("c.log", "fine"))
    scheduler = SimpleNamespace(failed={alone, Group([first, second])}, remaining_jobs=[first, second, Job()])
    told = report(SimpleNamespace(scheduler=scheduler), BEGAN)
    assert told == f"2 jobs failed, 1 not run:\n{FULL}\n    2 jobs, such as a.log"


def test_a_run_that_was_interrupted_has_no_failed_jobs() -> None:
    write("a.log", FULL)
    scheduler = SimpleNamespace(failed=set(), remaining_jobs=[Job()])
    assert report(SimpleNamespace(scheduler=scheduler), BEGAN) == ""


@pytest.mark.parametrize("workflow", [None, SimpleNamespace(scheduler=SimpleNamespace(failed=[3]))])
def test_it_never_raises(workflow: Any) -> None:
    assert report(workflow, BEGAN).startswith("What failed could not be found out (AttributeError(")


def test_a_log_that_cannot_be_read_does_not_hide_the_others() -> None:
    Path("folder.log").mkdir()
    binary = write("binary.log", "")
    binary.write_bytes(b"\xff\xfe\nerror: x = 1: y. Z.\n")
    told = render([[Path("folder.log")], [binary]], 0, BEGAN)
    assert "error: x = 1: y. Z.\n    1 job, binary.log" in told
    assert "ended without a word\n    1 job, folder.log" in told

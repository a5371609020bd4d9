"""What a study on Slurm needs of the cluster, asked before the first job is submitted.

Snakemake learns from `sacct` or `squeue` that a job has ended. Where the one that it asks never tells, it waits for
ever: `sacct` without accounting, `squeue` where Slurm forgets jobs too soon.
"""

import math
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from sparsedc.errors import InputError

CHECKS = 3  # of a job's status, for which Slurm must remember that it has ended
LONGEST_PAUSE = 180  # seconds between two checks, to which Snakemake's plugin draws pauses out


def keep_groups_whole() -> None:
    """Have Snakemake's Slurm plugin, if it is there, tell a job of several cells how many make a group. Else each would
    be a group of its own in that job, and wait for the one before."""
    plugin = sys.modules.get("snakemake_executor_plugin_slurm")  # Snakemake has loaded all plugins that there are
    if plugin is not None:
        plugin.common_settings.pass_group_args = True


def preflight(settings: Any, jobs: Iterable[Any], attempts: int) -> None:
    """Check what a run needs of the cluster, and set the command that tells of jobs' ends.

    Args:
        settings: of Snakemake's Slurm plugin.
        jobs: that are to be submitted.
        attempts: of each, at most.

    Raises:
        InputError: the run would fail, or never end.
    """
    settings.status_command = status_command(settings.status_command, settings.init_seconds_before_status_checks)
    longest: dict[tuple[str, bool], tuple[int, str]] = {}
    for job in jobs:
        job.attempt = attempts  # which asks for most
        partition, gpus = job.resources.get("slurm_partition"), "gpu" in (job.resources.get("gres") or "")
        if partition is not None:  # else the site has ways of its own to choose one
            wanted = str(partition), gpus
            longest[wanted] = max(longest.get(wanted, (0, "")), (job.resources.get("runtime") or 0, job.rule.name))
        job.attempt = 1
    for (names, gpus), (minutes, rule) in longest.items():
        check_partitions(names.split(","), gpus, minutes, rule)


def status_command(asked: str | None, seconds: int) -> str:
    """The command that tells of jobs' ends here: `asked`, if it can; else `sacct` where there is accounting, else
    `squeue`.

    Args:
        seconds: between checks of a job's status.

    Raises:
        InputError: Slurm does not answer, or neither command tells.
    """
    cluster = _answer("scontrol", "show", "config")
    if asked != "squeue" and _accounts(cluster):
        return "sacct"
    found = re.search(r"^MinJobAge\s*=\s*(\d+)", cluster, re.MULTILINE)
    remembers = int(found[1]) if found else 0
    if remembers >= max(CHECKS * seconds, LONGEST_PAUSE):
        return "squeue"
    if _accounts(cluster):
        remedy = "Set slurm-status-command to sacct in the profile."
    elif remembers >= LONGEST_PAUSE:
        remedy = f"Set it to {remembers // CHECKS} or less in the profile."
    else:
        remedy = f"Have the cluster's MinJobAge raised to {LONGEST_PAUSE} or more."
    raise InputError(
        "slurm-init-seconds-before-status-checks", seconds,
        f"Slurm forgets jobs {remembers} seconds after their end (MinJobAge), for which Snakemake would wait for ever",
        remedy,
    )  # fmt: skip


def check_partitions(names: list[str], gpus: bool, minutes: int, rule: str) -> None:
    """Refuse partitions that there are not, and such that jobs would wait in all of them for ever.

    Args:
        names: of which jobs go to the first that has room.
        gpus: do jobs ask for some?
        minutes: the longest time for which a job asks.
        rule: of that job.

    Raises:
        InputError: saying what there is.
    """
    listed = _answer("sinfo", "--all", "--noheader", "--format=%R|%a|%l|%G").splitlines()
    rows = [line.strip().split("|") for line in listed if line.strip()]
    known, open_ = {name for name, *_ in rows}, [row for row in rows if row[1] == "up"]
    with_gpus = {name for name, _, _, resources in open_ if re.search(r"(^|,)gpu:", resources)}
    limits = {name: _minutes(limit) for name, _, limit, _ in open_}
    for name in names:
        if name not in known:
            raise InputError("slurm_partition", name, "is no partition of this cluster", f"Use {_all(known)}.")
    asked, suitable = ",".join(names), [name for name in names if name in limits]
    if not suitable:
        raise InputError("slurm_partition", asked, "is down", f"Use {_all(limits)}, or wait.")
    if gpus and not with_gpus.intersection(suitable):
        of_rules = "To train on CPUs, set `gres` of train and train_kept to ''."
        remedy = f"Use {_all(with_gpus)}." if with_gpus else of_rules
        raise InputError("slurm_partition", asked, "has no GPUs, for which cells ask", remedy)
    limit = max(limits[name] for name in suitable if not gpus or name in with_gpus)
    if minutes > limit:
        raise InputError(
            f"runtime of {rule}", minutes, f"is more than the {limit:.0f} minutes that a job may take in {asked}",
            "Correct what it follows from, which for cells is sustained_tflops, or set it to the limit (set-resources: "
            f"{rule}: runtime: {limit:.0f}) and allow more `retries`: cells go on where they were.",
        )  # fmt: skip


def _all(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _minutes(limit: str) -> float:
    """Of a time as Slurm writes it: [days-]hours:minutes:seconds, minutes:seconds, or infinite."""
    if limit in ("infinite", "n/a", "UNLIMITED"):
        return math.inf
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = [0, 0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _accounts(cluster: str) -> bool:
    storage = re.search(r"^AccountingStorageType\s*=\s*(\S+)", cluster, re.MULTILINE)
    if not storage or storage[1] in ("(null)", "accounting_storage/none"):
        return False
    try:
        _answer("sacct", "--noheader", "--allocations", "--starttime=now")
    except InputError:
        return False
    return True


def _answer(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError:
        why = "there is no such command"
    except subprocess.TimeoutExpired:
        why = "no answer in a minute"
    except subprocess.CalledProcessError as failed:
        why = failed.stderr.strip() or f"exit status {failed.returncode}"
    raise InputError("executor", "slurm", f"`{' '.join(command)}`: {why}", "Run snakemake where sbatch works.")

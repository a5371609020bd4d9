"""What a study on Slurm needs of the cluster, asked before the first job is submitted.

Snakemake learns from `sacct` or `squeue` that a job has ended. Where the one that it asks never tells, it waits for
ever: `sacct` without accounting, `squeue` where Slurm forgets jobs too soon.
"""

import re
import subprocess
from collections.abc import Iterable
from typing import Any

from sparsedc.errors import InputError

CHECKS = 3  # of a job's status, for which Slurm must remember that it has ended
LONGEST_PAUSE = 180  # seconds between two checks, to which Snakemake's plugin draws pauses out


def preflight(settings: Any, jobs: Iterable[Any]) -> None:
    """Check what a run needs of the cluster, and set the command that tells of jobs' ends.

    Args:
        settings: of Snakemake's Slurm plugin.
        jobs: that are to be submitted.

    Raises:
        InputError: the run would fail, or never end.
    """
    settings.status_command = status_command(settings.status_command, settings.init_seconds_before_status_checks)
    for partition, gpus in {
        (job.resources.get("slurm_partition"), "gpu" in (job.resources.get("gres") or "")) for job in jobs
    }:
        check_partition(partition, gpus)


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


def check_partition(partition: str | None, gpus: bool) -> None:
    """Refuse a partition that there is not, or that has no GPUs where cells ask for some.

    Args:
        partition: None for the cluster's default one.

    Raises:
        InputError: saying which there are.
    """
    nodes = [line.split() for line in _answer("sinfo", "--noheader", "--format=%P %G").splitlines() if line.strip()]
    found = {name.rstrip("*") for name, _ in nodes}
    default = next((name.rstrip("*") for name, _ in nodes if name.endswith("*")), None)
    name = partition or default
    if name not in found:
        raise InputError(
            "slurm_partition", partition, "is no partition of this cluster" if partition else "there is no default one",
            f"Use {', '.join(sorted(found))}.",
        )  # fmt: skip
    with_gpus = {one.rstrip("*") for one, resources in nodes if "gpu" in resources}
    if gpus and name not in with_gpus:
        remedy = f"Use {', '.join(sorted(with_gpus))}." if with_gpus else "Set `gres` of train to '' to train on CPUs."
        raise InputError("slurm_partition", name, "has no GPUs, for which cells ask", remedy)


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

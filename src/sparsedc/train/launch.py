"""Several processes for one cell, one a GPU: what `sparsedc train --ranks` starts, by PyTorch's launcher (torchrun).

In a Slurm job of several nodes a launcher starts on each of them, and they find each other at the first.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import uuid
from typing import Any, NoReturn

from sparsedc.errors import InputError, MissingGpuError

MEETING_VARIABLE = "SPARSEDC_RENDEZVOUS"  # "host:port" where the launchers of several nodes meet
FAREWELL = 120  # seconds for ranks that are asked to stop, in which they write a checkpoint
FIRST_PORT, PORTS = 20_000, 10_000  # of the meeting, below those that systems give away


def launched() -> bool:
    """Has torchrun, or another launcher, started this process as one of several?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(nodes: int, ranks: int, device: str | None) -> int:
    """Run this process's command line in so many others on each node.

    Args:
        device: on which each is to train; None: on a GPU of its own, if there are any.

    Returns:
        the exit status: of several that failed, that of the first.

    Raises:
        InputError: there are not as many nodes.
        MissingGpuError: a node has not as many GPUs.
    """
    if nodes > 1 and MEETING_VARIABLE not in os.environ:
        _on_every_node(nodes)
    return _here(nodes, ranks, device)


def _on_every_node(nodes: int) -> NoReturn:
    """Become a step of the job that has this command line run on each node; signals reach all of it."""
    from sparsedc.train.warm import RUN_VARIABLE  # which imports this module

    job = os.environ.get("SLURM_JOB_ID")
    told = _answer("scontrol", "show", "job", job, "--oneliner") if job else ""  # the environment may be a step's
    there = int(found[1]) if (found := re.search(r" NumNodes=(\d+)", told)) else 1
    if job is None or there < nodes:
        raise InputError("nodes", nodes, f"here there is {there}", "Start it in a Slurm job of as many nodes.")
    names = _answer("scontrol", "show", "hostnames", re.findall(r" NodeList=(\S+)", told)[0]).split()
    address = re.findall(r"NodeAddr=(\S+)", _answer("scontrol", "show", "node", names[0]))[0]
    meeting = f"{address}:{FIRST_PORT + int(job) % PORTS}"
    # The step that this process is in has the same processors and GPUs: they are shared with it.
    step = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit"]
    # Of this step, and of a Snakemake, with which commands would have to end, other nodes need not know.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in ("SLURM_JOB_ID", "SLURM_CONF") or (not name.startswith("SLURM_") and name != RUN_VARIABLE)
    }
    os.execvpe(
        step[0], [*step, sys.executable, "-m", "sparsedc", *sys.argv[1:]], environment | {MEETING_VARIABLE: meeting}
    )


def _here(nodes: int, ranks: int, device: str | None) -> int:
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(FAREWELL))
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if device is None and torch.cuda.is_available() and torch.cuda.device_count() < ranks:
        raise MissingGpuError(
            "ranks", ranks, f"this machine has {torch.cuda.device_count()} GPUs that may be used",
            "Start at most as many, or pass `--device cpu`.",
        )  # fmt: skip
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # ranks say themselves what is wrong
    own: dict[str, Any] = {}
    if nodes > 1:  # Slurm tells ranks, and the launcher, which would not hear of it three times, so often
        signal.signal(signal.SIGTERM, lambda *_: None)
        own = {"signals_to_handle": ""}
    config = LaunchConfig(
        min_nodes=nodes, max_nodes=nodes, nproc_per_node=ranks, max_restarts=0, monitor_interval=0.1,
        rdzv_backend="c10d", rdzv_endpoint=os.environ.get(MEETING_VARIABLE, "localhost:0"),
        rdzv_configs={"is_host": nodes == 1 or os.environ["SLURM_NODEID"] == "0"},
        run_id=os.environ.get("SLURM_JOB_ID", uuid.uuid4().hex), **own,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "sparsedc", *sys.argv[1:])
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        return int(first.exitcode) if first.exitcode > 0 else 128 - int(first.exitcode)
    except SignalException as asked:  # the ranks have been told, and have ended
        return 128 + int(asked.sigval)
    return 0


def _answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

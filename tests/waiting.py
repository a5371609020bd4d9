"""Waiting for what other processes do: for a condition and never for a time, which a busy machine outlasts."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

PATIENCE = 300  # seconds; only a failure takes that long


def wait_for(condition: Callable[[], Any]) -> Any:
    """The condition's value, once it is true."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def children(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def refuses(address: Path) -> bool:
    """Does nobody listen at a Unix socket any more? A killed process is a zombie while its threads still hold it."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(address))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
    return False


def holds(pid: int, client: "subprocess.Popen[str]", number: str = "*") -> bool:
    """Has a process been handed a client's standard output, a pipe, as its open file of this number?"""
    assert client.stdout is not None
    pipe = f"pipe:[{os.fstat(client.stdout.fileno()).st_ino}]"
    for stream in Path(f"/proc/{pid}/fd").glob(number):
        with suppress(FileNotFoundError):
            if os.readlink(stream) == pipe:
                return True
    return False


def handles(pid: int, number: signal.Signals) -> bool:
    """Does a process do something of its own at a signal?"""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)

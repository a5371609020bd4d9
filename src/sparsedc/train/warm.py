"""Trainers that start warm: within one Snakemake run, torch is imported once and every cell is a fork of that.

Importing torch and transformers takes seconds a process, more than a small cell trains for. `run_warm` hands a
command line to a server that has imported them (`sparsedc.train.server`); the server has a child run it with the
caller's standard streams, working directory and environment, and returns its exit status. The child is asked to stop
(SIGTERM) when the client is, or has gone.

A job that is lost through no fault of its own is done once more: its process was killed, with too little memory say, or
its GPU failed, often by a fault of a cell that shared it, or the server died. A cell goes on from its checkpoint then,
when the process that had it, if it still lives, has ended (`sparsedc.train.lock`). Not so in a Slurm job, whose own
second attempt has more time and memory.

The server belongs to one Snakemake run, named by the environment variable SPARSEDC_RUN ("pid start-time", set
by the Snakefile), and ends with it, so that it never outlives an edit of the code. Without that variable, and on
any trouble before a job has begun, commands run in the calling process as usual. This module imports no torch: the
client is to start fast.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import TypedDict

from sparsedc.errors import GPU_FAULT
from sparsedc.train.launch import launched
from sparsedc.train.stop import SIGNALS

RUN_VARIABLE = "SPARSEDC_RUN"
FORKED_VARIABLE = "SPARSEDC_FORKED"  # set in the server's children, which do the work themselves
SERVER = "sparsedc.train.server"
STREAMS = (0, 1, 2)
TAKEN = b"+"  # what the server says at once of a job that it has read


class Job(TypedDict):
    """A command line, and where to run it."""

    arguments: list[str]
    directory: str
    environment: dict[str, str]


def run_warm(arguments: list[str]) -> int | None:
    """Run `sparsedc ARGUMENTS` in a child of the warm server, and once more where that is lost.

    Returns:
        the exit status, or None where there is no Snakemake run or no server could be reached: the caller then
        does the work itself.
    """
    run = os.environ.get(RUN_VARIABLE)
    if run is None or FORKED_VARIABLE in os.environ or launched():
        return None
    job: Job = {"arguments": arguments, "directory": os.getcwd(), "environment": dict(os.environ)}
    try:
        connection = _hand_over(job, run)
    except OSError:
        return None
    stop = _Stop(connection)
    status = _outcome(connection)
    if (why := _lost(status)) and not stop.asked and "SLURM_JOB_ID" not in os.environ:
        name = " ".join(arguments[:2])
        print(f"{name}: {why}; it begins again, from its last checkpoint if there is one", file=sys.stderr)
        try:
            connection = _hand_over(job, run)
        except OSError:
            status = None
        else:
            stop.follow(connection)
            status = _outcome(connection)
    if status is None:
        print("error: the trainer's server died; run snakemake again", file=sys.stderr)
        return 1
    return status


class _Stop:
    """Once this process is asked to stop, the server is told to ask the job, whose end is waited for all the same: with
    this process a scheduler may end all others. A second Ctrl-C ends it.

    Attributes:
        asked: it has been.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.asked, self.connection = False, connection
        for number in SIGNALS:
            signal.signal(number, self._note)

    def follow(self, connection: socket.socket) -> None:
        """This is now the job's connection."""
        self.connection = connection
        if self.asked:  # meanwhile
            self._pass_on()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        self._pass_on()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _pass_on(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)


def _hand_over(job: Job, run: str) -> socket.socket:
    """The connection by which the run's server, which has a job now, tells its exit status.

    Raises:
        OSError: no server could be reached.
    """
    for _ in range(2):  # the first may be a server that is dying, which still lets others connect
        connection = _connect(run)
        with contextlib.suppress(OSError):
            send(connection, job, list(STREAMS))
            if connection.recv(len(TAKEN)):
                return connection
        connection.close()
    raise ConnectionError("the trainer's server died before it had taken a job")


def _outcome(connection: socket.socket) -> int | None:
    """A job's exit status, when it has ended; None where the server has died."""
    with connection:
        try:
            status = connection.makefile("rb").readline()
        except OSError:
            return None
    return int(status) if status else None


def _lost(status: int | None) -> str | None:
    """How a job was lost that may well succeed; None of one that has, or has failed, or was asked to stop."""
    if status is None:
        return "the trainer's server died"
    if status == GPU_FAULT:
        return "its GPU failed"
    number = status - 128  # as a shell tells of a signal
    return f"it was killed (signal {number})" if number in signal.valid_signals() - set(SIGNALS) else None


def send(connection: socket.socket, job: Job, streams: list[int]) -> None:
    """A job, and the standard streams that it is to have."""
    message = json.dumps(job).encode()
    socket.send_fds(connection, [len(message).to_bytes(8, "big")], streams)
    connection.sendall(message)


def receive(connection: socket.socket) -> tuple[Job, list[int]]:
    """A job and the client's standard streams.

    Raises:
        OSError, ValueError: the other side has gone before it had said all.
    """
    header, streams, _, _ = socket.recv_fds(connection, 8, len(STREAMS))
    try:
        header += _read(connection, 8 - len(header))
        job: Job = json.loads(_read(connection, int.from_bytes(header, "big")))
    except (OSError, ValueError):
        for stream in streams:
            os.close(stream)
        raise
    return job, streams


def _read(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the other side has gone; a signal cuts even a read that waits for all short."""
    said = b""
    while len(said) < count and (more := connection.recv(count - len(said))):
        said += more
    return said


def _connect(run: str) -> socket.socket:
    """Connect to the run's server; start it if this is the first cell."""
    folder = Path(tempfile.gettempdir()) / f"sparsedc-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    address = folder / f"{run.replace(' ', '-')}.socket"
    connection = socket.socket(socket.AF_UNIX)
    with (folder / "start.lock").open("w") as lock:  # of several first cells, one starts the server
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):
            connection.connect(str(address))
            return connection
        address.unlink(missing_ok=True)
        # Its own session: Ctrl-C reaches the clients, and through them the jobs, but not the server.
        server = subprocess.Popen(
            [sys.executable, "-m", SERVER, str(address), run.split()[0]],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        while server.poll() is None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection.connect(str(address))
                return connection
            time.sleep(0.05)
    connection.close()
    raise ConnectionError("the trainer's server did not start")

"""Trainers that start warm: within one Snakemake run, torch is imported once and every cell is a fork of that.

Importing torch and transformers takes seconds a process, more than a small cell trains for. `run_warm` hands a
command line to a server that has imported them (`sparsedc.train.server`); the server has a child run it with the
caller's standard streams, working directory and environment, and returns its exit status. The child is asked to stop
(SIGTERM) when the client is, or has gone.

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

from sparsedc.train.launch import launched

RUN_VARIABLE = "SPARSEDC_RUN"
FORKED_VARIABLE = "SPARSEDC_FORKED"  # set in the server's children, which do the work themselves
SERVER = "sparsedc.train.server"
STREAMS = (0, 1, 2)


class Job(TypedDict):
    """A command line, and where to run it."""

    arguments: list[str]
    directory: str
    environment: dict[str, str]


def run_warm(arguments: list[str]) -> int | None:
    """Run `sparsedc ARGUMENTS` in a child of the warm server.

    Returns:
        the exit status, or None where there is no Snakemake run or no server could be reached: the caller then
        does the work itself.
    """
    run = os.environ.get(RUN_VARIABLE)
    if run is None or FORKED_VARIABLE in os.environ or launched():
        return None
    try:
        connection = _connect(run)
    except OSError:
        return None
    job: Job = {"arguments": arguments, "directory": os.getcwd(), "environment": dict(os.environ)}
    with connection:
        try:
            send(connection, job, list(STREAMS))
        except OSError:
            return None
        _pass_on_signals(connection)
        try:
            status = connection.makefile("rb").readline()
        except OSError:
            status = b""
    if not status:
        print("error: the trainer's server died; run snakemake again", file=sys.stderr)
        return 1
    return int(status)


def _pass_on_signals(connection: socket.socket) -> None:
    """When this process is asked to stop, have the server ask the job, and wait for its end all the same: with this
    process a scheduler may end all others. A second Ctrl-C ends it."""

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)


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

"""Trainers that start warm: within one Snakemake run, torch is imported once and every cell is a fork of that.

Importing torch and transformers takes seconds a process, more than a small cell trains for. `run_warm` hands a
command line to a server that has imported them; the server forks a child for it, with the caller's standard
streams, working directory and environment, and returns its exit status. Each cell stays a process of its own:
it fails alone, and dies with the client that asked for it.

The server belongs to one Snakemake run, named by the environment variable SPARSEDC_RUN ("pid start-time", set
by the Snakefile), and ends with it, so that it never outlives an edit of the code. Without that variable, and on
any trouble before a job has begun, commands run in the calling process as usual. The server itself never touches
a GPU, which a fork would not survive. This module imports no torch: the client is to start fast.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN_VARIABLE = "SPARSEDC_RUN"
FORKED_VARIABLE = "SPARSEDC_FORKED"  # set in the server's children, which do the work themselves
STREAMS = (0, 1, 2)


def run_warm(arguments: list[str]) -> int | None:
    """Run `sparsedc ARGUMENTS` in a fork of the warm server.

    Returns:
        the exit status, or None where there is no Snakemake run or no server could be reached: the caller then
        does the work itself.
    """
    run = os.environ.get(RUN_VARIABLE)
    if run is None or FORKED_VARIABLE in os.environ:
        return None
    try:
        connection = _connect(run)
    except OSError:
        return None
    job = {"arguments": arguments, "directory": os.getcwd(), "environment": dict(os.environ)}
    with connection:
        message = json.dumps(job).encode()
        try:
            socket.send_fds(connection, [len(message).to_bytes(8, "big")], list(STREAMS))
            connection.sendall(message)
        except OSError:
            return None
        try:
            status = connection.makefile("rb").readline()
        except OSError:
            status = b""
    if not status:
        print("error: the trainer's server died; run snakemake again", file=sys.stderr)
        return 1
    return int(status)


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
            [sys.executable, "-m", __name__, str(address), run.split()[0]],
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


class Server:
    """Forks a child for each job that a client sends, until the process `run_pid` has ended and all jobs too."""

    def __init__(self, address: Path, run_pid: int) -> None:
        self.address, self.run_pid = address, run_pid
        self.jobs: dict[int, socket.socket] = {}  # child pid -> its client
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)

    def serve(self) -> None:
        import transformers.models.llama.modeling_llama  # noqa: F401  (the imports that this is all about)

        import sparsedc.cli
        import sparsedc.train.loop  # noqa: F401

        # Only now: where an import fails, no client has handed over its job, and each does it itself.
        self.listener.bind(str(self.address))
        self.listener.listen(256)
        self.selector.register(self.listener, selectors.EVENT_READ)
        # A child's end interrupts the wait below, so that its client hears of it at once.
        wake, woken = socket.socketpair()
        for end in (wake, woken):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        self.selector.register(wake, selectors.EVENT_READ)
        while self.jobs or _alive(self.run_pid):
            for key, _ in self.selector.select(timeout=1.0):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj is wake:
                    wake.recv(4096)
                else:
                    self._abandoned(key.fileobj)
            self._reap()
        self.address.unlink(missing_ok=True)

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        streams: list[int] = []
        try:
            header, streams, _, _ = socket.recv_fds(client, 8, len(STREAMS))
            job = json.loads(client.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL))
        except (OSError, ValueError):  # it was killed before it had said what it wants
            client.close()
            for stream in streams:
                os.close(stream)
            return
        child = os.fork()
        if child == 0:
            for ours in (self.listener, client, *self.jobs.values()):
                ours.close()  # else clients would not hear of the server's end while a job runs
            _become(job, streams)
        for stream in streams:
            os.close(stream)
        self.jobs[child] = client
        self.selector.register(client, selectors.EVENT_READ)

    def _abandoned(self, client: object) -> None:
        """A client that says anything after its job has gone: its job goes too."""
        for child, known in self.jobs.items():
            if known is client:
                self.selector.unregister(known)
                os.kill(child, signal.SIGTERM)

    def _reap(self) -> None:
        while self.jobs:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            client = self.jobs.pop(child)
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(client)
            with contextlib.suppress(OSError):
                code = os.waitstatus_to_exitcode(status)
                client.sendall(b"%d\n" % (code if code >= 0 else 128 - code))  # as a shell tells of a signal
            client.close()


def _become(job: dict[str, object], streams: list[int]) -> None:
    """In the forked child: take on the caller's streams, directory and environment, run the command, and end."""
    from sparsedc.cli import main

    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a job does not outlive its server
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for stream, number in zip(streams, STREAMS, strict=True):
            os.dup2(stream, number)
        os.chdir(str(job["directory"]))
        os.environ.clear()
        os.environ.update(job["environment"])  # type: ignore[call-overload]
        os.environ[FORKED_VARIABLE] = "1"
        sys.argv = ["sparsedc", *job["arguments"]]  # type: ignore[misc]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    Server(Path(sys.argv[1]), int(sys.argv[2])).serve()

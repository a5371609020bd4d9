"""Trainers that start warm: within one Snakemake run, torch is imported once and every cell is a fork of that.

Importing torch and transformers takes seconds a process, more than a small cell trains for. `run_warm` hands a
command line to a server that has imported them; the server forks a child for it, with the caller's standard
streams, working directory and environment, and returns its exit status. It dies with the client that asked for it.

Where there are GPUs, a child that has trained a cell stays, with its GPU and what it has compiled for it, and trains
others: starting CUDA and compiling take longer than a small cell. Each such worker has one GPU, the one on which
fewest are at work, and shares it through MPS (`sparsedc.train.mps`) where there is one. A cell that fails ends its
worker, so that the next one meets a fresh GPU.

The server belongs to one Snakemake run, named by the environment variable SPARSEDC_RUN ("pid start-time", set
by the Snakefile), and ends with it, so that it never outlives an edit of the code. Without that variable, and on
any trouble before a job has begun, commands run in the calling process as usual. The server itself never touches
a GPU, which a fork would not survive. This module imports no torch: the client is to start fast.
"""

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from sparsedc.train import mps

RUN_VARIABLE = "SPARSEDC_RUN"
FORKED_VARIABLE = "SPARSEDC_FORKED"  # set in the server's children, which do the work themselves
STREAMS = (0, 1, 2)
BAD_INPUT = 2  # the command line's exit status for an error that has nothing to do with the GPU
PATIENCE = 5.0  # seconds for a client to say what it wants


class Job(TypedDict):
    """A command line, and where to run it."""

    arguments: list[str]
    directory: str
    environment: dict[str, str]


def run_warm(arguments: list[str]) -> int | None:
    """Run `sparsedc ARGUMENTS` in a fork of the warm server.

    Returns:
        the exit status, or None where there is no Snakemake run or no server could be reached: the caller then
        does the work itself.
    """
    run = os.environ.get(RUN_VARIABLE)
    if run is None or FORKED_VARIABLE in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's own children
        return None
    try:
        connection = _connect(run)
    except OSError:
        return None
    job: Job = {"arguments": arguments, "directory": os.getcwd(), "environment": dict(os.environ)}
    with connection:
        try:
            _send(connection, job, list(STREAMS))
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


@dataclass
class Worker:
    """A child that trains one cell after another.

    Attributes:
        gpu: which it has, by the server's name for it.
        channel: through which it gets jobs, and says when one is done.
        leaves: it has been told to end, or has; it gets no other job.
    """

    gpu: str
    channel: socket.socket
    leaves: bool = False


class Server:
    """Has children do the jobs that clients send, until the process `run_pid` has ended and all jobs too."""

    def __init__(self, address: Path, run_pid: int) -> None:
        self.address, self.run_pid = address, run_pid
        self.gpus = gpus(os.environ)
        self.daemons: dict[str, mps.Daemon | None] = {}  # GPU -> its MPS daemon, if it has been looked for
        self.jobs: dict[int, socket.socket] = {}  # child pid -> its client
        self.workers: dict[int, Worker] = {}  # child pid -> what is known of it
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
                elif isinstance(key.data, int):
                    self._finished(key.data)
                else:
                    self._abandoned(key.fileobj)
            self._reap()
        self.address.unlink(missing_ok=True)
        for daemon in self.daemons.values():
            if daemon is not None:
                daemon.stop()

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        client.settimeout(PATIENCE)  # with one that stops half-way nobody else waits for long
        try:
            job, streams = _receive(client)
        except (OSError, ValueError):  # it was killed before it had said what it wants
            client.close()
            return
        client.settimeout(None)
        if self.gpus and job["arguments"][:1] == ["train"]:
            child = self._worker(client, streams)
            with contextlib.suppress(OSError):  # it has just died, and its end will be told
                _send(self.workers[child].channel, job, streams)
        else:
            child = self._fork(lambda: _do(job, streams), client)
        for stream in streams:
            os.close(stream)
        self.jobs[child] = client
        self.selector.register(client, selectors.EVENT_READ)

    def _fork(self, work: Callable[[], int], client: socket.socket) -> int:
        """The pid of a child that does this for a client, and ends with the status that comes of it."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a job does not outlive its server
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Else clients would not hear of the server's end while a job runs, nor workers.
            channels = [worker.channel for worker in self.workers.values()]
            for ours in (self.listener, client, *self.jobs.values(), *channels):
                ours.close()
            code = work()
        finally:
            os._exit(code)

    def _worker(self, client: socket.socket, streams: list[int]) -> int:
        """An idle worker on a GPU on which fewest are at work; a new one where there is none."""
        at_work = {gpu: [child for child in self.jobs if self._gpu(child) == gpu] for gpu in self.gpus}
        gpu = min(self.gpus, key=lambda gpu: len(at_work[gpu]))
        daemon = self.daemons.get(gpu)
        if daemon is not None and not daemon.alive:
            self._retire(gpu)
        for child in self.workers:
            if child not in self.jobs and self._gpu(child) == gpu and not self.workers[child].leaves:
                return child
        environment = self._environment(gpu)
        ours, theirs = socket.socketpair()

        def work() -> int:
            ours.close()
            for stream in streams:  # it gets them through its channel, as those of every job
                os.close(stream)
            return _work(environment, theirs)

        child = self._fork(work, client)
        theirs.close()
        self.workers[child] = Worker(gpu, ours)
        self.selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _retire(self, gpu: str) -> None:
        """End a GPU's idle workers, whose next cell would fail with a daemon that has died or seen a fault.

        A daemon recovers from a fault when all its clients have gone.
        """
        for child, worker in self.workers.items():
            if worker.gpu == gpu and child not in self.jobs:
                worker.leaves = True
                with contextlib.suppress(OSError):
                    worker.channel.shutdown(socket.SHUT_WR)  # it hears that there is no more to do

    def _environment(self, gpu: str) -> dict[str, str]:
        """Of workers on this GPU. Where the environment names a daemon of the user's, that is used."""
        daemon = self.daemons.get(gpu)
        # Without its daemon a client would find another GPU under the same number.
        if gpu not in self.daemons or (daemon is not None and not daemon.alive):
            folder = self.address.with_suffix(f".mps{self.gpus.index(gpu)}")
            daemon = None if mps.PIPES in os.environ else mps.Daemon.start(gpu, folder)
            self.daemons[gpu] = daemon
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu} | (
            daemon.environment() if daemon is not None else {}
        )

    def _gpu(self, child: int) -> str | None:
        return self.workers[child].gpu if child in self.workers else None

    def _finished(self, child: int) -> None:
        """A worker has done its job, or has ended, which `_reap` sees to."""
        try:
            done = self.workers[child].channel.recv(1)
        except OSError:  # killed before it had read its job
            done = b""
        if done:
            self._tell(child, 0)
        else:
            self.workers[child].leaves = True
            self.selector.unregister(self.workers[child].channel)

    def _tell(self, child: int, code: int) -> None:
        """Tell a job's client its exit status."""
        client = self.jobs.pop(child, None)
        if client is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(client)
        with contextlib.suppress(OSError):
            client.sendall(b"%d\n" % code)
        client.close()

    def _abandoned(self, client: object) -> None:
        """A client that says anything after its job has gone: its job goes too."""
        for child, known in self.jobs.items():
            if known is client:
                self.selector.unregister(known)
                if child in self.workers:
                    self.workers[child].leaves = True
                os.kill(child, signal.SIGTERM)

    def _reap(self) -> None:
        while self.jobs or self.workers:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            self._tell(child, code if code >= 0 else 128 - code)  # as a shell tells of a signal
            worker = self.workers.pop(child, None)
            if worker is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self.selector.unregister(worker.channel)
                worker.channel.close()
                if code not in (0, BAD_INPUT) and self.daemons.get(worker.gpu) is not None:
                    self._retire(worker.gpu)


def _do(job: Job, streams: list[int]) -> int:
    """In a child: take on the caller's streams, directory and environment, and run the command."""
    from sparsedc.cli import main

    try:
        for stream, number in zip(streams, STREAMS, strict=True):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(job["directory"])
        os.environ.clear()
        os.environ.update(job["environment"])
        os.environ[FORKED_VARIABLE] = "1"
        sys.argv = ["sparsedc", *job["arguments"]]
        main()
        return 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _work(environment: dict[str, str], channel: socket.socket) -> int:
    """In a worker: do jobs on the GPU of this environment until one fails, or the server has no more."""
    import torch

    nothing = os.open(os.devnull, os.O_RDWR)
    while True:
        try:
            job, streams = _receive(channel)
        except (OSError, ValueError):
            return 0
        job["environment"] |= environment
        code = _do(job, streams)
        if code:
            return code
        for number in STREAMS:
            os.dup2(nothing, number)
        gc.collect()  # models and their hooks hold each other
        torch.cuda.empty_cache()
        channel.sendall(b".")


def gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them, without touching any."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu not in ("", "-1", "NoDevFiles")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.split()


def _send(connection: socket.socket, job: Job, streams: list[int]) -> None:
    message = json.dumps(job).encode()
    socket.send_fds(connection, [len(message).to_bytes(8, "big")], streams)
    connection.sendall(message)


def _read(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the other side has gone; a signal cuts even a read that waits for all short."""
    said = b""
    while len(said) < count and (more := connection.recv(count - len(said))):
        said += more
    return said


def _receive(connection: socket.socket) -> tuple[Job, list[int]]:
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

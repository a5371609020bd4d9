"""The warm server of one Snakemake run (`sparsedc.train.warm`), and the children that train its cells.

Where there are GPUs, a child that has trained a cell stays, with its GPU and what it has compiled for it, and trains
others: starting CUDA and compiling take longer than a small cell. Each such worker has one GPU (`placement`), and
shares it through MPS (`sparsedc.train.mps`) where there is one. A cell that fails ends its worker, so that the next
one meets a fresh GPU; where the GPU has failed it, its client is told so by the exit status (GPU_FAULT), and asks once
more. A cell of several GPUs gets a child of its own, and one that finds no place waits, and those that come after it,
too.

The server itself never touches a GPU, which a fork would not survive.
"""

import contextlib
import gc
import os
import selectors
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparsedc.errors import GPU_FAULT
from sparsedc.train import mps
from sparsedc.train.placement import Demand, Gpus, visible_gpus
from sparsedc.train.stop import end_with_parent
from sparsedc.train.warm import FORKED_VARIABLE, STREAMS, TAKEN, Job, receive, send

BAD_INPUT = 2  # the command line's exit status for an error that has nothing to do with the GPU
DONE, LAST = b".", b"!"  # what a worker says of a job that it has done; with the second, it does no other
PATIENCE = 5.0  # seconds for a client to say what it wants


@dataclass(frozen=True)
class Cell:
    """A cell that is to be trained on GPUs: its command line, its client and the client's streams."""

    client: socket.socket
    job: Job
    streams: list[int]
    demand: Demand


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
        self.gpus = Gpus(visible_gpus(os.environ))
        self.daemons: dict[str, mps.Daemon | None] = {}  # GPU -> its MPS daemon, if it has been looked for
        self.jobs: dict[int, socket.socket] = {}  # child pid -> its client
        self.workers: dict[int, Worker] = {}  # child pid -> what is known of it
        self.waiting: deque[Cell] = deque()
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
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who tells every process tells jobs and clients, too
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        self.selector.register(wake, selectors.EVENT_READ)
        while self.jobs or self.waiting or _alive(self.run_pid):
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
            self._start_waiting()
        self.address.unlink(missing_ok=True)
        for daemon in self.daemons.values():
            if daemon is not None:
                daemon.stop()
        for folder in self.address.parent.glob(f"{self.address.stem}.*.mps*"):  # of the run's servers that were killed
            shutil.rmtree(folder, ignore_errors=True)

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        client.settimeout(PATIENCE)  # with one that stops half-way nobody else waits for long
        try:
            job, streams = receive(client)
        except (OSError, ValueError):  # it was killed before it had said what it wants
            client.close()
            return
        with contextlib.suppress(OSError):  # it has gone since, which will be told
            client.sendall(TAKEN)
        client.settimeout(None)
        self.selector.register(client, selectors.EVENT_READ)
        if self.gpus.memory and job["arguments"][:1] == ["train"]:
            self.waiting.append(Cell(client, job, streams, Demand.of(job["arguments"])))
        else:
            self._fork_for(client, job, streams)

    def _start_waiting(self) -> None:
        """Start the cells that find a place, in their turn."""
        while self.waiting:
            cell = self.waiting[0]
            gpus = self.gpus.find(cell.demand)
            if gpus is None:
                return
            self.waiting.popleft()
            if len(gpus) == 1:
                child = self._hand_to_worker(gpus[0], cell)
            else:
                for gpu in gpus:
                    self._retire(gpu)  # idle workers hold memory
                names = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
                cell.job["environment"] |= names  # with none, it will say what it lacks
                child = self._fork_for(cell.client, cell.job, cell.streams)
            self.gpus.take(child, gpus, cell.demand)

    def _fork_for(self, client: socket.socket, job: Job, streams: list[int]) -> int:
        """Have a child do this job alone."""
        child = self._fork(lambda: _do(job, streams), client)
        self._began(child, client, streams)
        return child

    def _hand_to_worker(self, gpu: str, cell: Cell) -> int:
        child = self._worker(gpu, cell)
        with contextlib.suppress(OSError):  # it has just died, and its end will be told
            send(self.workers[child].channel, cell.job, cell.streams)
        self._began(child, cell.client, cell.streams)
        return child

    def _began(self, child: int, client: socket.socket, streams: list[int]) -> None:
        for stream in streams:
            os.close(stream)
        self.jobs[child] = client

    def _fork(self, work: Callable[[], int], client: socket.socket) -> int:
        """The pid of a child that does this for a client, and ends with the status that comes of it."""
        # A signal to stop that comes before the child heeds it is to wait, which one that is ignored would not.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        child = os.fork()
        if child:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            return child
        code = 1
        try:
            end_with_parent()  # a job does not outlive its server
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            # Else clients would not hear of the server's end while a job runs, nor workers.
            channels = [worker.channel for worker in self.workers.values()]
            waiting = [cell.client for cell in self.waiting]
            for ours in (self.listener, client, *self.jobs.values(), *waiting, *channels):
                ours.close()
            for stream in (stream for cell in self.waiting for stream in cell.streams):
                os.close(stream)
            code = work()
        finally:
            os._exit(code)

    def _worker(self, gpu: str, cell: Cell) -> int:
        """An idle worker on this GPU; a new one where there is none."""
        daemon = self.daemons.get(gpu)
        if daemon is not None and not daemon.alive:
            self._retire(gpu)  # their next cell would fail
        for child, worker in self.workers.items():
            if worker.gpu == gpu and child not in self.jobs and not worker.leaves:
                return child
        environment = self._environment(gpu)
        ours, theirs = socket.socketpair()

        def work() -> int:
            ours.close()
            for stream in cell.streams:  # it gets them through its channel, as those of every job
                os.close(stream)
            return _work(environment, theirs, self.daemons[gpu])

        child = self._fork(work, cell.client)
        theirs.close()
        self.workers[child] = Worker(gpu, ours)
        self.selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _retire(self, gpu: str, busy: bool = False) -> None:
        """End a GPU's idle workers, and if asked those at work, after their cell."""
        for child, worker in self.workers.items():
            if worker.gpu == gpu and (busy or child not in self.jobs):
                worker.leaves = True
                with contextlib.suppress(OSError):
                    worker.channel.shutdown(socket.SHUT_WR)  # it hears that there is no more to do

    def _environment(self, gpu: str) -> dict[str, str]:
        """Of workers on this GPU. Where the environment names a daemon of the user's, that is used. In a Slurm job
        there is none: when the job's time is up, it would be told to end with the cells, and take their GPU away."""
        daemon = self.daemons.get(gpu)
        # Without its daemon a client would find another GPU under the same number.
        if gpu not in self.daemons or (daemon is not None and not daemon.alive):
            # A server that was killed may have workers who still write a checkpoint, through its daemon.
            folder = self.address.with_suffix(f".{os.getpid()}.mps{list(self.gpus.memory).index(gpu)}")
            without = mps.PIPES in os.environ or "SLURM_JOB_ID" in os.environ
            daemon = None if without else mps.Daemon.start(gpu, folder)
            self.daemons[gpu] = daemon
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu} | (
            daemon.environment() if daemon is not None else {}
        )

    def _finished(self, child: int) -> None:
        """A worker has done its job, or has ended, which `_reap` sees to."""
        worker = self.workers[child]
        try:
            done = worker.channel.recv(1)
        except OSError:  # killed before it had read its job
            done = b""
        worker.leaves = worker.leaves or done != DONE
        if done:
            self._tell(child, 0)
        else:
            self.selector.unregister(worker.channel)

    def _tell(self, child: int, code: int) -> None:
        """Tell a job's client its exit status."""
        self.gpus.leave(child, well=code == 0)
        client = self.jobs.pop(child, None)
        if client is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(client)
        with contextlib.suppress(OSError):
            client.sendall(b"%d\n" % code)
        client.close()

    def _abandoned(self, client: object) -> None:
        """A client that says anything after its job has gone, or was asked to stop: its job is, too."""
        for child, known in self.jobs.items():
            if known is client:
                self.selector.unregister(known)
                if child in self.workers:
                    self.workers[child].leaves = True
                os.kill(child, signal.SIGTERM)
        for cell in [cell for cell in self.waiting if cell.client is client]:
            self.selector.unregister(cell.client)
            self.waiting.remove(cell)
            with contextlib.suppress(OSError):
                cell.client.sendall(b"%d\n" % (128 + signal.SIGTERM))
            cell.client.close()
            for stream in cell.streams:
                os.close(stream)

    def _reap(self) -> None:
        while self.jobs or self.workers:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            worker = self.workers.pop(child, None)
            if code == GPU_FAULT:
                gpus, _ = self.gpus.cells.get(child, ([], None))
                self.gpus.fault([worker.gpu] if worker else gpus)
            self._tell(child, code if code >= 0 else 128 - code)  # as a shell tells of a signal
            if worker is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self.selector.unregister(worker.channel)
                worker.channel.close()
                if code == GPU_FAULT:  # from which a daemon, if there is one, recovers when all its clients have gone
                    self._retire(worker.gpu, busy=True)
                elif code not in (0, BAD_INPUT) and self.daemons.get(worker.gpu) is not None:
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


def _work(environment: dict[str, str], channel: socket.socket, daemon: mps.Daemon | None) -> int:
    """In a worker: do jobs on the GPU of this environment until one fails, or the server has no more."""
    import torch

    nothing = os.open(os.devnull, os.O_RDWR)
    while True:
        try:
            job, streams = receive(channel)
        except (OSError, ValueError):
            return 0
        if daemon is not None:  # before the first, whose sender does not wait meanwhile
            daemon.await_recovery()
            daemon = None
        job["environment"] |= environment
        code = _do(job, streams)
        if code:
            return code
        for number in STREAMS:
            os.dup2(nothing, number)
        gc.collect()  # models and their hooks hold each other
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # the fault of a process that shares the GPU
            channel.sendall(LAST)
            return GPU_FAULT
        channel.sendall(DONE)


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

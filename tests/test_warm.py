"""The warm server, with a real one: a client is to be told from a process of its own only by how soon it starts.

The jobs are `sparsedc study check`: on a study file it ends at once, and on a named pipe it waits for a writer,
so that there is a job to kill.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sparsedc.errors import GPU_FAULT, is_gpu_fault
from sparsedc.spec import read_spec
from sparsedc.train.placement import PROBATION, SLOTS, Demand, Gpus, visible_gpus
from sparsedc.train.warm import FORKED_VARIABLE, RUN_VARIABLE, run_warm
from waiting import PATIENCE, alive, children, handles, holds, refuses, wait_for
from workflows import steps_traced, traced, tracing

CLIENT = "import sys; from sparsedc.train.warm import run_warm; sys.exit(run_warm(sys.argv[1:]))"
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")


class Run:
    """A run to which a server belongs: a process that stands for Snakemake, and a folder for the socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "TMPDIR": str(folder)}
        self.environment.pop(FORKED_VARIABLE, None)
        self.begin()

    def begin(self) -> None:
        self.process = subprocess.Popen(["sleep", "3600"])
        self.name = f"{self.process.pid} 1700000000.5"
        self.environment[RUN_VARIABLE] = self.name

    @property
    def address(self) -> Path:
        return self.folder / f"sparsedc-{os.getuid()}" / f"{self.name.replace(' ', '-')}.socket"

    def server(self) -> int | None:
        """The server's process id, by its command line."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and str(self.address).encode() in (entry / "cmdline").read_bytes():
                    return int(entry.name)
        return None

    def client(self, *arguments: object, cwd: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", CLIENT, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
            env={**self.environment, **environment},
        )  # fmt: skip

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def finish(self) -> None:
        """End it, and at once the server that it may have."""
        server = self.server()
        self.end()
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run, and so one server, for most tests."""
    run = Run(tmp_path_factory.mktemp("w"))
    yield run
    run.finish()


@pytest.fixture
def run(lasting: Run) -> Run:
    """That one, or the next where a test has ended it."""
    if lasting.ended:
        lasting.begin()
    return lasting


@pytest.fixture
def study_folder(small: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(small))
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@contextlib.contextmanager
def waiting_job(run: Run, pipe: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A client and the process of its job, which has begun and waits."""
    client, server = run.client("study", "check", pipe), None
    try:
        server = wait_for(run.server)
        (job,) = wait_for(lambda: children(server))
        wait_for(lambda: holds(job, client, "1"))
        yield client, job
    finally:
        client.kill()
        client.wait()
        wait_for(lambda: not (server and children(server)))


def test_output_and_directory_are_the_clients(run: Run, study_folder: Path) -> None:
    out, err = (client := run.client("study", "check", "study.yaml", cwd=study_folder)).communicate(timeout=PATIENCE)
    assert (client.returncode, out, err) == (0, "study.yaml: 4 cells (4 fit, 0 extrapolation)\n", "")


def test_the_server_is_there_and_serves_the_next_client(run: Run, study_folder: Path) -> None:
    assert run.client("study", "check", study_folder / "study.yaml").wait(PATIENCE) == 0
    server = run.server()
    assert server is not None
    assert run.client("study", "check", study_folder / "study.yaml").wait(PATIENCE) == 0
    assert run.server() == server
    assert children(server) == []


def test_bad_input_is_status_2_with_its_message(run: Run, study_folder: Path) -> None:
    out, err = (client := run.client("study", "check", "none.yaml", cwd=study_folder)).communicate(timeout=PATIENCE)
    assert (client.returncode, out) == (2, "")
    assert err == "error: study file = none.yaml: No such file or directory. Name a study file.\n"


def test_usage_error_is_status_2(run: Run) -> None:
    client = run.client("study", "no-such-command")
    assert "no-such-command" in client.communicate(timeout=PATIENCE)[1]
    assert client.returncode == 2


def test_a_killed_job_is_done_once_more_and_then_is_128_and_the_signal(run: Run, study_folder: Path) -> None:
    with waiting_job(run, study_folder / "pipe") as (client, job):
        os.kill(job, signal.SIGKILL)
        again = wait_for(lambda: set(children(wait_for(run.server))) - {job}).pop()
        wait_for(lambda: holds(again, client, "1"))
        os.kill(again, signal.SIGKILL)
        assert client.wait(PATIENCE) == 128 + signal.SIGKILL
        assert client.communicate()[1] == (
            "study check: it was killed (signal 9); it begins again, from its last checkpoint if there is one\n"
        )


def test_a_job_that_was_asked_to_stop_is_not_done_again(run: Run, study_folder: Path) -> None:
    with waiting_job(run, study_folder / "pipe") as (client, job):
        os.kill(job, signal.SIGTERM)
        assert client.wait(PATIENCE) == 128 + signal.SIGTERM
        assert client.communicate()[1] == ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_client_ends_its_job_alone(run: Run, study_folder: Path, number: signal.Signals) -> None:
    os.mkfifo(study_folder / "other")
    with waiting_job(run, study_folder / "pipe") as (client, job):
        other = run.client("study", "check", study_folder / "other")
        wait_for(lambda: len(children(wait_for(run.server))) == 2)
        client.send_signal(number)
        wait_for(lambda: not alive(job))
        (study_folder / "other").write_text((study_folder / "study.yaml").read_text())  # lets the other job go on
        assert other.wait(PATIENCE) == 0


def test_jobs_run_side_by_side_and_each_hears_of_its_own_end(run: Run, study_folder: Path) -> None:
    pipes = [study_folder / f"pipe{i}" for i in range(3)]
    for pipe in pipes:
        os.mkfifo(pipe)
    clients = [run.client("study", "check", pipe) for pipe in pipes]
    wait_for(lambda: len(children(wait_for(run.server))) == 3)
    pipes[2].write_text("")  # no study
    assert clients[2].wait(PATIENCE) == 2
    pipes[0].write_text((study_folder / "study.yaml").read_text())
    assert clients[0].wait(PATIENCE) == 0
    assert clients[1].poll() is None
    clients[1].kill()
    clients[1].wait()
    wait_for(lambda: not children(wait_for(run.server)))


@pytest.mark.parametrize("said", [b"", b"\x00\x00\x00", (100).to_bytes(8, "big") + b'{"arguments":'])
def test_a_client_that_dies_before_it_has_spoken_harms_nobody(run: Run, study_folder: Path, said: bytes) -> None:
    with waiting_job(run, study_folder / "pipe") as (client, _):
        with socket.socket(socket.AF_UNIX) as dying:
            dying.connect(str(run.address))
            dying.sendall(said)
        assert run.client("study", "check", study_folder / "study.yaml").wait(PATIENCE) == 0
        (study_folder / "pipe").write_text((study_folder / "study.yaml").read_text())
        assert client.wait(PATIENCE) == 0


def test_the_environment_is_the_clients(run: Run, study_folder: Path) -> None:
    """NO_COLOR and COLUMNS reach the job: its usage text is as wide as the client says."""
    wide, narrow = (
        run.client("study", "--help", COLUMNS=columns, TERMINAL_WIDTH=columns).communicate(timeout=PATIENCE)[0]
        for columns in ("120", "50")
    )
    assert max(map(len, wide.splitlines())) > max(map(len, narrow.splitlines()))


def test_a_killed_server_takes_its_jobs_with_it_and_another_takes_its_place_once(run: Run, study_folder: Path) -> None:
    with waiting_job(run, study_folder / "pipe") as (client, job):
        server = run.server()
        assert server is not None
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: not alive(job))
        other = wait_for(lambda: (found := run.server()) != server and found)
        (again,) = wait_for(lambda: children(other))
        wait_for(lambda: holds(again, client, "1"))
        os.kill(other, signal.SIGKILL)
        assert client.wait(PATIENCE) == 1
        assert client.communicate()[1] == (
            "study check: the trainer's server died; it begins again, from its last checkpoint if there is one\n"
            "error: the trainer's server died; run snakemake again\n"
        )
        wait_for(lambda: not alive(again))
    assert run.client("study", "check", study_folder / "study.yaml").wait(PATIENCE) == 0
    assert run.server() not in (None, server, other)


def test_the_server_ends_with_the_run_and_leaves_no_socket(run: Run, study_folder: Path) -> None:
    with waiting_job(run, study_folder / "pipe") as (client, _):
        server = run.server()
        assert server is not None
        assert run.address.exists()
        run.end()
        time.sleep(1.5)  # longer than the server takes to look
        assert alive(server)  # for the job's sake
        (study_folder / "pipe").write_text((study_folder / "study.yaml").read_text())
        assert client.wait(PATIENCE) == 0
    wait_for(lambda: not alive(server))
    assert not run.address.exists()


# -------------------------------------------------------------------------------------------------------- workers


def run_with_two_gpus(folder: Path) -> Run:
    """A run on a machine of which nvidia-smi says that it has two GPUs; cells train on the CPU, traced."""
    run = Run(folder)
    smi = run.folder / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 0, GPU-a, 80000\necho 1, GPU-b, 80000\n")
    smi.chmod(0o755)
    run.environment |= {"PATH": f"{run.folder}:{run.environment['PATH']}"}
    run.environment.pop("CUDA_VISIBLE_DEVICES", None)
    run.environment |= tracing(traced(run.folder), seconds_a_step=0)
    return run


@pytest.fixture(scope="module")
def lasting_with_gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = run_with_two_gpus(tmp_path_factory.mktemp("g"))
    yield run
    run.finish()


@pytest.fixture
def with_gpus(lasting_with_gpus: Run) -> Run:
    """One run for most tests, without workers of those before."""
    run = lasting_with_gpus
    if run.ended:
        run.begin()
    elif server := run.server():
        for worker in children(server):
            os.kill(worker, signal.SIGKILL)
        wait_for(lambda: children(server) == [])
    return run


@pytest.fixture(scope="module")
def with_faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One for those whose GPUs fail, which then get no cells for a while."""
    run = run_with_two_gpus(tmp_path_factory.mktemp("f"))
    yield run
    run.finish()


@pytest.fixture
def cells(write_results: Callable[[Path], list[Path]], tmp_path: Path) -> list[Path]:
    """Spec files of four cells, beside tokens for them."""
    return write_results(tmp_path)


@pytest.fixture
def idle(with_gpus: Run, cells: list[Path]) -> int:
    """The run's only worker, which has trained the last of the cells."""
    assert train(with_gpus, cells[3], "--device", "cpu").wait(PATIENCE) == 0
    (worker,) = workers(with_gpus)
    return worker


def steps_of(spec: Path) -> list[int]:
    return list(range(1, read_spec(spec).steps + 1))


def steps_traced_by_attempt(folder: Path) -> list[list[int]]:
    """In the order of the attempts at the only cell traced there."""
    return [
        [step for _, _, step, _ in taken] for _, taken in itertools.groupby(steps_traced(folder), lambda one: one[1])
    ]


def lasting_metrics(path: Path) -> dict[str, Any]:
    """A cell's, without what two runs never agree on."""
    found: dict[str, Any] = json.loads(path.read_text())
    for varies in ("seconds", "tokens_per_second", "commit"):
        del found["row"][varies]
    return {name: value for name, value in found.items() if name not in ("finished", "pace")}


def metrics_of(spec: Path) -> Path:
    return spec.parents[1] / "out" / spec.stem / "metrics.json"


def train(run: Run, spec: Path, *options: str, **environment: str) -> "subprocess.Popen[str]":
    return run.client("train", spec, metrics_of(spec), *options, **environment)


def pausing(folder: Path) -> dict[str, str]:
    """The environment in which trainers wait after their third step, until they are asked to stop; see `paused`."""
    (folder / "trace").touch()
    return {"TRACE": str(folder / "trace"), "WAIT_AT": "3"}


def mishaps(folder: Path, *statements: str) -> dict[str, str]:
    """The environment in which each attempt at a cell has the next of these after its third step."""
    (folder / "trace").touch()
    return {"TRACE": str(folder / "trace"), "MISHAPS": json.dumps(statements)}


def paused(folder: Path) -> list[int]:
    return [pid for _, pid, step, _ in steps_traced(folder) if step == 3]


def has_begun(run: Run, client: "subprocess.Popen[str]") -> bool:
    """Has a worker the client's cell?"""
    return any(holds(worker, client, "1") for worker in workers(run))


def waits(run: Run, client: "subprocess.Popen[str]") -> bool:
    """Has the server its cell, and no place for it? Which it knows once it has done what was asked later."""
    wait_for(lambda: holds(wait_for(run.server), client))
    assert run.client("study", "--help").wait(PATIENCE) == 0
    return holds(wait_for(run.server), client)


def workers(run: Run) -> list[int]:
    return children(wait_for(run.server))


@contextlib.contextmanager
def held(spec: Path) -> Iterator[Callable[[], None]]:
    """Replace a spec file by a pipe, so that its cell waits until it is let go."""
    content = spec.read_text()
    spec.unlink()
    os.mkfifo(spec)

    def release() -> None:
        spec.write_text(content)

    yield release


def test_a_worker_trains_one_cell_after_another(with_gpus: Run, cells: list[Path]) -> None:
    pids = set()
    for spec in cells:
        _, err = (client := train(with_gpus, spec, "--device", "cpu")).communicate(timeout=PATIENCE)
        assert client.returncode == 0, err
        assert err.startswith(f"{spec.stem}: held-out loss ")  # and it has ended: the worker holds no stream of it
        pids.update(workers(with_gpus))
    assert len(pids) == 1
    folder = cells[-1].parents[1]
    arguments = ["train", cells[-1], "alone/metrics.json", "--work", "alone", "--device", "cpu"]
    program = "from sparsedc.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], cwd=folder, check=True, capture_output=True)
    losses = [
        json.loads((folder / out / "metrics.json").read_text())["row"]["val_loss"]
        for out in ("alone", f"out/{cells[-1].stem}")
    ]
    assert losses[0] == losses[1]  # nothing is left over from the cells before


def test_other_commands_are_not_for_workers(with_gpus: Run, idle: int, study_folder: Path) -> None:
    assert with_gpus.client("study", "check", study_folder / "study.yaml").wait(PATIENCE) == 0
    assert workers(with_gpus) == [idle]


def test_cells_spread_over_gpus_and_failures_end_their_workers_alone(
    with_gpus: Run, idle: int, cells: list[Path], tmp_path: Path
) -> None:
    bug = "raise ValueError('a bug on GPU ' + os.environ['CUDA_VISIBLE_DEVICES'])"
    with contextlib.ExitStack() as stack:
        releases = [stack.enter_context(held(spec)) for spec in cells[:3]]
        clients = []
        for number, spec in enumerate(cells[:3], start=1):
            clients.append(train(with_gpus, spec, "--device", "cpu", **mishaps(tmp_path, bug)))
            wait_for(lambda number=number: len(workers(with_gpus)) == number)
        assert idle in workers(with_gpus)
        found = []
        for client, release in zip(clients, releases, strict=True):
            release()
            err = client.communicate(timeout=PATIENCE)[1]
            assert client.returncode == 1
            (gpu,) = re.findall(r"ValueError: a bug on GPU (\d)", err)
            found.append(gpu)
    assert found in (["0", "1", "0"], ["0", "1", "1"], ["1", "0", "0"], ["1", "0", "1"])
    wait_for(lambda: workers(with_gpus) == [])


def test_killed_clients_and_workers_harm_no_other_cell(with_gpus: Run, cells: list[Path]) -> None:
    with held(cells[0]), held(cells[1]) as release:
        first = train(with_gpus, cells[0], "--device", "cpu")
        (one,) = wait_for(lambda: workers(with_gpus))
        second = train(with_gpus, cells[1], "--device", "cpu")
        other = wait_for(lambda: set(workers(with_gpus)) - {one}).pop()
        first.kill()
        first.wait()
        wait_for(lambda: not alive(one))
        third = train(with_gpus, cells[2], "--device", "cpu")
        assert third.wait(PATIENCE) == 0
        release()
        assert second.wait(PATIENCE) == 0
        assert other in workers(with_gpus)


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def test_a_worker_that_is_killed_has_its_cell_finished_by_another(
    with_gpus: Run, cells: list[Path], tmp_path: Path
) -> None:
    environment = mishaps(tmp_path, KILL)
    assert (client := train(with_gpus, cells[0], "--device", "cpu", **environment)).wait(PATIENCE) == 0
    assert "it was killed (signal 9); it begins again" in client.communicate()[1]
    assert steps_traced_by_attempt(tmp_path) == [[1, 2, 3], steps_of(cells[0])]
    alone = tmp_path / "alone.json"
    arguments = "train", cells[0], alone, "--work", tmp_path / "alone", "--device", "cpu"
    assert with_gpus.client(*arguments).wait(PATIENCE) == 0
    assert lasting_metrics(metrics_of(cells[0])) == lasting_metrics(alone)


def test_a_worker_that_is_killed_twice_loses_its_cell(with_gpus: Run, cells: list[Path], tmp_path: Path) -> None:
    client = train(with_gpus, cells[0], "--device", "cpu", **mishaps(tmp_path, KILL, KILL))
    assert client.wait(PATIENCE) == 128 + signal.SIGKILL
    assert client.communicate()[1].count("it begins again") == 1
    assert steps_traced_by_attempt(tmp_path) == [[1, 2, 3], [1, 2, 3]]
    assert workers(with_gpus) == []


@pytest.mark.parametrize(
    "bug", ["ValueError('CUDA error')", "__import__('torch').OutOfMemoryError('CUDA out of memory')"]
)
def test_a_bug_is_not_tried_again(with_gpus: Run, cells: list[Path], tmp_path: Path, bug: str) -> None:
    client = train(with_gpus, cells[0], "--device", "cpu", **mishaps(tmp_path, f"raise {bug}"))
    assert client.wait(PATIENCE) == 1
    err = client.communicate()[1]
    assert err.count("Traceback") == 1
    assert "it begins again" not in err
    assert steps_traced_by_attempt(tmp_path) == [[1, 2, 3]]


def test_who_was_asked_to_stop_does_not_try_again(with_gpus: Run, cells: list[Path], tmp_path: Path) -> None:
    """As where a scheduler's patience is over before a checkpoint is written."""
    dies = f"signal.signal(signal.SIGTERM, lambda *_: {KILL}); open(os.environ['TRACE'] + '.set', 'w'); signal.pause()"
    client = train(with_gpus, cells[0], "--device", "cpu", **mishaps(tmp_path, dies))
    wait_for((tmp_path / "trace.set").exists)
    wait_for(lambda: handles(client.pid, signal.SIGTERM))
    client.send_signal(signal.SIGTERM)
    assert client.wait(PATIENCE) == 128 + signal.SIGKILL
    assert client.communicate()[1] == ""


def test_a_cell_whose_server_is_killed_goes_on_by_another(with_gpus: Run, cells: list[Path], tmp_path: Path) -> None:
    """Its worker is asked to stop by the system, and writes a checkpoint."""
    client = train(with_gpus, cells[0], "--device", "cpu", **pausing(tmp_path))
    wait_for(lambda: paused(tmp_path))
    server = wait_for(with_gpus.server)
    os.kill(server, signal.SIGKILL)
    assert client.wait(PATIENCE) == 0
    assert "the trainer's server died; it begins again" in client.communicate()[1]
    assert with_gpus.server() not in (None, server)
    steps = steps_of(cells[0])
    assert steps_traced_by_attempt(tmp_path) == [steps[:3], steps[3:]]


FAULT = "raise RuntimeError('CUDA error: made up on GPU ' + os.environ['CUDA_VISIBLE_DEVICES'])"
NO_FAULT = "print('well on GPU', os.environ['CUDA_VISIBLE_DEVICES'], file=sys.stderr)"


def test_a_fault_of_a_gpu_is_tried_again_on_the_other(with_faults: Run, cells: list[Path], tmp_path: Path) -> None:
    client = train(with_faults, cells[0], "--device", "cpu", **mishaps(tmp_path, FAULT, NO_FAULT))
    err = client.communicate(timeout=PATIENCE)[1]
    assert client.returncode == 0
    (failed,) = re.findall(r"RuntimeError: CUDA error: made up on GPU (\d)", err)
    (well,) = re.findall(r"well on GPU (\d)", err)
    assert {failed, well} == {"0", "1"}
    assert "its GPU failed; it begins again" in err


def test_a_second_fault_is_the_last(with_faults: Run, cells: list[Path], tmp_path: Path) -> None:
    client = train(with_faults, cells[0], "--device", "cpu", **mishaps(tmp_path, FAULT, FAULT))
    err = client.communicate(timeout=PATIENCE)[1]
    assert client.returncode == GPU_FAULT
    assert set(re.findall(r"RuntimeError: CUDA error: made up on GPU (\d)", err)) == {"0", "1"}
    assert err.count("it begins again") == 1
    assert steps_traced_by_attempt(tmp_path) == [[1, 2, 3], [1, 2, 3]]


def test_a_gpu_that_is_not_found_is_a_fault_too(with_faults: Run, cells: list[Path]) -> None:
    """As here, where there is no real one for a cell that is not told to use the CPU."""
    client = train(with_faults, cells[0])
    err = client.communicate(timeout=PATIENCE)[1]
    assert client.returncode == GPU_FAULT
    assert set(re.findall(r"CUDA_VISIBLE_DEVICES = (\d)", err)) == {"0", "1"}


def test_a_fault_of_a_rank_is_tried_again(with_faults: Run, cells: list[Path], tmp_path: Path) -> None:
    """The other one waits for its end."""
    fault = f"if os.environ['LOCAL_RANK'] == '0': {FAULT}\nsignal.pause()"
    environment = mishaps(tmp_path, fault, fault)  # of either, which come to it in any order
    client = train(with_faults, cells[0], "--device", "cpu", "--ranks", "2", **environment)
    err = client.communicate(timeout=PATIENCE)[1]
    assert client.returncode == 0, err
    assert "its GPU failed; it begins again" in err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasSgemm(…)`"), True),
        (RuntimeError("CUDA driver error: an illegal memory access was encountered"), True),  # of compiled code
        (RuntimeError("Triton Error [CUDA]: unspecified launch failure"), True),
        (RuntimeError("NCCL error: unhandled cuda error. Cuda failure 700 'an illegal memory access'"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("CUDA error"), False),
    ],
)
def test_faults_of_a_gpu_are_told_from_bugs(error: Exception, expected: bool) -> None:
    assert is_gpu_fault(error) == expected


def test_a_job_that_is_stopped_as_soon_as_it_is_taken_ends(with_gpus: Run, cells: list[Path], tmp_path: Path) -> None:
    """Its process may not heed signals yet."""
    assert train(with_gpus, cells[0], "--device", "cpu").wait(PATIENCE) == 0
    arguments = ["train", str(cells[1]), str(tmp_path / "metrics.json"), "--device", "cpu"]
    environment = {**with_gpus.environment, **pausing(tmp_path)}
    message = json.dumps({"arguments": arguments, "directory": "/", "environment": environment}).encode()
    for _ in range(10):
        with socket.socket(socket.AF_UNIX) as hasty:
            hasty.connect(str(with_gpus.address))
            socket.send_fds(hasty, [len(message).to_bytes(8, "big")], [0, 1, 2])
            hasty.sendall(message)
            assert hasty.recv(1) == b"+"
            hasty.shutdown(socket.SHUT_WR)
            hasty.settimeout(PATIENCE)
            assert hasty.makefile("rb").readline() == b"143\n"


def test_a_cell_that_is_done_is_done_whatever_its_gpu_does_next(
    with_faults: Run, cells: list[Path], tmp_path: Path
) -> None:
    fails = "import torch\ndef fails(): raise RuntimeError('CUDA error: made up')\ntorch.cuda.empty_cache = fails"
    assert train(with_faults, cells[0], "--device", "cpu", **mishaps(tmp_path, fails)).wait(PATIENCE) == 0
    wait_for(lambda: workers(with_faults) == [])
    assert train(with_faults, cells[1], "--device", "cpu").wait(PATIENCE) == 0


def test_a_client_that_hangs_up_at_once_harms_no_other(with_gpus: Run, cells: list[Path]) -> None:
    """Its worker may be killed with the job unread, or between two jobs."""
    assert train(with_gpus, cells[0], "--device", "cpu").wait(PATIENCE) == 0
    server = with_gpus.server()
    job = {"arguments": ["train", "x"], "directory": "/", "environment": {"BIG": "x" * 300_000}}
    message = json.dumps(job).encode()
    for _ in range(30):
        with socket.socket(socket.AF_UNIX) as hasty:
            hasty.connect(str(with_gpus.address))
            socket.send_fds(hasty, [len(message).to_bytes(8, "big")], [0, 1, 2])
            hasty.sendall(message)
    assert train(with_gpus, cells[1], "--device", "cpu").wait(PATIENCE) == 0
    assert with_gpus.server() == server


def test_workers_end_with_the_run(with_gpus: Run, idle: int) -> None:
    server = with_gpus.server()
    assert server is not None
    with_gpus.end()
    wait_for(lambda: not alive(server) and not alive(idle))


@pytest.fixture
def with_mps(tmp_path_factory: pytest.TempPathFactory, mps_control: Path) -> Iterator[Run]:
    """A run on a machine with GPUs 5 and 6 and a stand-in for NVIDIA's MPS; its folder's path is short enough for a
    socket's."""
    run = Run(tmp_path_factory.mktemp("d"))
    run.environment |= tracing(traced(run.folder), seconds_a_step=0)
    run.environment |= {"PATH": f"{mps_control}:{run.environment['PATH']}", "CUDA_VISIBLE_DEVICES": "5,6"}
    yield run
    run.end()


def test_workers_share_their_gpu_through_a_daemon_of_its_own(with_mps: Run, cells: list[Path], tmp_path: Path) -> None:
    """Behind the daemon of GPU 5 or 6 a worker's GPU is number 0."""
    options, environment = ("--device", "cpu"), mishaps(tmp_path, NO_FAULT)
    with held(cells[0]) as release:
        clients = [train(with_mps, cells[0], *options, **environment)]
        server = wait_for(with_mps.server)
        wait_for(lambda: len(children(server)) == 2)  # the daemon of one GPU, and a worker on it
        clients.append(train(with_mps, cells[1], *options, **environment))
        assert "well on GPU 0" in clients[1].communicate(timeout=PATIENCE)[1]
        release()
        assert "well on GPU 0" in clients[0].communicate(timeout=PATIENCE)[1]
    folders = sorted(with_mps.address.parent.glob("*.mps*"))
    assert [(folder / "gpu").read_text() for folder in folders] == ["5", "6"]
    with_mps.end()
    wait_for(lambda: not alive(server))
    assert list(with_mps.address.parent.glob("*.mps*")) == []


def test_a_daemon_that_died_and_a_server_that_was_killed_are_replaced(with_mps: Run, cells: list[Path]) -> None:
    with_mps.environment["CUDA_VISIBLE_DEVICES"] = "5"

    def daemon(*old: Path) -> Path:
        """By the error of a cell that finds no real GPU."""
        assert "CUDA_VISIBLE_DEVICES = 0" in train(with_mps, cells[0]).communicate(timeout=PATIENCE)[1]
        (folder,) = set(with_mps.address.parent.glob("*.mps*")) - set(old)
        assert (folder / "server").exists()
        return folder

    folder = daemon()
    server = wait_for(with_mps.server)
    (process,) = children(server)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not alive(process))
    assert daemon() == folder
    (other,) = children(server)
    assert other != process
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: refuses(with_mps.address) and not alive(other))
    assert folder.exists()  # left over, to workers who may still be writing a checkpoint
    daemon(folder)
    assert with_mps.server() not in (None, server)
    with_mps.end()
    wait_for(lambda: not list(with_mps.address.parent.glob("*.mps*")))


def test_idle_workers_do_not_outlive_a_daemon_or_the_failure_of_another_worker(
    with_mps: Run, cells: list[Path]
) -> None:
    with_mps.environment["CUDA_VISIBLE_DEVICES"] = "5"

    def leave_two_idle(waits: Path) -> list[int]:
        with held(waits) as release:
            first = train(with_mps, waits, "--device", "cpu")
            wait_for(lambda: len(workers(with_mps)) == 2)  # the daemon and it
            second = train(with_mps, cells[1], "--device", "cpu")
            assert second.wait(PATIENCE) == 0, second.stderr
            release()
            assert first.wait(PATIENCE) == 0, first.stderr
        return workers(with_mps)

    daemon, *idle = sorted(leave_two_idle(cells[0]))
    assert len(idle) == 2
    with held(cells[2]):
        failing = train(with_mps, cells[2], "--device", "cpu")
        wait_for(lambda: has_begun(with_mps, failing))
        os.kill(next(worker for worker in idle if holds(worker, failing)), signal.SIGKILL)
        wait_for(lambda: not any(alive(worker) for worker in idle))
        wait_for(lambda: has_begun(with_mps, failing))  # again
        failing.kill()
    wait_for(lambda: workers(with_mps) == [daemon])
    daemon, *idle = sorted(leave_two_idle(cells[3]))
    os.kill(daemon, signal.SIGKILL)
    wait_for(lambda: not alive(daemon))
    last = train(with_mps, cells[1], "--device", "cpu")
    assert last.wait(PATIENCE) == 0, last.stderr
    wait_for(lambda: not any(alive(worker) for worker in idle))
    wait_for(lambda: len(workers(with_mps)) == 2)


def test_a_fault_ends_all_workers_on_its_gpu_before_a_cell_begins_there_again(
    with_mps: Run, cells: list[Path], tmp_path: Path
) -> None:
    """Those that share the GPU end with their cells, and the daemon, which lets nobody in meanwhile, is waited for."""
    with_mps.environment["CUDA_VISIBLE_DEVICES"] = "5"
    fault = f"open(os.environ['CUDA_MPS_PIPE_DIRECTORY'] + '/fault', 'w'); {FAULT}"
    with held(cells[0]) as release:
        neighbour = train(with_mps, cells[0], "--device", "cpu")
        wait_for(lambda: has_begun(with_mps, neighbour))
        (sharing,) = (child for child in workers(with_mps) if holds(child, neighbour))
        (daemon,) = set(workers(with_mps)) - {sharing}
        client = train(with_mps, cells[1], "--device", "cpu", **mishaps(tmp_path, fault))
        failed = wait_for(lambda: steps_traced(tmp_path))[0][1]
        again = wait_for(lambda: set(workers(with_mps)) - {daemon, sharing, failed}).pop()
        assert alive(sharing)
        release()
        assert neighbour.wait(PATIENCE) == 0
        wait_for(lambda: not alive(sharing))
    assert steps_traced_by_attempt(tmp_path) == [[1, 2, 3]]
    next(with_mps.address.parent.glob("*.mps*/fault")).unlink()
    assert client.wait(PATIENCE) == 0
    assert sorted(workers(with_mps)) == sorted([daemon, again])


def test_a_daemon_that_the_user_runs_is_left_to_the_user(with_mps: Run, cells: list[Path]) -> None:
    with_mps.environment |= {"CUDA_VISIBLE_DEVICES": "5", "CUDA_MPS_PIPE_DIRECTORY": "/theirs"}
    assert "CUDA_VISIBLE_DEVICES = 5" in train(with_mps, cells[0]).communicate(timeout=PATIENCE)[1]


def test_a_cell_of_two_gpus_has_them_to_itself_and_others_wait_for_their_turn(
    with_gpus: Run, idle: int, cells: list[Path]
) -> None:
    """Ranks on the CPU wait for no GPU of their own, but the server gives them two all the same."""
    run = with_gpus
    with held(cells[0]) as release:
        first = train(run, cells[0], "--device", "cpu")
        wait_for(lambda: holds(idle, first, "1"))
        pair = train(run, cells[1], "--device", "cpu", "--ranks", "2")
        assert waits(run, pair)
        third = train(run, cells[2], "--device", "cpu")  # there is room for it, but it is not its turn
        assert waits(run, third)
        assert workers(run) == [idle]
        release()
        assert first.wait(PATIENCE) == 0
        launcher = wait_for(lambda: set(workers(run)) - {idle}).pop()
        wait_for(lambda: not alive(idle))  # it has left the GPU
        ranks = wait_for(lambda: len(found := children(launcher)) == 2 and found)
        for rank in ranks:
            environment = Path(f"/proc/{rank}/environ")
            wait_for(lambda environment=environment: "CUDA_VISIBLE_DEVICES=0,1" in environment.read_text().split("\0"))
        assert workers(run) == [launcher]
        assert pair.wait(PATIENCE) == 0, pair.communicate()
        assert third.wait(PATIENCE) == 0, third.communicate()
    assert json.loads(metrics_of(cells[1]).read_text())["ranks"] == 2


def test_ranks_that_cannot_share_a_batch_are_refused_before_they_start(with_gpus: Run, cells: list[Path]) -> None:
    client = train(with_gpus, cells[0], "--ranks", "3", "--device", "cpu")  # more than there are GPUs
    err = client.communicate(timeout=PATIENCE)[1]
    assert client.returncode == 2
    assert err.count("\n") == 1
    assert "4 sequences, which 3 ranks cannot share" in err


def test_a_cell_that_is_asked_to_stop_leaves_a_checkpoint_whoever_else_is_told(
    with_gpus: Run, cells: list[Path], tmp_path: Path
) -> None:
    """A scheduler tells every process at once: client, server and trainer."""
    client = train(with_gpus, cells[0], "--device", "cpu", **pausing(tmp_path))
    wait_for(lambda: paused(tmp_path))
    wait_for(lambda: handles(client.pid, signal.SIGTERM))
    server = wait_for(with_gpus.server)
    for process in (client.pid, server, *children(server)):
        os.kill(process, signal.SIGTERM)
    assert client.wait(PATIENCE) == 128 + signal.SIGTERM
    assert len(list((tmp_path / "work").glob("*/checkpoint-*.sha256"))) == 1
    assert with_gpus.server() == server
    again = train(with_gpus, cells[0], "--device", "cpu", **pausing(tmp_path))
    assert again.wait(PATIENCE) == 0, again.communicate()
    assert [step for _, _, step, _ in steps_traced(tmp_path)] == list(range(1, read_spec(cells[0]).steps + 1))


def test_a_client_that_dies_in_the_queue_leaves_it(with_gpus: Run, cells: list[Path]) -> None:
    run = with_gpus
    with held(cells[0]) as release:
        first = train(run, cells[0], "--device", "cpu", "--gpu-mb", "70000")
        wait_for(lambda: has_begun(run, first))
        pair = train(run, cells[1], "--device", "cpu", "--ranks", "2")
        assert waits(run, pair)
        pair.kill()
        pair.wait()
        second = train(run, cells[2], "--device", "cpu", "--gpu-mb", "70000")
        assert second.wait(PATIENCE) == 0  # on the other GPU
        release()
        assert first.wait(PATIENCE) == 0
    assert not metrics_of(cells[1]).exists()


def test_ranks_end_with_a_launcher_that_is_killed(with_gpus: Run, cells: list[Path], tmp_path: Path) -> None:
    """Else they would train on GPUs that others have been given."""
    client = train(with_gpus, cells[0], "--device", "cpu", "--ranks", "2", **pausing(tmp_path))
    ranks = wait_for(lambda: len(found := paused(tmp_path)) == 2 and found)
    (launcher,) = workers(with_gpus)
    assert sorted(children(launcher)) == sorted(ranks)
    os.kill(launcher, signal.SIGKILL)
    wait_for(lambda: not any(alive(rank) for rank in ranks))
    assert client.wait(PATIENCE) == 0
    steps = [(step, pid in ranks) for _, pid, step, _ in steps_traced(tmp_path)]
    assert sorted(steps) == sorted(2 * [(step, step <= 3) for step in steps_of(cells[0])])  # from their checkpoint on


def test_a_waiting_cell_that_is_asked_to_stop_says_nothing_of_the_server(with_gpus: Run, cells: list[Path]) -> None:
    run = with_gpus
    with held(cells[0]) as release, held(cells[1]) as release_other:
        both = [train(run, spec, "--device", "cpu", "--gpu-mb", "70000") for spec in cells[:2]]
        wait_for(lambda: all(has_begun(run, client) for client in both))
        waiting = train(run, cells[2], "--device", "cpu", "--gpu-mb", "70000")
        assert waits(run, waiting)
        wait_for(lambda: handles(waiting.pid, signal.SIGTERM))
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(PATIENCE) == 128 + signal.SIGTERM
        assert waiting.communicate()[1] == ""
        release()
        release_other()
        assert [client.wait(PATIENCE) for client in both] == [0, 0]


@pytest.mark.skipif(len(visible_gpus(os.environ)) < 2, reason="needs two GPUs")
def test_cells_of_one_gpu_and_of_two_on_real_ones(
    tmp_path_factory: pytest.TempPathFactory, cells: list[Path], tmp_path: Path
) -> None:
    run = Run(tmp_path_factory.mktemp("r"))
    for spec, options in ((cells[0], []), (cells[1], ["--ranks", "2"]), (cells[2], []), (cells[3], ["--ranks", "2"])):
        train(run, spec, *options)
    metrics = [wait_for(lambda spec=spec: metrics_of(spec).exists() and metrics_of(spec)) for spec in cells]
    found = [json.loads(path.read_text()) for path in metrics]
    assert [one["ranks"] for one in found] == [1, 2, 1, 2]
    assert all("NVIDIA" in one["row"]["device"] for one in found)
    alone = tmp_path / "alone.json"
    again = run.client("train", cells[1], alone, "--work", tmp_path / "alone")
    assert again.wait(PATIENCE) == 0, again.communicate()
    loss = json.loads(alone.read_text())["row"]["val_loss"]
    assert found[1]["row"]["val_loss"] == pytest.approx(loss, abs=5e-3)
    run.end()


def test_cells_share_a_gpu_while_their_memory_fits() -> None:
    gpus = Gpus({"0": 80_000, "1": None})
    large, little = Demand(megabytes=50_000), Demand(megabytes=20_000)
    gpus.take(1, ["0"], large)
    assert gpus.find(large) == ["1"]
    gpus.take(2, ["1"], large)
    assert gpus.find(little) == ["0"]
    gpus.take(3, ["0"], little)
    assert gpus.find(little) == ["1"]  # of which it is not known what it holds
    gpus.leave(2)
    assert gpus.find(Demand(2)) is None
    gpus.leave(1)
    gpus.leave(3)
    assert gpus.find(Demand(2)) == ["0", "1"]
    gpus.take(4, ["0", "1"], Demand(2))
    assert gpus.find(Demand()) is None
    assert gpus.find(Demand(3)) == []
    gpus.leave(4)
    assert gpus.find(Demand(megabytes=10**9)) == ["0"]  # alone, whatever it says
    for number in range(2 * SLOTS):
        gpus.take(number, gpus.find(Demand()) or [], Demand())
    assert Counter(gpu for at, _ in gpus.cells.values() for gpu in at) == {"0": SLOTS, "1": SLOTS}
    assert gpus.find(Demand()) is None


def test_a_gpu_that_has_failed_gets_no_other_cell_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    gpus = Gpus({"0": 80_000, "1": 80_000})
    gpus.fault(["0"])
    large = Demand(megabytes=70_000)
    assert gpus.find(large) == ["1"]
    gpus.take(1, ["1"], large)
    assert gpus.find(large) is None  # though nobody is on the first
    now += PROBATION - 1
    assert gpus.find(large) is None
    now += 1
    assert gpus.find(large) == ["0"]
    gpus.fault(["0"])
    now += PROBATION
    assert gpus.find(large) is None  # the second time for longer
    now += PROBATION
    gpus.take(2, ["0"], large)
    gpus.leave(2, well=True)
    gpus.fault(["0"])
    now += PROBATION
    assert gpus.find(large) == ["0"]  # as after the first time


def test_where_all_have_failed_the_oldest_fault_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    gpus = Gpus({"0": None, "1": None, "2": None})
    gpus.fault(["1"])
    now += 1
    gpus.fault(["0", "2"])
    assert gpus.find(Demand()) == ["1"]
    gpus = Gpus({"0": None, "1": None, "2": None})
    gpus.fault(["0", "1"])
    assert gpus.find(Demand()) == ["2"]
    assert sorted(gpus.find(Demand(3)) or []) == ["0", "1", "2"]


def test_a_broken_gpu_does_not_swallow_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cells at once, of which the second finds the one good GPU taken; each may fail once."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    gpus, large = Gpus({"broken": 80_000, "good": 80_000}), Demand(megabytes=70_000)
    failures: Counter[int] = Counter()
    left, running = list(range(40)), {}
    while left or running:
        while left and (found := gpus.find(large)):
            running[cell := left.pop(0)] = found[0], now + (1 if found == ["broken"] else 30)
            gpus.take(cell, found, large)
        cell = min(running, key=lambda cell: running[cell][1])
        gpu, now = running.pop(cell)
        if gpu == "broken":
            gpus.fault([gpu])
            failures[cell] += 1
            left.insert(0, cell)
        gpus.leave(cell, well=gpu == "good")
    assert max(failures.values()) == 1


@pytest.mark.parametrize(
    ("arguments", "demand"),
    [
        ("train s m", Demand()),
        ("train s m folder --ranks 2 --gpu-mb=300 --threads 4", Demand(2, 300)),
        ("train s m --ranks two", Demand()),
    ],
)
def test_the_demand_is_read_off_the_command_line(arguments: str, demand: Demand) -> None:
    assert Demand.of(arguments.split()) == demand


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0, GPU-8ab, 81559\necho 1, GPU-9cd, 40960\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("1,0", {"1": 40960, "0": 81559}),
        ("GPU-8ab", {"GPU-8ab": 81559}),
        ("MIG-1", {"MIG-1": None}),
        ("", {}),
        ("-1", {}),
        ("NoDevFiles", {}),
    ],
)
def test_visible_devices_are_the_gpus(nvidia_smi: None, visible: str, found: dict[str, int | None]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": visible}) == found
    assert visible_gpus({}) == {"0": 81559, "1": 40960}


def test_what_nvidia_smi_does_not_know_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0, GPU-8ab, [N/A]\necho\necho No devices were found\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_gpus({}) == {"0": None}


def test_without_nvidia_smi_there_are_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == {}
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2"}) == {"2": None}


def test_without_a_run_there_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    assert run_warm(["study", "check", "none.yaml"]) is None
    monkeypatch.setenv(RUN_VARIABLE, "1 2.5")
    monkeypatch.setenv(FORKED_VARIABLE, "1")
    assert run_warm(["study", "check", "none.yaml"]) is None
    assert list(tmp_path.iterdir()) == []


def test_where_no_server_can_start_the_caller_does_the_work(tmp_path: Path) -> None:
    """The server fails at its first import; no client may take that for the end of its job."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "transformers.py").write_text("raise ImportError('broken')")
    program = CLIENT.replace("sys.exit(run_warm(sys.argv[1:]))", "print(run_warm(sys.argv[1:]))")
    environment = {
        **os.environ, RUN_VARIABLE: f"{os.getpid()} 1.5", "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(tmp_path / "broken"),
    }  # fmt: skip
    environment.pop(FORKED_VARIABLE, None)
    ended = subprocess.run(
        [sys.executable, "-c", program, "study", "check", "none.yaml"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("None\n", "")

"""Daemons of MPS, by a stand-in for NVIDIA's program: what is asked of it, and that nothing is left over."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sparsedc.train.mps import Daemon
from waiting import wait_for


@pytest.fixture
def control(mps_control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{mps_control}:{os.environ['PATH']}")


def test_a_daemon_is_ready_when_it_is_given_and_leaves_nothing(control: None, tmp_path: Path) -> None:
    daemon = Daemon.start("3", tmp_path / "mps")
    assert daemon is not None
    assert (tmp_path / "mps" / "gpu").read_text() == "3"
    assert time.time() > float((tmp_path / "mps" / "server").read_text()) + 0.2
    assert daemon.environment() == {
        "CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "mps"),
        "CUDA_VISIBLE_DEVICES": "0",  # GPU 3 is the only one that clients see
    }
    daemon.stop()
    assert daemon.process.returncode is not None
    assert (tmp_path / "has-quit").exists()  # and was not killed
    assert not (tmp_path / "mps").exists()


def test_a_gpu_that_cannot_be_shared_is_used_without(control: None, tmp_path: Path) -> None:
    assert Daemon.start("broken", tmp_path / "mps") is None
    assert not (tmp_path / "mps").exists()


def test_a_driver_without_mps_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Daemon.start("0", tmp_path / "mps") is None
    assert not (tmp_path / "mps").exists()


def test_after_a_fault_a_daemon_is_waited_for(control: None, tmp_path: Path) -> None:
    """Until all of its clients have gone, when the stand-in's fault is over."""
    daemon = Daemon.start("3", tmp_path / "mps")
    assert daemon is not None
    fault = tmp_path / "mps" / "fault"
    fault.touch()
    end = threading.Timer(0.5, fault.unlink)
    end.start()
    daemon.await_recovery()
    assert not fault.exists()
    daemon.stop()
    daemon.await_recovery()  # there is nothing to wait for


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl")
def test_a_daemon_ends_with_the_process_that_started_it(control: None, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from sparsedc.train.mps import Daemon;"
        "print(Daemon.start('0', Path(sys.argv[1])).process.pid, flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "mps")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        daemon = json.loads(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{daemon}").exists())

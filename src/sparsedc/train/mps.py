"""NVIDIA's Multi-Process Service (MPS): processes that share a GPU compute side by side on it instead of in turn.

Each GPU gets a daemon of its own, as a fault on a GPU ends all of a daemon's clients.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from sparsedc.train.stop import end_with_parent

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
PATIENCE = 10.0  # seconds for a daemon to get ready, in which its starter does nothing else
FAREWELL = 2.0  # seconds for one to end
RECOVERY = 120.0  # seconds after a fault for clients to notice, one of which may be writing a large model's checkpoint


@dataclass
class Daemon:
    """The daemon of one GPU, a child of the process that started it, with which it ends.

    Attributes:
        folder: of its pipes and logs.
    """

    process: "subprocess.Popen[bytes]"
    folder: Path

    @classmethod
    def start(cls, gpu: str, folder: Path) -> "Daemon | None":
        """A daemon that is ready for clients.

        Args:
            gpu: as CUDA_VISIBLE_DEVICES names it.
            folder: to be made.

        Returns:
            None where the driver has no MPS, or it does not work with this GPU.
        """
        shutil.rmtree(folder, ignore_errors=True)  # of a daemon that has died
        try:
            folder.mkdir()
            process = subprocess.Popen(
                [CONTROL, "-f"],
                env=_environment(folder) | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                preexec_fn=_end_with_server,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        daemon = cls(process, folder)
        if daemon._serves():
            return daemon
        daemon.stop()
        return None

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def environment(self) -> dict[str, str]:
        """Of clients. For them the GPU is the daemon's first."""
        return {PIPES: str(self.folder), "CUDA_VISIBLE_DEVICES": "0"}

    def await_recovery(self) -> None:
        """In a client to be: wait while it lets none in, which after a fault it does until all that it had are gone."""
        end = time.monotonic() + RECOVERY
        while (left := end - time.monotonic()) > 0 and (state := self._state(left)) and "ACTIVE" not in state:
            time.sleep(0.1)

    def stop(self) -> None:
        """End it, and clients that there still are."""
        self._ask("quit -t 1", FAREWELL)
        try:
            self.process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _serves(self) -> bool:
        """Does it start a server? It would do so for its first client, which had to bear a failure."""
        end = time.monotonic() + PATIENCE
        while self.alive and (left := end - time.monotonic()) > 0:
            state = self._state(left)
            if "ACTIVE" in state:
                return True
            if not state:
                self._ask(f"start_server -uid {os.getuid()}", left)
            time.sleep(0.1)
        return False

    def _state(self, seconds: float) -> str:
        """Its server's, in NVIDIA's words; "" while there is none."""
        servers = self._ask("get_server_list", seconds).split()
        return self._ask(f"get_server_status {servers[0]}", seconds) if servers else ""

    def _ask(self, command: str, seconds: float) -> str:
        try:
            return subprocess.run(
                [CONTROL], env=_environment(self.folder), input=command + "\n", capture_output=True, text=True,
                timeout=seconds,
            ).stdout  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return ""


def _end_with_server() -> None:
    """A server that does not heed SIGTERM would have its daemon not heed it, either."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {PIPES: str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}

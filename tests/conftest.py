"""A stand-in for NVIDIA's MPS control program, for machines without a GPU."""

import sys
from pathlib import Path

import pytest

# Servers start when they are asked for, and get ready some time later, as real ones do.
CONTROL = f"""#!{sys.executable}
import os, pathlib, sys, time
folder = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
server = folder / "server"
if sys.argv[1:] == ["-f"]:
    if os.environ["CUDA_VISIBLE_DEVICES"] == "broken":
        sys.exit(1)
    (folder / "gpu").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while not (folder / "quit").exists():
        time.sleep(0.02)
    (folder.parent / "has-quit").touch()
    sys.exit()
asked = sys.stdin.read().split()
if not (folder / "gpu").exists():
    sys.exit("no daemon")
if asked[0] == "start_server":
    assert asked[1:] == ["-uid", str(os.getuid())]
    server.write_text(str(time.time()))
elif asked[0] == "get_server_list" and server.exists():
    print(123)
elif asked[0] == "get_server_status":
    assert asked[1] == "123"
    print("ACTIVE" if time.time() > float(server.read_text()) + 0.2 else "INITIALIZING")
elif asked[0] == "quit":
    (folder / "quit").touch()
"""


@pytest.fixture
def mps_control(tmp_path: Path) -> Path:
    """A folder for PATH, with the stand-in alone."""
    folder = tmp_path / "mps-control"
    folder.mkdir()
    program = folder / "nvidia-cuda-mps-control"
    program.write_text(CONTROL)
    program.chmod(0o755)
    return folder

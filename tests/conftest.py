"""A stand-in for NVIDIA's MPS control program, for machines without a GPU; and a study of four small cells."""

import copy
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsedc.spec import canonical_json
from sparsedc.study import load_study

SMALL: dict[str, Any] = {
    "name": "small",
    "corpus": {"source": "installed"},
    "tokenizer": {"vocab_size": 512},
    "sequence_length": 64,
    "training": {"batch_tokens": 256},
    "grid": [{"sizes": ["13k"], "densities": [1, 0.5], "unique_tokens": [4096], "epochs": [1, 2]}],
}

# Servers start when they are asked for, and get ready some time later, as real ones do. Without `site`, Python starts
# in a moment.
CONTROL = f"""#!{sys.executable} -IS
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
    if (folder / "fault").exists():
        print("FAULT")
    else:
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


@pytest.fixture
def small() -> dict[str, Any]:
    """A study of four cells that train in a moment each."""
    return copy.deepcopy(SMALL)


@pytest.fixture(scope="session")
def write_tokens() -> Callable[..., None]:
    """Write made-up tokens for it into a folder."""

    def write(folder: Path, seed: int = 0) -> None:
        ids = np.random.default_rng(seed).integers(0, 512, 8192).astype(np.uint16).tobytes()
        split = {"tokens": 8192, "documents": 1, "characters": 8192, "sha256": hashlib.sha256(ids).hexdigest()}
        splits = {name: {**split, "file": f"{name}.bin"} for name in ("train", "validation")}
        folder.mkdir(parents=True, exist_ok=True)
        for name in splits:
            (folder / f"{name}.bin").write_bytes(ids)
        manifest = {"format": 1, "dtype": "uint16", "vocab_size": 512, "eod": 0, "splits": splits}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return write


@pytest.fixture(scope="session")
def write_results(write_tokens: Callable[..., None]) -> Callable[[Path], list[Path]]:
    """Write the folder of its results as it is before training: tokens, and specs, whose paths are returned."""

    def write(folder: Path) -> list[Path]:
        study = load_study(SMALL)
        write_tokens(folder / "corpus" / study.data / "tokens")
        (folder / "specs").mkdir()
        specs = []
        for cell in study.cells.values():
            specs.append(folder / "specs" / f"{cell.id}.json")
            specs[-1].write_text(canonical_json(cell.spec.content()))
        return specs

    return write


#: Modules that take minutes, the longest first: begun last, one of them would run alone at the end.
LONGEST = ("test_slurm", "test_workflow", "test_ranks", "test_interruptions", "test_warm", "test_checkpoint")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))

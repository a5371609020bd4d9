"""How much of a small cell's time the warm trainer saves: the same cells trained cold and warm, in turn.

    python benchmarks/warm_start.py [CELLS]

Trains CELLS (default 5) tiny cells one after the other, each as its own `sparsedc train` process that imports torch
itself, and each as a client of one warm server (sparsedc.train.warm), and prints the ratio of wall-clock times a
cell. The server's own start is paid once a run and is left out, but printed.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sparsedc.spec import canonical_json
from sparsedc.study import load_study
from sparsedc.train.warm import RUN_VARIABLE

STUDY = {
    "name": "warm-start",
    "corpus": {"source": "installed"},
    "tokenizer": {"vocab_size": 512},
    "sequence_length": 32,
    "training": {"batch_tokens": 256},
    "grid": [{"sizes": ["13k"], "densities": [1], "unique_tokens": [1024], "epochs": [1], "seeds": list(range(1000))}],
}


def write_tokens(folder: Path) -> None:
    """Random tokens: what is timed is everything around the training."""
    folder.mkdir()
    ids = np.random.default_rng(0).integers(0, 512, 4096).astype(np.uint16).tobytes()
    split = {"tokens": 4096, "documents": 1, "characters": 4096, "sha256": hashlib.sha256(ids).hexdigest()}
    splits = {name: {**split, "file": f"{name}.bin"} for name in ("train", "validation")}
    for name in splits:
        (folder / f"{name}.bin").write_bytes(ids)
    manifest = {"format": 1, "dtype": "uint16", "vocab_size": 512, "eod": 0, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def main(count: int) -> None:
    cells = iter(load_study(STUDY).cells.values())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder / "tokens")

        def train(environment: dict[str, str]) -> float:
            cell = next(cells)
            spec = folder / "specs" / f"{cell.id}.json"
            spec.parent.mkdir(exist_ok=True)
            spec.write_text(canonical_json(cell.spec.content()))
            command = ["sparsedc", "train", spec, folder / cell.id / "metrics.json", "--tokens", folder / "tokens"]
            began = time.perf_counter()
            subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
            return time.perf_counter() - began

        cold = {key: value for key, value in os.environ.items() if key != RUN_VARIABLE}
        warm = {**cold, RUN_VARIABLE: f"{os.getpid()} {time.time()}"}
        train(cold)  # files into the page cache
        print(f"first warm cell, with the server's start: {train(warm):.2f} s")
        pairs = [(train(cold), train(warm)) for _ in range(count)]
    colds, warms = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"cold {colds:.2f} s a cell, warm {warms:.2f} s a cell (medians of {count}), ratio {colds / warms:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)

"""Cells an hour of a grid of small cells on GPUs: by workers that go on from cell to cell, several a GPU, and as one
process a cell.

    python benchmarks/grid_throughput.py --at-once 8 --steps 300
    python benchmarks/grid_throughput.py --cells 6 --sizes 13k --steps 4 --batch-tokens 512 --at-once 2   # on a CPU

A grid of --cells cells over sizes, densities (1 and 0.25, `rigl`) and seeds on random tokens, trained and evaluated by
`sparsedc train` as Snakemake calls it: first by one process a cell, one after another, then by one process a cell,
--at-once of them side by side, then by workers. The first takes only --alone cells, since it is slow. Compilation
caches are empty at first and shared by all. Prints cells an hour and the ratios.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sparsedc.spec import canonical_json
from sparsedc.study import load_study
from sparsedc.train.warm import RUN_VARIABLE

VOCABULARY = 4096
HELD_OUT = 2**18


def main(
    cells: int = 60,
    sizes: Annotated[str, typer.Option()] = "1m8,3m,6m",
    steps: int = 300,
    batch_tokens: int = 16384,
    at_once: int = 8,
    alone: int = 6,
) -> None:
    study = load_study(
        {
            "name": "grid",
            "corpus": {"source": "installed"},
            "tokenizer": {"vocab_size": VOCABULARY},
            "sequence_length": 256,
            "training": {"batch_tokens": batch_tokens, "topology_interval": max(1, steps // 4)},
            "grid": [
                {
                    "sizes": sizes.split(","), "densities": [1, 0.25], "methods": ["rigl"],
                    "unique_tokens": [batch_tokens * steps], "epochs": [1], "seeds": list(range(cells)),
                }
            ],
        }
    )  # fmt: skip
    chosen = sorted(study.cells.values(), key=lambda cell: cell.spec.seed)[:cells]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder / "tokens", batch_tokens * steps)
        (folder / "specs").mkdir()
        for cell in chosen:
            (folder / "specs" / f"{cell.id}.json").write_text(canonical_json(cell.spec.content()))
        cold = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        cold.pop(RUN_VARIABLE, None)
        warm = {**cold, RUN_VARIABLE: f"{os.getpid()} {time.time()}"}

        def hourly(environment: dict[str, str], some: list[str], width: int, out: str) -> float:
            def train(cell: str) -> None:
                command = [sys.executable, "-c", "from sparsedc.cli import main; main()", "train"]
                where = [
                    "--tokens",
                    folder / "tokens",
                    "--out",
                    folder / out / cell,
                    "--work",
                    folder / "work" / out / cell,
                ]
                subprocess.run(
                    [*command, str(folder / "specs" / f"{cell}.json"), *map(str, where)],
                    check=True, env=environment, stderr=subprocess.DEVNULL,
                )  # fmt: skip

            begin = time.perf_counter()
            with ThreadPoolExecutor(width) as pool:
                list(pool.map(train, some))
            rate = len(some) / (time.perf_counter() - begin) * 3600
            print(
                json.dumps({"way": out, "at_once": width, "cells": len(some), "cells_per_hour": round(rate)}),
                flush=True,
            )
            return rate

        names = [cell.id for cell in chosen]
        one = hourly(cold, names[:alone], 1, "process a cell, alone")
        side = hourly(cold, names, at_once, "process a cell, side by side")
        ours = hourly(warm, names, at_once, "workers")
    print(f"workers over a process a cell: {ours / one:.2f} alone, {ours / side:.2f} side by side")


def write_tokens(folder: Path, tokens: int) -> None:
    folder.mkdir()
    splits = {}
    for name, count in (("train", tokens), ("validation", HELD_OUT)):
        ids = np.random.default_rng(0).integers(0, VOCABULARY, count).astype(np.uint16).tobytes()
        (folder / f"{name}.bin").write_bytes(ids)
        splits[name] = {
            "tokens": count, "documents": 1, "characters": count, "sha256": hashlib.sha256(ids).hexdigest(),
            "file": f"{name}.bin",
        }  # fmt: skip
    manifest = {"format": 1, "dtype": "uint16", "vocab_size": VOCABULARY, "eod": 0, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    typer.run(main)

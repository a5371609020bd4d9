"""Cells an hour of a grid of small cells on GPUs: by workers that go on from cell to cell, side by side on a GPU, and
as one process a cell.

    python benchmarks/grid_throughput.py --at-once 8 --steps 600
    python benchmarks/grid_throughput.py --cells 6 --sizes 13k --steps 4 --batch-tokens 512 --at-once 2   # on a CPU

A grid of --cells cells over sizes, densities (1 and 0.25, `rigl`) and seeds on random tokens, trained and evaluated by
`sparsedc train` as Snakemake calls it. Every shape is first trained once, so that compilation caches are warm for all
ways. Then, on one GPU: one process a cell, one after another (--alone cells, as it is slow) and --at-once side by side
(three times --at-once cells); workers, one cell at once, --at-once without MPS, and with it. Then workers on all GPUs,
--at-once on each. --no-peers leaves only the last two. Each way starts its workers anew: `first_after` is when the
first cell was done.
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
from sparsedc.train.placement import visible_gpus
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
    peers: bool = True,
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
        write_tokens(folder / "tokens", batch_tokens * steps, VOCABULARY)
        (folder / "specs").mkdir()
        for cell in chosen:
            (folder / "specs" / f"{cell.id}.json").write_text(canonical_json(cell.spec.content()))
        cards = list(visible_gpus(os.environ))
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        environment.pop(RUN_VARIABLE, None)

        def hourly(way: str, some: list[str], at_once: int, workers: bool = False, **variables: str) -> float:
            """Cells an hour, on one GPU unless `variables` say otherwise. Workers end with the run that they are of."""
            variables = {"CUDA_VISIBLE_DEVICES": cards[0] if cards else "", **variables}
            ends = []
            with subprocess.Popen(["sleep", "3600"]) as run:
                if workers:
                    variables[RUN_VARIABLE] = f"{run.pid} {time.time()}"

                def train(cell: str) -> None:
                    command = [sys.executable, "-c", "from sparsedc.cli import main; main()", "train"]
                    command += [f"{folder}/specs/{cell}.json", f"{folder}/out/{way}/{cell}/metrics.json"]
                    trained = subprocess.run(
                        [*command, "--tokens", folder / "tokens", "--work", folder / "work" / way / cell],
                        env=environment | variables, stderr=subprocess.PIPE, text=True,
                    )  # fmt: skip
                    ends.append(time.perf_counter())
                    if trained.returncode:
                        raise RuntimeError(f"{cell} failed:\n{trained.stderr}")

                begin = time.perf_counter()
                try:
                    with ThreadPoolExecutor(at_once) as pool:
                        list(pool.map(train, some))
                    seconds = time.perf_counter() - begin
                    daemons = (Path(tempfile.gettempdir()) / f"sparsedc-{os.getuid()}").glob(f"{run.pid}-*.mps*")
                    served = len(list(daemons))
                finally:
                    run.kill()
            rows = [json.loads(path.read_text())["row"] for path in (folder / "out" / way).glob("*/metrics.json")]
            result = {
                "way": way, "at_once": at_once, "cells": len(some), "cells_per_hour": round(len(some) / seconds * 3600),
                "seconds": round(seconds, 1), "first_after": round(min(ends) - begin, 1),
                "mps_daemons": served,
                "seconds_in_training": round(sum(row["seconds"] for row in rows), 1),
            }  # fmt: skip
            print(json.dumps(result), flush=True)
            return len(some) / seconds * 3600

        names = [cell.id for cell in chosen]
        shapes = {(cell.spec.size, cell.spec.density): cell.id for cell in chosen}
        hourly("first of each shape", list(shapes.values()), at_once)
        if peers:
            one = hourly("a process a cell", names[:alone], 1)
            side = hourly("a process a cell, side by side", names[: 3 * at_once], at_once)
            single = hourly("workers, one cell at once", names[: 2 * alone], 1, workers=True)
            turns = hourly("workers, without MPS", names, at_once, workers=True, CUDA_MPS_PIPE_DIRECTORY="none")
        ours = hourly("workers", names, at_once, workers=True)
        if peers:
            print(f"workers over a process a cell: {ours / one:.2f}, and over these side by side {ours / side:.2f}")
            print(f"{at_once} cells at once over one: {ours / single:.2f}, without MPS {turns / single:.2f}")
        if len(cards) > 1:
            every = {"CUDA_VISIBLE_DEVICES": ",".join(cards)}
            all_ = hourly("workers on all GPUs", names, at_once * len(cards), workers=True, **every)
            print(f"{len(cards)} GPUs over one: {all_ / ours:.2f}")


def write_tokens(folder: Path, tokens: int, vocabulary: int) -> None:
    """A folder of random tokens, as the tokenizer's would be, as frequent as in text (Zipf): their loss falls, so that
    a model that has lost what it learnt is seen."""
    folder.mkdir()
    splits = {}
    for name, count in (("train", tokens), ("validation", HELD_OUT)):
        drawn = (vocabulary ** np.random.default_rng(0).random(count)).astype(np.uint16) - 1
        ids = drawn.tobytes()
        (folder / f"{name}.bin").write_bytes(ids)
        splits[name] = {
            "tokens": count, "documents": int((drawn == 0).sum()), "characters": count,
            "sha256": hashlib.sha256(ids).hexdigest(), "file": f"{name}.bin",
        }  # fmt: skip
    manifest = {"format": 1, "dtype": "uint16", "vocab_size": vocabulary, "eod": 0, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    typer.run(main)

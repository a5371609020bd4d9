"""Several training processes on one GPU, which take turns or share it through MPS: tokens/s of all together over one.

    python benchmarks/packing.py 3m:64:4096 6m:64:4096 --processes 1,2,4,8

A case is size:sequences:vocabulary, of 256 tokens a sequence, `rigl` at density 0.25, trained as cells are. All
compile and warm up, and then train for --seconds at the same time. One JSON line a measurement.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Annotated

import typer

from sparsedc.train.mps import Daemon

WARM_UP = 10


def main(cases: Annotated[list[str], typer.Argument()], processes: str = "1,2,4,8", seconds: float = 5.0) -> None:
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon.start("0", Path(folder) / "mps")
        if daemon is None:
            sys.exit("no MPS on this machine")
        shared = daemon.environment()
        for case in cases:
            alone = 0.0
            for count in map(int, processes.split(",")):
                for way, environment in (("turns", {}), ("mps", shared)):
                    rate = together(case, count, seconds, environment)
                    alone = alone or rate
                    result = {"case": case, "processes": count, "way": way, "tokens_per_second": round(rate)}
                    print(json.dumps(result | {"over_one": round(rate / alone, 2)}), flush=True)
        daemon.stop()


def together(case: str, count: int, seconds: float, environment: dict[str, str]) -> float:
    """Tokens/s of so many processes."""
    spawn = multiprocessing.get_context("spawn")
    ready, rates = spawn.Barrier(count), spawn.Queue()
    children = [
        spawn.Process(target=train, args=(case, seconds, environment, ready, rates.put)) for _ in range(count)
    ]  # fmt: skip
    for child in children:
        child.start()
    total = sum(rates.get(timeout=300) for _ in children)  # one that fails never tells
    for child in children:
        child.join()
    return total


def train(case: str, seconds: float, environment: dict[str, str], ready: Barrier, tell) -> None:  # type: ignore[no-untyped-def]
    os.environ |= environment
    import torch
    from trainer_throughput import DENSITY, SEQUENCE, ours, spec_of

    from sparsedc.train.ranks import ALONE

    size, sequences, vocabulary = case.split(":")
    spec = spec_of(size, int(sequences), int(vocabulary))
    ids = torch.randint(int(vocabulary), (int(sequences), SEQUENCE + 1), device="cuda")
    step = ours(spec, "rigl", DENSITY, ids, ALONE)()
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    ready.wait()
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + seconds:
        for _ in range(20):
            step()
        torch.cuda.synchronize()
        steps += 20
    tell(steps * spec.training.batch_tokens / (time.perf_counter() - begin))


if __name__ == "__main__":
    typer.run(main)

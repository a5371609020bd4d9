"""Step time of dynamic sparse training over that of dense training, topology updates included, in one run.

    python benchmarks/sparse_step.py 1m8 6m 120m --interval 100

Both train in turns, a hundred steps each, through the trainer that cells use; a turn of the sparse one holds one
topology update. Prints the ratio of their median turn times. The aim is at most 1.02.
"""

import json
import statistics
import time
from typing import Annotated

import torch
import typer

from sparsedc.config import Hyperparameters
from sparsedc.model import LADDER
from sparsedc.spec import Spec
from sparsedc.train.trainer import Trainer

SEQUENCE = 256


def main(
    sizes: Annotated[list[str], typer.Argument()],
    methods: Annotated[str, typer.Option()] = "static,set,rigl,smet",
    densities: Annotated[str, typer.Option()] = "0.5,0.25,0.0625",
    batch_tokens: int = 16384,
    vocab_size: int = 4096,
    interval: int = 100,
    turns: int = 3,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}; {batch_tokens} tokens a step, vocabulary {vocab_size}", flush=True)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab_size, (batch_tokens // SEQUENCE, SEQUENCE + 1), generator=generator).to(device)

    def trainer(size: str, method: str, density: float) -> Trainer:
        steps = interval * (turns + 1) + 1
        spec = Spec(
            data="0" * 16, size=size, shape=LADDER[size], vocab_size=vocab_size, sequence_length=SEQUENCE,
            evaluation_split="validation", method=method, density=density,
            unique_tokens=batch_tokens * steps, epochs=1, seed=0,
            training=Hyperparameters(
                batch_tokens=batch_tokens, topology_interval=interval, topology_stop=1.0, drop_fraction=0.2
            ),
        )  # fmt: skip
        return Trainer.start(spec, device)

    def turn(trainer: Trainer) -> float:
        begin = time.perf_counter()
        for _ in range(interval):
            trainer.take_step(ids[:, :-1], ids[:, 1:])
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    for size in sizes:
        dense = trainer(size, "dense", 1.0)
        turn(dense)
        for method in methods.split(","):
            for density in map(float, densities.split(",")):
                sparse = trainer(size, method, density)
                turn(sparse)
                pairs = [(turn(sparse), turn(dense)) for _ in range(turns)]
                dense.step = interval  # its spec allows no more steps than one comparison needs
                ours, theirs = (statistics.median(times) / interval * 1e3 for times in zip(*pairs, strict=True))
                result = {
                    "size": size, "method": method, "density": density,
                    "sparse_ms": round(ours, 3), "dense_ms": round(theirs, 3), "ratio": round(ours / theirs, 4),
                }  # fmt: skip
                print(json.dumps(result), flush=True)
                del sparse


if __name__ == "__main__":
    typer.run(main)

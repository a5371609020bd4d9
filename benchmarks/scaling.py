"""What several GPUs gain for one cell, by `sparsedc train --ranks`: the same tokens a GPU on 1, 2, 4 … of them; and a
checkpoint of many that is resumed on fewer.

    python benchmarks/scaling.py speed 7b68:smet:16384 1b92:dense:32768 1b92:shards:32768 --gpus 1,2,4
    python benchmarks/scaling.py resume 1b92:shards:32768 480m:rigl:32768 --before 4 --after 2
    python benchmarks/scaling.py speed 13k:smet:512 13k:shards:512 --gpus 1,2 --cpu 2     # on a CPU as if on two GPUs

A case is size:way:tokens a GPU and step, in sequences of 256 and a vocabulary of 32,000. Ways: `dense`, each GPU with
the whole model unless that is too large; `shards`, dense in shards whatever its size (on one GPU there are none); or a
sparse method, at density 0.25. Tokens are random, as frequent as in text. Runs that find enough free GPUs go on side by
side. One JSON line a run: a step's time is the median over steps after the first four that end with no topology update;
an update's time is the median of such steps with one, less that. At each update all ranks' masks are compared, by
`sparsedc train` itself, and a run whose masks differ fails. Every step ends with a look at the loss, for which ranks
wait for each other; in longer cells one in a hundred does. One GPU replays a recorded step where the model is small
enough, several do not.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from typing import Annotated, Any

import typer
from grid_throughput import write_tokens

from sparsedc import model as models
from sparsedc.config import Hyperparameters
from sparsedc.spec import FINGERPRINT_LENGTH, Spec, canonical_json, fingerprint
from sparsedc.train.launch import FAREWELL
from sparsedc.train.placement import visible_gpus

SEQUENCE, VOCABULARY, DENSITY = 256, 32000, 0.25
UPDATES = 3
WARM_UP = 4  # steps in which shapes are compiled and it is found out what fits
TALKS = "from sparsedc.train import cell; cell.REPORT_SECONDS = 0.0"
WHOLE = f"{TALKS}; from sparsedc.cli import main; main()"
SHARDS = f"from sparsedc.train import memory; memory.capacity = lambda device: 0; {WHOLE}"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Case:
    size: str
    way: str
    tokens: int  # a GPU and step

    @classmethod
    def read(cls, text: str) -> "Case":
        size, way, tokens = text.split(":")
        return cls(size, way, int(tokens))

    @property
    def dense(self) -> bool:
        return self.way in ("dense", "shards")

    def spec(self, gpus: int, steps: int) -> Spec:
        batch = gpus * self.tokens
        return Spec(
            data="0" * 16, size=self.size, shape=models.LADDER[self.size], vocab_size=VOCABULARY,
            sequence_length=SEQUENCE, evaluation_split="validation", method="dense" if self.dense else self.way,
            density=1.0 if self.dense else DENSITY, unique_tokens=batch * steps, epochs=1, seed=0,
            training=Hyperparameters(batch_tokens=batch, lr=1e-4, topology_updates=UPDATES),
        )  # fmt: skip


class Machine:
    """Its GPUs, and those of them that are free; without GPUs, so many made-up ones."""

    def __init__(self, cpu: int) -> None:
        self.device = ["--device", "cpu"] if cpu else []
        self.free = [""] * cpu or list(visible_gpus(os.environ))
        self.all = len(self.free)
        self.changed = Condition()

    @contextmanager
    def some(self, number: int) -> Iterator[dict[str, str]]:
        """The environment of a process that has so many GPUs to itself."""
        if number > self.all:
            raise typer.BadParameter(f"{number} GPUs, and there are {self.all}")
        with self.changed:
            self.changed.wait_for(lambda: len(self.free) >= number)
            taken, self.free = self.free[:number], self.free[number:]
        try:
            yield {
                **os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(taken),
                "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(FAREWELL),
            }  # fmt: skip
        finally:
            with self.changed:
                self.free += taken
                self.changed.notify_all()


@dataclass
class Cell:
    """A cell on some GPUs of a machine, in a folder of its own."""

    case: Case
    spec: Spec
    machine: Machine
    folder: Path
    tokens: Path

    def train(self, gpus: int, stop: bool = False) -> tuple[str, dict[str, Any] | None]:
        """What it said, and its metrics; with `stop`, it is asked to stop halfway."""
        identity = fingerprint(self.spec.content())
        spec = self.folder / "specs" / f"cell-{identity[:FINGERPRINT_LENGTH]}.json"
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(canonical_json(self.spec.content()))
        metrics = self.folder / "metrics.json"
        command = [sys.executable, "-c", SHARDS if self.case.way == "shards" else WHOLE]
        own = stop or self.case.way == "shards"  # begins with what `--ranks` would not pass on
        if gpus > 1 and own:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
            command = [*launcher, "--no-python", *command]
        command += ["train", str(spec), str(metrics), "--tokens", str(self.tokens), "--work", str(self.folder / "work")]
        command += [*self.machine.device, "--threads", str(8 * gpus)]
        if gpus > 1 and not own:
            command += ["--ranks", str(gpus)]
        said = ""
        with (
            self.machine.some(gpus) as environment,
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running,
        ):
            assert running.stderr is not None
            for line in running.stderr:
                said += line
                step = re.search(r" step (\d+) of ", line)
                if stop and step and 2 * int(step[1]) >= self.spec.steps:
                    running.send_signal(signal.SIGTERM)
                    stop = False
        return said, json.loads(metrics.read_text()) if metrics.exists() else None


@app.command()
def speed(cases: list[str], gpus: Annotated[str, typer.Option()] = "1,2,4,8", steps: int = 16, cpu: int = 0) -> None:
    """Tokens a second, memory, and what is lost with more GPUs."""
    machine = Machine(cpu)
    numbers = [int(number) for number in gpus.split(",")]
    speeds: dict[tuple[Case, int], float] = {}

    def measure(case: Case, number: int) -> None:
        spec = case.spec(number, steps)
        begin = time.perf_counter()
        said, metrics = Cell(case, spec, machine, folder / f"{case.size}-{case.way}-{number}", folder / "tokens").train(
            number
        )
        line: dict[str, Any] = {"size": case.size, "way": case.way, "gpus": number, "tokens_a_gpu": case.tokens}
        if metrics is None:
            print(json.dumps({**line, "failed": said[-2000:]}), flush=True)
            return
        updates = set() if case.dense else set(spec.topology.update_steps)
        taken = durations(metrics["pace"])
        taken = {step: seconds for step, seconds in taken.items() if step > WARM_UP}
        plain = statistics.median(taken[step] for step in taken if step not in updates)
        update = statistics.median(taken[step] for step in updates & taken.keys()) - plain if updates else None
        speeds[case, number] = case.tokens / plain
        peak = metrics["peak_memory_bytes"]
        line |= {
            "device": metrics["row"]["device"], "ms": round(plain * 1e3, 1),
            "tokens_per_second_a_gpu": round(case.tokens / plain),
            "update_seconds": None if update is None else round(update, 2),
            "updates_with_masks_alike": len(metrics["topology"]["updates"]) if updates else None,
            "peak_gib": round(peak / 2**30, 1) if peak else None, "sharded": metrics["sharded"],
            "micro_batches": metrics["micro_batches"], "recomputes": metrics["recomputes_activations"],
            "loss": metrics["row"]["val_loss"], "seconds_in_training": round(metrics["row"]["seconds"], 1),
            "seconds": round(time.perf_counter() - begin, 1),
        }  # fmt: skip
        print(json.dumps(line), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(
            folder / "tokens", max(numbers) * steps * max(Case.read(case).tokens for case in cases), VOCABULARY
        )
        runs = [(Case.read(case), number) for number in numbers for case in cases]
        with ThreadPoolExecutor(len(runs)) as pool:
            for ended in [pool.submit(measure, *run) for run in runs]:
                ended.result()
    for case in dict.fromkeys(case for case, _ in speeds):
        known = [number for number in numbers if (case, number) in speeds]
        for few in known[: min(2, len(known) - 1)]:
            shares = {many: round(speeds[case, many] / speeds[case, few], 3) for many in known if many > few}
            print(f"{case.size} {case.way}: a GPU's speed, of that on {few}: {shares}", flush=True)


@app.command()
def resume(cases: list[str], before: int = 8, after: int = 2, steps: int = 60, cpu: int = 0) -> None:
    """A checkpoint of many GPUs resumed on fewer, and how the loss differs from that of training without a break."""
    machine = Machine(cpu)

    def measure(case: Case) -> None:
        spec = case.spec(before, steps)
        broken = Cell(case, spec, machine, folder / f"{case.size}-{case.way}-broken", folder / "tokens")
        said, metrics = broken.train(before, stop=True)
        found = sorted(path.stem for path in (broken.folder / "work").glob("checkpoint-*.sha256"))
        if metrics is not None or not found:
            raise RuntimeError(f"it was to stop midway, and has not:\n{said}")
        said, resumed = broken.train(after)
        if resumed is None or "starts over" in said:
            raise RuntimeError(f"it was to go on from its checkpoint, and has not:\n{said}")
        straight = replace(broken, folder=folder / f"{case.size}-{case.way}-straight").train(before)[1]
        assert straight is not None
        losses = [metrics["row"]["val_loss"] for metrics in (resumed, straight)]
        line = {
            "size": case.size, "way": case.way, "before": before, "after": after, "steps": steps,
            "stopped_after": int(found[-1].split("-")[1]), "resumed_at": resumed["pace"][0]["step"],
            "sharded": resumed["sharded"], "loss": losses[0], "loss_without_a_break": losses[1],
            "difference": losses[0] - losses[1],
            "masks_alike_at_the_end": None if case.dense else resumed["mask_hash"] == straight["mask_hash"],
        }  # fmt: skip
        print(json.dumps(line), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder / "tokens", before * steps * max(Case.read(case).tokens for case in cases), VOCABULARY)
        with ThreadPoolExecutor(len(cases)) as pool:
            for ended in [pool.submit(measure, Case.read(case)) for case in cases]:
                ended.result()


def durations(pace: list[dict[str, Any]]) -> dict[int, float]:
    """Seconds that each step took, by its number, where the one before it is known too."""
    at = {moment["step"]: moment["seconds"] for moment in pace}
    return {step: at[step] - at[step - 1] for step in at if step - 1 in at}


if __name__ == "__main__":
    app()

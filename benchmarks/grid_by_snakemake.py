"""A study of 96 small cells by `snakemake`, on one GPU and on several; and on all of them while processes are killed.

    python benchmarks/grid_by_snakemake.py FOLDER_OF_TEXT --gpus 1,4,4k --at-once 4
    CUDA_VISIBLE_DEVICES= python benchmarks/grid_by_snakemake.py TEXT --gpus 1,1k --sizes 13k --seeds 4 --tokens 16384

Sizes, densities (1 and 0.25, `set`) and seeds on real text, four passes over --tokens of it, 16,384 a step, --at-once
cells on a GPU. With `4k`, a worker is killed when a third of the cells are done, and an MPS server, with all whom it
serves, when two thirds are. One JSON line a way: seconds from Snakemake's start to its end, tokens and budgets made
before; `rate` is cells an hour between the first cell's end and the last one's; `cells_by_gpu` and `most_at_once` are
by the GPUs' own names in the cells' metrics, the latter counted over training alone.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import typer
import yaml

from sparsedc.train.placement import visible_gpus

BATCH = 16384
EPOCHS = 4
ROOT = Path(__file__).resolve().parents[1]


def main(
    text: Path,
    gpus: Annotated[str, typer.Option()] = "1,8,8k",
    at_once: int = 4,
    sizes: str = "1m8,3m,6m",
    seeds: int = 16,
    tokens: int = 125 * BATCH,
) -> None:
    study = {
        "name": "grid",
        "corpus": {"source": "folder", "path": str(text.resolve())},
        "tokenizer": {"vocab_size": 4096},
        "sequence_length": 256,
        "training": {"batch_tokens": BATCH},
        "grid": [
            {
                "sizes": sizes.split(","), "densities": [1, 0.25], "methods": ["set"],
                "unique_tokens": [tokens], "epochs": [EPOCHS], "seeds": list(range(seeds)),
            }
        ],
    }  # fmt: skip
    cards = list(visible_gpus(os.environ))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = folder / "begun"
        begun.mkdir()
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        snakemake(begun, 2, None, "--until", "budget").wait()
        for way in gpus.split(","):
            number = int(way.removesuffix("k"))
            here = folder / way
            shutil.copytree(begun, here)
            cells = 2 * len(sizes.split(",")) * seeds
            told = grid(here, cells, number, at_once, cards[:number], way.endswith("k"))
            print(json.dumps({"way": way, **told}), flush=True)


def grid(folder: Path, cells: int, gpus: int, at_once: int, cards: list[str], kills: bool) -> dict[str, Any]:
    """Train so many cells in a folder, and tell how it went."""
    finished = folder / "results" / "grid" / "cells"
    begin = time.time()
    running = snakemake(folder, gpus * at_once, cards, "--until", "train")
    killed: list[str] = []
    if kills:
        Thread(target=kill, args=(running, finished, cells, killed), daemon=True).start()
    code = running.wait()
    seconds = time.time() - begin
    done = [json.loads(path.read_text()) for path in finished.glob("*/metrics.json")]
    if not done:
        raise RuntimeError((folder / "said.txt").read_text()[-3000:])
    spans = [(one["finished"] - one["row"]["seconds"], one["finished"], one["gpu"]) for one in done]
    ends = sorted(end for _, end, _ in spans)
    attempts = [path.read_text() for path in (folder / "results" / "grid" / "logs" / "attempts").glob("*.log")]
    said = Counter(line for text in attempts for line in re.findall(r"[^:\n]*; it begins again|error: .*", text))
    return {
        "gpus": gpus, "at_once": at_once, "device": done[0]["row"]["device"], "cells": cells,
        "done": len(done), "exit_status": code, "killed": killed, "said": said.most_common(8),
        "seconds": round(seconds, 1), "cells_an_hour": round(len(done) / seconds * 3600),
        "first_after": round(ends[0] - begin, 1), "last_after": round(ends[-1] - begin, 1),
        "rate": round((len(ends) - 1) / (ends[-1] - ends[0]) * 3600),
        "tokens_per_second": round(sum(one["row"]["tokens"] for one in done) / seconds),
        "cells_by_gpu": Counter(gpu for _, _, gpu in spans),
        "most_at_once": {gpu: most([span[:2] for span in spans if span[2] == gpu]) for gpu in {s[2] for s in spans}},
    }  # fmt: skip


def most(spans: list[tuple[float, float]]) -> int:
    """How many stretches of time overlap at once, at most."""
    return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)


def snakemake(folder: Path, cores: int, cards: list[str] | None, *arguments: str) -> "subprocess.Popen[bytes]":
    visible = {} if cards is None else {"CUDA_VISIBLE_DEVICES": ",".join(cards)}
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(
            [
                sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder,
                "--workflow-profile", ROOT / "workflow" / "profiles" / "default", "--cores", str(cores),
                "--configfile", folder.parent / "study.yaml", *arguments,
            ],
            env=os.environ | visible, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip


def kill(running: "subprocess.Popen[bytes]", finished: Path, cells: int, killed: list[str]) -> None:
    """Kill a worker of the run's server after a third of the cells, and an MPS server after two thirds."""
    for share, find in ((1 / 3, workers), (2 / 3, mps_servers)):
        while len(list(finished.glob("*/metrics.json"))) < share * cells:
            if running.poll() is not None:
                return
            time.sleep(0.1)
        found = find(running.pid)
        if found:
            os.kill(found[0], signal.SIGKILL)
            killed.append(f"{find.__name__[:-1]} of {len(found)}")


def workers(run: int) -> list[int]:
    """Processes of the run's server that train cells."""
    command = f"sparsedc.train.server .*/{run}-"
    servers = pids(command)
    return [pid for pid in servers if parent(pid) in servers]


def mps_servers(run: int) -> list[int]:
    """Processes of the run's MPS daemons through which workers reach their GPUs."""
    return [pid for pid in pids("nvidia-cuda-mps-server") if f"/{run}-" in Path(f"/proc/{pid}/environ").read_text()]


def pids(pattern: str) -> list[int]:
    found = subprocess.run(["pgrep", "-f", "--", pattern], capture_output=True, text=True).stdout.split()
    return sorted(int(pid) for pid in found)


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    typer.run(main)

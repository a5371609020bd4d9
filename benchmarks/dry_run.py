"""What a study of 10,000 cells costs before anything runs: to check it, to show it, and Snakemake's dry run of it, over
that of a bare workflow.

    python benchmarks/dry_run.py [--repeats 3] | tee benchmarks/results/dry_run.md

The study is a grid of sizes, densities, budgets, epochs and eight seeds. The bare workflow has as many jobs in the same
shape (a spec and a training for each cell, then a table of all), names as long, shell commands without parameters and
nothing of sparsedc; its dry run is what Snakemake itself costs. Both are run with the project's profile, in turns, in a
temporary folder, each in a process of its own; the fastest of the repeats counts. studies/paper.yaml is timed as well.
Ratios are of CPU seconds, which suffer less from others on the machine.

Snakemake's Slurm plugin asks `scontrol` when it is imported, and waits ten seconds where there is that command but no
Slurm. A stand-in that fails at once keeps this out of the times.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
import yaml

from sparsedc.study import load_study

ROOT = Path(__file__).resolve().parents[1]
SIZES = ["400k", "800k", "1m8", "3m", "6m", "12m", "20m", "32m", "40m", "60m"]

BARE = """
CELLS = open("cells.txt").read().split()


rule all:
    input:
        "bare/runs.csv",


rule spec:
    output:
        "bare/specs/{cell}.json",
    shell:
        "echo {wildcards.cell} > {output}"


rule train:
    input:
        "bare/specs/{cell}.json",
    output:
        "bare/cells/{cell}/metrics.json",
    shell:
        "cp {input} {output}"


rule runs:
    input:
        expand("bare/cells/{cell}/metrics.json", cell=CELLS),
    output:
        "bare/runs.csv",
    shell:
        "touch {output}"
"""


def study_of(seeds: int) -> dict[str, object]:
    return {
        "name": "dry-run",
        "corpus": {"source": "installed"},
        "tokenizer": {"vocab_size": 4096},
        "training": {"batch_tokens": 16384},
        "grid": [
            {
                "sizes": SIZES, "densities": [1, 0.5, 0.25, 0.125, 0.0625],
                "unique_tokens": ["4M", "8M", "16M", "32M", "64M"], "epochs": [1, 2, 4, 8, 16], "methods": ["rigl"],
                "seeds": list(range(seeds)),
            }
        ],
    }  # fmt: skip


def main(
    seeds: Annotated[int, typer.Option(help="A seed is 1,250 cells.")] = 8,
    repeats: int = 3,
) -> None:
    print(f"# A study before it runs\n\n{date.today()}, {described()}. Fastest of {repeats}.\n")
    print("| cells | what | seconds | CPU seconds | CPU ms a cell | over the bare workflow |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stand_in = folder / "bin" / "scontrol"
        stand_in.parent.mkdir()
        stand_in.write_text("#!/bin/sh\nexit 1\n")
        stand_in.chmod(0o755)
        (folder / "dry-run.yaml").write_text(yaml.safe_dump(study_of(seeds)))
        for path in (folder / "dry-run.yaml", ROOT / "studies" / "paper.yaml"):
            cells = list(load_study(path).cells)
            (folder / "cells.txt").write_text("\n".join(cells))
            (folder / "Snakefile").write_text(BARE)
            ours = [sys.executable, "-c", "from sparsedc.cli import main; main()", "study"]
            dry = [sys.executable, "-m", "snakemake", "--dry-run"]
            dry += ["--workflow-profile", str(ROOT / "workflow" / "profiles" / "default"), "--snakefile"]
            commands = {
                "`sparsedc study check`": [*ours, "check", str(path)],
                "`sparsedc study show`": [*ours, "show", str(path)],
                "`snakemake --dry-run`": [*dry, str(ROOT / "Snakefile"), "--configfile", str(path)],
                "a bare workflow's dry run": [*dry, str(folder / "Snakefile")],
            }
            wall, cpu = (dict.fromkeys(commands, float("inf")) for _ in range(2))
            for _, (what, command) in product(range(repeats), commands.items()):
                took, worked = timed(command, folder)
                wall[what], cpu[what] = min(wall[what], took), min(cpu[what], worked)
            *_, whole, bare = commands
            for what in commands:
                ratio = f"{cpu[whole] / cpu[bare]:.2f}" if what == whole else ""
                each = cpu[what] / len(cells) * 1e3
                print(f"| {len(cells):,} | {what} | {wall[what]:.1f} | {cpu[what]:.1f} | {each:.2f} | {ratio} |")


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds, and CPU seconds, of a command that must succeed."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, worked


def described() -> str:
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} CPUs ({processor}, load {load:.1f} at the start), Python {platform.python_version()}, "
        f"Snakemake {version('snakemake')}"
    )


if __name__ == "__main__":
    typer.run(main)

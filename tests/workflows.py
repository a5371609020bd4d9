"""The workflow in a folder of its own, driven as a user drives it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "snakemake", "--cores", "2"]
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def new_folder(folder):
    for name in ("Snakefile", "workflow", "profiles"):
        os.symlink(ROOT / name, folder / name)
    return folder


def write_study(folder, study):
    (folder / "config.yaml").write_text(yaml.safe_dump(study))


def snakemake(folder, *arguments, check=True, **environment):
    result = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, env={**ENVIRONMENT, **environment}
    )
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


def planned(folder, *arguments):
    """Rule -> number of jobs that a dry run plans."""
    out = snakemake(folder, *arguments, "--dry-run", "--quiet", "rules").stdout
    if "Nothing to be done" in out:
        return {}
    lines = out[out.index("Job stats:") :].splitlines()[3:]
    jobs = dict(line.split() for line in lines[: lines.index("")])
    return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "total")}

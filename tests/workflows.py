"""The workflow in a folder of its own, driven as a user drives it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "snakemake", "--cores", "2"]
# With an installed Slurm that does not answer, Snakemake would wait ten seconds for it at each start.
ENVIRONMENT = {
    **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SLURM_CONF": os.devnull,
}  # fmt: skip


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


# Python runs this when it starts, in the warm server too: trainers take their time, and note every step. At a step
# WAIT_AT they wait for a signal; one that comes right after the note is heard, too. After the third step each attempt
# at a cell has the next of the MISHAPS, statements as a JSON list.
TRACER = """
import importlib.util, json, os, signal, socket, sys, time
class Tracer:
    def find_spec(name, path, target=None):
        if name != "sparsedc.train.trainer":
            return None
        sys.meta_path.remove(Tracer)
        found = importlib.util.find_spec(name)
        execute = found.loader.exec_module
        def traced(module):
            execute(module)
            from sparsedc.spec import fingerprint
            take = module.Trainer.take_step
            def take_step(self, *batch):
                take(self, *batch)
                time.sleep(float(os.environ["SECONDS_A_STEP"]))
                waits = self.step == int(os.environ["WAIT_AT"])
                if waits:
                    heard, tell = socket.socketpair()
                    tell.setblocking(False)
                    signal.set_wakeup_fd(tell.fileno())
                with open(os.environ["TRACE"], "a") as trace:
                    node = os.environ.get("SLURMD_NODENAME")
                    cell = fingerprint(self.spec.content())
                    print(cell, os.getpid(), self.step, node, file=trace)
                if self.step == 3 and "MISHAPS" in os.environ:
                    with open(os.environ["TRACE"]) as trace:
                        attempt = sum(line.startswith(cell) and line.split()[2] == "3" for line in trace)
                    exec(dict(enumerate(json.loads(os.environ["MISHAPS"]), 1)).get(attempt, ""))
                if waits:
                    heard.recv(1)
                    signal.set_wakeup_fd(-1)
            module.Trainer.take_step = take_step
        found.loader.exec_module = traced
        return found
if "TRACE" in os.environ:
    sys.meta_path.insert(0, Tracer)
"""


def traced(folder):
    """Prepare a folder for trainers that note their steps."""
    (folder / "tracer").mkdir()
    (folder / "tracer" / "sitecustomize.py").write_text(TRACER)
    (folder / "trace").touch()
    return folder


def tracing(folder, seconds_a_step=0.02, wait_at=0):
    """The environment in which they do. `wait_at`: the step after which they wait until they are asked to stop."""
    paths = [str(folder / "tracer"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": ":".join(paths), "TRACE": str(folder / "trace"), "SECONDS_A_STEP": str(seconds_a_step),
        "WAIT_AT": str(wait_at),
    }  # fmt: skip


def steps_traced(folder):
    """In the order in which they were taken: the cell's fingerprint, who took it, its number, on which node."""
    lines = (folder / "trace").read_text().splitlines()
    return [(cell, int(pid), int(step), node) for cell, pid, step, node in map(str.split, lines)]

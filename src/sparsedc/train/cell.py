"""One cell from its spec file to its metrics file: what `sparsedc train` does."""

import json
import os
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from shutil import copy2, copytree

import torch

from sparsedc.atomic import whole_folder, write_text
from sparsedc.corpus.tokens import MANIFEST, Tokens, open_tokens
from sparsedc.errors import InputError, MissingGpuError, is_gpu_fault
from sparsedc.progress import study_progress
from sparsedc.spec import Spec, fingerprint, read_spec
from sparsedc.train.checkpoint import delete_checkpoints
from sparsedc.train.launch import launch, launched
from sparsedc.train.lock import exclusive
from sparsedc.train.loop import check_ranks, train_cell
from sparsedc.train.ranks import joined
from sparsedc.train.trainer import Trainer

REPORT_SECONDS = 30.0  # between lines about a cell in training
CLOCK_SECONDS = 60.0  # by which clocks of a cluster's machines may differ


def run_cell(
    path: Path,
    out: Path,
    model: Path | None = None,
    *,
    tokens: Path | None = None,
    work: Path | None = None,
    device: str | None = None,
    threads: int = 1,
    nodes: int = 1,
    ranks: int = 1,
    deterministic: bool = False,
) -> None:
    """Train a cell and write its metrics to the file `out`, and before that the model to the folder `model`, if one is
    named; each whole or not at all.

    A spec file lies in the study's folder, results/<study>/specs/; its tokens and its checkpoints are looked for
    there unless `tokens` and `work` name other folders.

    The result also stays in `work`, and a cell is not trained again on the same tokens: Snakemake deletes outputs that
    were written when it was killed, and all of a packed job's when one of its cells has failed. Where another process
    trains the cell just now, this one waits a while for the end of that.

    Several `ranks` on each of several `nodes` are processes that this one starts, or that a launcher like torchrun has
    started, which all call this: they train the cell together, share the `threads` of their machine, and the first of
    them writes.

    Raises:
        InputError: spec, tokens, device or the model's folder cannot be used, the clock was set back since they were
            written, or another process is training this cell and goes on with that.
        SystemExit: the process was asked to stop, or ranks that it started have failed.
    """
    spec = read_spec(path)
    study = path.resolve().parent.parent
    tokens = tokens or study / "corpus" / spec.data / "tokens"
    work = work or study / "work" / fingerprint(spec.content())
    train, held_out = open_tokens(tokens, "train"), open_tokens(tokens, spec.evaluation_split)
    _refuse_the_future(path, tokens / MANIFEST)
    keep = None
    if model is not None:
        from sparsedc.train.export import keeper  # which imports what training does without

        keep = keeper(model, tokens, work / "model")
    if nodes * ranks > 1 and not launched():
        check_ranks(spec, nodes * ranks)
        sys.exit(launch(nodes, ranks, device))
    chosen = _device(device)
    torch.set_num_threads(max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS may add up in any order
    torch.use_deterministic_algorithms(deterministic or chosen.type == "cpu")
    finished, kept = work / "metrics.json", work / "model"
    with joined(chosen) as team, exclusive(work) if team.leads else nullcontext():
        known = _result(finished, spec, train, held_out) if team.leads and (model is None or kept.exists()) else None
        if known is not None:
            _give(known, out, kept, model)
            _say(f"{path.stem}: finished before; {finished} has kept its result")
        if not team.all(known is None, chosen):
            return
        try:
            metrics = train_cell(spec, train, held_out, work, chosen, _Reporter(path.stem, team.leads), team, keep)
        except SystemExit:
            if team.leads:
                with suppress(OSError):  # who listens may have been stopped, too
                    _say(f"{path.stem}: stopped; run it again to go on from its last checkpoint")
            raise
        if metrics is not None:
            text = json.dumps(metrics, indent=1, allow_nan=False) + "\n"
            write_text(text, finished)
            _give(text, out, kept, model)
            delete_checkpoints(work)
        team.wait()
    if metrics is None:
        return
    row = metrics["row"]
    loss = f"held-out loss {row['val_loss']:.4f}" if row["status"] == "ok" else "DIVERGED"
    progress = study_progress(study, spec.data)
    _say(f"{path.stem}: {loss}" + (f" | {progress}" if progress else ""))


def _give(metrics: str, out: Path, kept: Path, model: Path | None) -> None:
    """Write a finished cell's outputs, the model first, as links to what stays in the folder of its work."""
    if model is not None:
        with whole_folder(model) as partial:
            partial.rmdir()
            copytree(kept, partial, copy_function=_link)
    write_text(metrics, out)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system, or one without links
        copy2(source, target)


class _Reporter:
    """A line about a cell in training, now and then, from the rank that leads."""

    def __init__(self, cell: str, leads: bool) -> None:
        self.cell, self.leads, self.last = cell, leads, time.monotonic()

    def __call__(self, trainer: Trainer) -> None:
        spec = trainer.spec
        if self.leads and time.monotonic() - self.last > REPORT_SECONDS and trainer.step < spec.steps:
            self.last = time.monotonic()
            speed = trainer.step * spec.training.batch_tokens / trainer.seconds
            loss = trainer.losses[trainer.step - 1].item()
            _say(f"{self.cell}: step {trainer.step} of {spec.steps}, loss {loss:.3f}, {speed:,.0f} tokens/s")


def _refuse_the_future(*files: Path) -> None:
    """Snakemake would throw away, after training, a result that is older than what it was made from."""
    for file in files:
        if file.stat().st_mtime > time.time() + CLOCK_SECONDS:
            raise InputError(
                "clock", time.strftime("%F %T"), f"{file} was written later than that",
                "Correct the clock, or `touch` the file.",
            )  # fmt: skip


def _result(path: Path, spec: Spec, train: Tokens, held_out: Tokens) -> str | None:
    """The metrics of a finished cell, if they are of this spec and of these tokens."""
    try:
        text = path.read_text(encoding="utf-8")
        metrics = json.loads(text)
        found = metrics["row"]["fingerprint"], metrics["train_sha256"], metrics["held_out_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return text if found == (fingerprint(spec.content()), train.sha256, held_out.sha256) else None


def _device(name: str | None) -> torch.device:
    """The device of this name, or a GPU if there is one, of which each rank of a machine takes its own."""
    device = find_device(
        name or (f"cuda:{os.environ['LOCAL_RANK']}" if launched() and torch.cuda.is_available() else None)
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def find_device(name: str | None) -> torch.device:
    """The device of this name; by default a GPU if there is one.

    Raises:
        InputError: it cannot be used.
        MissingGpuError: the environment names a GPU that is not found.
    """
    if name is None:
        available, visible = torch.cuda.is_available(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if not available and visible not in ("", "-1", "NoDevFiles"):
            # Training on the CPU instead would go unnoticed for hours.
            raise MissingGpuError(
                "CUDA_VISIBLE_DEVICES", visible, "names a GPU, and PyTorch finds none",
                "Correct it (behind an MPS daemon, devices count from 0), unset it, or pass `--device cpu`.",
            )  # fmt: skip
        return torch.device("cuda:0" if available else "cpu")
    try:
        device = torch.empty(0, device=name).device  # with its index, where the name has none
    except (RuntimeError, AssertionError) as error:
        if is_gpu_fault(error):
            raise
        raise InputError("device", name, f"cannot be used ({error})", "Use cpu, cuda or cuda:N.") from error
    return device


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

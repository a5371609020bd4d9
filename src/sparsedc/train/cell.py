"""One cell from its spec file to its metrics file: what `sparsedc train` does."""

import json
import os
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

from sparsedc.atomic import write_text
from sparsedc.corpus.tokens import MANIFEST, open_tokens
from sparsedc.errors import InputError
from sparsedc.progress import study_progress
from sparsedc.spec import fingerprint, read_spec
from sparsedc.train.checkpoint import delete_checkpoints
from sparsedc.train.lock import exclusive
from sparsedc.train.loop import train_cell
from sparsedc.train.ranks import joined, launched
from sparsedc.train.trainer import Trainer

REPORT_SECONDS = 30.0  # between lines about a cell in training
CLOCK_SECONDS = 60.0  # by which clocks of a cluster's machines may differ


def run_cell(path: Path, out: Path, tokens: Path | None, work: Path | None, device: str | None, threads: int) -> None:
    """Train a cell and write `metrics.json` into `out`, whole or not at all.

    If another process is training it, wait for that for a while, and be content with what it has written.

    A spec file lies in the study's folder, results/<study>/specs/; its tokens and its checkpoints are looked for
    there unless `tokens` and `work` name other folders.

    Under torchrun, which starts several processes that all call this, they train the cell together, and the first of
    them writes.

    Raises:
        InputError: spec, tokens or device cannot be used, the clock was set back since they were written, or another
            process is training this cell and goes on with that.
    """
    spec = read_spec(path)
    study = path.resolve().parent.parent
    tokens = tokens or study / "corpus" / spec.data / "tokens"
    work = work or study / "work" / fingerprint(spec.content())
    chosen = _device(
        device or (f"cuda:{os.environ['LOCAL_RANK']}" if launched() and torch.cuda.is_available() else None)
    )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(chosen.type == "cpu")
    train, held_out = open_tokens(tokens, "train"), open_tokens(tokens, spec.evaluation_split)
    _refuse_the_future(path, tokens / MANIFEST)
    result = out / "metrics.json"
    before = _version(result)
    with joined(chosen) as ranks, exclusive(work) if ranks.leads else nullcontext():
        if not ranks.all(_version(result) == before, chosen):
            if ranks.leads:
                _say(f"{path.stem}: another process has trained it")
            return
        last = time.monotonic()

        def report(trainer: Trainer) -> None:
            nonlocal last
            if ranks.leads and time.monotonic() - last > REPORT_SECONDS and trainer.step < spec.steps:
                last = time.monotonic()
                speed = trainer.step * spec.training.batch_tokens / trainer.seconds
                loss = trainer.losses[trainer.step - 1].item()
                _say(f"{path.stem}: step {trainer.step} of {spec.steps}, loss {loss:.3f}, {speed:,.0f} tokens/s")

        try:
            metrics = train_cell(spec, train, held_out, work, chosen, report, ranks)
        except SystemExit:
            if ranks.leads:
                with suppress(OSError):  # who listens may have been stopped, too
                    _say(f"{path.stem}: stopped; run it again to go on from here")
            raise
        if metrics is not None:
            write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n", result)
            delete_checkpoints(work)
        ranks.wait()
    if metrics is None:
        return
    row = metrics["row"]
    loss = f"held-out loss {row['val_loss']:.4f}" if row["status"] == "ok" else "DIVERGED"
    progress = study_progress(study)
    _say(f"{path.stem}: {loss}" + (f" | {progress}" if progress else ""))


def _refuse_the_future(*files: Path) -> None:
    """Snakemake would throw away, after training, a result that is older than what it was made from."""
    for file in files:
        if file.stat().st_mtime > time.time() + CLOCK_SECONDS:
            raise InputError(
                "clock", time.strftime("%F %T"), f"{file} was written later than that",
                "Correct the clock, or `touch` the file.",
            )  # fmt: skip


def _version(path: Path) -> tuple[int, int] | None:
    """Another one for each file that takes this path; None while there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _device(name: str | None) -> torch.device:
    if name is None:
        available, visible = torch.cuda.is_available(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if not available and visible not in ("", "-1", "NoDevFiles"):
            # Training on the CPU instead would go unnoticed for hours.
            raise InputError(
                "CUDA_VISIBLE_DEVICES", visible, "names a GPU, and PyTorch finds none",
                "Correct it (behind an MPS daemon, devices count from 0), unset it, or pass `--device cpu`.",
            )  # fmt: skip
        return torch.device("cuda:0" if available else "cpu")
    try:
        device = torch.empty(0, device=name).device  # with its index, where the name has none
    except (RuntimeError, AssertionError) as error:
        raise InputError("device", name, f"cannot be used ({error})", "Use cpu, cuda or cuda:N.") from error
    return device


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

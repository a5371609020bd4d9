"""One cell from its spec file to its metrics file: what `sparsedc train` does."""

import json
import os
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

from sparsedc.atomic import write_text
from sparsedc.corpus.tokens import open_tokens
from sparsedc.errors import InputError
from sparsedc.progress import study_progress
from sparsedc.spec import fingerprint, read_spec
from sparsedc.train.checkpoint import delete_checkpoints
from sparsedc.train.lock import exclusive
from sparsedc.train.loop import train_cell
from sparsedc.train.ranks import joined, launched
from sparsedc.train.trainer import Trainer

REPORT_SECONDS = 30.0  # between lines about a cell in training


def run_cell(
    path: Path,
    out: Path,
    tokens: Path | None,
    work: Path | None,
    device: str | None,
    threads: int,
    model: Path | None = None,
) -> None:
    """Train a cell and write its metrics to the file `out`, and before that the model to the folder `model`, if one is
    named; each whole or not at all.

    A spec file lies in the study's folder, results/<study>/specs/; its tokens and its checkpoints are looked for
    there unless `tokens` and `work` name other folders.

    Under torchrun, which starts several processes that all call this, they train the cell together, and the first of
    them writes.

    Raises:
        InputError: spec, tokens, device or the model's folder cannot be used, or another process is training this cell.
    """
    spec = read_spec(path)
    study = path.resolve().parent.parent
    tokens = tokens or study / "corpus" / spec.data / "tokens"
    work = work or study / "work" / fingerprint(spec.content())
    chosen = find_device(
        device or (f"cuda:{os.environ['LOCAL_RANK']}" if launched() and torch.cuda.is_available() else None)
    )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(chosen.type == "cpu")
    keep = None
    if model is not None:
        from sparsedc.train.export import keeper  # which imports what training does without

        keep = keeper(model, tokens)
    train, held_out = open_tokens(tokens, "train"), open_tokens(tokens, spec.evaluation_split)
    with joined(chosen) as ranks, exclusive(work) if ranks.leads else nullcontext():
        last = time.monotonic()

        def report(trainer: Trainer) -> None:
            nonlocal last
            if ranks.leads and time.monotonic() - last > REPORT_SECONDS and trainer.step < spec.steps:
                last = time.monotonic()
                speed = trainer.step * spec.training.batch_tokens / trainer.seconds
                loss = trainer.losses[trainer.step - 1].item()
                _say(f"{path.stem}: step {trainer.step} of {spec.steps}, loss {loss:.3f}, {speed:,.0f} tokens/s")

        try:
            metrics = train_cell(spec, train, held_out, work, chosen, report, ranks, keep)
        except SystemExit:
            if ranks.leads:
                with suppress(OSError):  # who listens may have been stopped, too
                    _say(f"{path.stem}: stopped; run it again to go on from here")
            raise
        if metrics is not None:
            write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n", out)
            delete_checkpoints(work)
        ranks.wait()
    if metrics is None:
        return
    row = metrics["row"]
    result = f"held-out loss {row['val_loss']:.4f}" if row["status"] == "ok" else "DIVERGED"
    progress = study_progress(study)
    _say(f"{path.stem}: {result}" + (f" | {progress}" if progress else ""))


def find_device(name: str | None) -> torch.device:
    """The device of this name; by default a GPU if there is one.

    Raises:
        InputError: it cannot be used, or the environment names a GPU that is not found.
    """
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

"""Where a study stands, cell by cell, as its folder shows it; nothing is asked of Snakemake or of a cluster."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedc.corpus.tokens import read_manifest
from sparsedc.errors import InputError
from sparsedc.failures import last_words
from sparsedc.progress import duration
from sparsedc.study import Cell, Study
from sparsedc.train.lock import held

STATES = ("done", "diverged", "running", "waiting", "failed", "stale")


@dataclass(frozen=True)
class Standing:
    """One cell's state, and why it is in that.

    Attributes:
        state: one of STATES. `waiting` has not been begun, `failed` was and has ended without a result, `stale` has one
            of other tokens or of another spec, or
            lacks the model that is to be kept.
    """

    cell: str
    state: str
    reason: str


def standings(study: Study, folder: Path) -> list[Standing]:
    """Of every cell of a study, in training order.

    Args:
        folder: the study's results.
    """
    checksums = _checksums(study, folder)
    return [Standing(cell.id, *_standing(cell, folder, checksums)) for cell in study.cells.values()]


def render(standings: list[Standing]) -> str:
    """For a terminal: every cell that is not done, and how many are in each state."""
    lines = [f"{one.state:8}  {one.cell}  {one.reason}".rstrip() for one in standings if one.state != "done"]
    counts = {state: sum(one.state == state for one in standings) for state in STATES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return "\n".join([*lines, f"{len(standings)} cells: {told or 'the study trains none'}"])


def _standing(cell: Cell, folder: Path, checksums: dict[str, str]) -> tuple[str, str]:
    work = folder / "work" / cell.fingerprint
    if held(work):
        since = duration(max(0, time.time() - (work / "lock").stat().st_mtime))  # a clock may be set back
        return "running", f"for {since}{_checkpoint(cell, work)}"
    path = folder / "cells" / cell.id / "metrics.json"
    if path.exists():
        try:
            return _result(cell, json.loads(path.read_text(encoding="utf-8")), folder, checksums)
        except (ValueError, KeyError, TypeError) as error:
            return "stale", f"{path} cannot be read ({error!r}); delete it"
    if (work / "metrics.json").exists():
        return "waiting", "its result is kept, and comes back in the next run"
    if (work / "lock").exists():
        return "failed", f"{last_words(folder / 'logs' / 'train' / f'{cell.id}.log')}{_checkpoint(cell, work)}"
    return "waiting", ""


def _result(cell: Cell, metrics: dict[str, Any], folder: Path, checksums: dict[str, str]) -> tuple[str, str]:
    row = metrics["row"]
    if row["fingerprint"] != cell.fingerprint:
        return "stale", "was trained from another spec"
    for split, key in (("train", "train_sha256"), (cell.spec.evaluation_split, "held_out_sha256")):
        if checksums.get(split, metrics[key]) != metrics[key]:
            return "stale", f"the {split} tokens have changed since"
    if cell.keeps_model and not (folder / "models" / cell.id).is_dir():
        return "stale", "its model is to be kept, and was not"
    if row["status"] == "diverged":
        return "diverged", f"after {row['steps']} of {cell.spec.steps} steps"
    return "done", ""


def _checksums(study: Study, folder: Path) -> dict[str, str]:
    """split -> sha256 of its tokens; nothing where there are none yet."""
    try:
        manifest = read_manifest(folder / "corpus" / study.data / "tokens")
        return {split: entry["sha256"] for split, entry in manifest["splits"].items()}
    except (InputError, KeyError, TypeError, AttributeError):  # not there, or damaged, as the next cell will say
        return {}


def _checkpoint(cell: Cell, work: Path) -> str:
    steps = [int(path.stem.split("-")[1]) for path in work.glob("checkpoint-*.sha256")]
    return f"; checkpoint at step {max(steps)} of {cell.spec.steps}" if steps else ""

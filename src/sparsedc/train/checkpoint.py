"""Partial state of a cell, outside its declared outputs, in a folder keyed by the hash of its spec.

Snakemake removes declared outputs before it starts a job again, so what a killed training needs to go on lies
elsewhere. The folder's name is the spec's hash and the checkpoint says of which tokens it is, so that a changed
cell, or the same cell on changed text, never resumes another's state.
"""

import fcntl
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sparsedc.atomic import whole
from sparsedc.errors import InputError, SparsedcWarning


@contextmanager
def exclusive(work: Path) -> Iterator[None]:
    """Hold a cell's folder for this process alone, for as long as the block runs; a dead process holds nothing.

    Raises:
        InputError: another process is training this cell.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "cell", work.name, "is being trained by another process", "Wait for it, or stop it first."
            ) from None
        yield


def save_checkpoint(state: dict[str, Any], work: Path) -> None:
    """Write a checkpoint whole or not at all."""
    with whole(work / "checkpoint.pt") as partial:
        torch.save(state, partial)


def load_checkpoint(work: Path, device: torch.device | None, identity: dict[str, str]) -> dict[str, Any] | None:
    """The last checkpoint, or None where the cell starts over: where there is none, where it cannot be read, and
    where it was not saved with the same `identity` (checksums of tokens, versions).

    Its tensors are on `device`; None leaves them in the file, as host memory that all ranks of a machine share.
    """
    path = work / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device or "cpu", weights_only=True, mmap=device is None)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        warnings.warn(SparsedcWarning(f"{path} cannot be read ({error}); training starts over"), stacklevel=2)
        return None
    if state["identity"] != identity:
        warnings.warn(
            SparsedcWarning(
                f"{path} is of other tokens, another torch or sparsedc, or another kind of device; training starts over"
            ),
            stacklevel=2,
        )
        return None
    return state


def delete_checkpoint(work: Path) -> None:
    """Remove what a finished cell no longer needs; the lock file stays, since another process may wait on it."""
    (work / "checkpoint.pt").unlink(missing_ok=True)

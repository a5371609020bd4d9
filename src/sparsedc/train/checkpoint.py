"""Partial state of a cell, outside its declared outputs, in a folder keyed by the hash of its spec.

Snakemake removes declared outputs before it starts a job again, so what a killed training needs to go on lies
elsewhere. The folder's name is the spec's hash and the checkpoint says of which tokens it is, so that a changed
cell, or the same cell on changed text, never resumes another's state.

A generation is two files: `checkpoint-000000120.safetensors`, after that step, with the tensors by name and all else
as JSON in its metadata; and its checksum, as `sha256sum` writes it, which comes last: without it there is no such
generation. The last two stay.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsedc.atomic import whole, write_text
from sparsedc.errors import SparsedcWarning

GENERATIONS = 2
FORMAT = "3"  # rises when the state of a cell is kept in another form


def save_checkpoint(state: dict[str, Any], step: int, identity: dict[str, str], work: Path) -> None:
    """Write a generation whole or not at all; where it cannot be written, warn, and leave those that there are.

    Args:
        state: nested by strings without "/"; tensors, and what JSON can hold.
        step: optimizer steps taken.
        identity: of what it is a state: checksums of tokens, versions.
    """
    tensors, values = _parted(state)
    path = work / f"checkpoint-{step:09d}.safetensors"
    try:
        path.with_suffix(".sha256").unlink(missing_ok=True)  # of a file that is replaced
        with whole(path) as partial:
            described = {"format": FORMAT, **identity}
            save_file(tensors, partial, {"identity": json.dumps(described), "values": json.dumps(values)})
            checksum = _checksum(partial)
        write_text(f"{checksum}  {path.name}\n", path.with_suffix(".sha256"))
        # Later generations could not be read, or were of something else: training began before them.
        _delete_all_but([one for one in _generations(work) if one <= path][:GENERATIONS], work)
    except (OSError, SafetensorError) as error:
        warnings.warn(
            SparsedcWarning(f"{path} could not be written ({error}); training goes on without it"), stacklevel=2
        )


def load_checkpoint(work: Path, device: torch.device | None, identity: dict[str, str]) -> dict[str, Any] | None:
    """The last generation that can be read, or None where the cell starts over: where there is none, and where it was
    not saved with the same `identity`.

    Its tensors are on `device`; None leaves them in the file, as host memory that all ranks of a machine share.
    """
    found = _generations(work)
    for path in found:
        try:
            if path.with_suffix(".sha256").read_text().split()[:1] != [_checksum(path)]:
                raise ValueError("its checksum is another")
            with safe_open(path, "pt", device=str(device or "cpu")) as file:
                described = file.metadata()
                values = json.loads(described["values"])
                if json.loads(described["identity"]) != {"format": FORMAT, **identity}:
                    warnings.warn(
                        SparsedcWarning(
                            f"{path} is of another cell, other tokens, another torch or sparsedc, or another kind of "
                            "device; training starts over"
                        ),
                        stacklevel=2,
                    )
                    return None
                return _joined({name: file.get_tensor(name) for name in file.keys()}, values)  # noqa: SIM118
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            then = "starts over" if path == found[-1] else "goes on from the checkpoint before it"
            warnings.warn(SparsedcWarning(f"{path} cannot be read ({error}); training {then}"), stacklevel=2)
    return None


def delete_checkpoints(work: Path) -> None:
    """Remove what a finished cell no longer needs; the lock file stays, since another process may wait on it."""
    _delete_all_but([], work)


def _generations(work: Path) -> list[Path]:
    """The latest first."""
    return sorted((path.with_suffix(".safetensors") for path in work.glob("checkpoint-*.sha256")), reverse=True)


def _delete_all_but(kept: list[Path], work: Path) -> None:
    """What killed processes have left half-written goes, too."""
    files = {file for path in kept for file in (path, path.with_suffix(".sha256"))}
    for pattern in ("checkpoint-*", ".checkpoint-*", ".tmp*"):  # the last are safetensors'
        for path in work.glob(pattern):
            if path not in files and not path.is_dir():
                path.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parted(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a nested state by their paths, and the state without them."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            tensors[key] = value.detach().cpu().contiguous()
        elif isinstance(value, dict):
            within, values[key] = _parted(value)
            tensors |= {f"{key}/{name}": tensor for name, tensor in within.items()}
        else:
            values[key] = value
    return tensors, values


def _joined(tensors: dict[str, Tensor], values: dict[str, Any]) -> dict[str, Any]:
    for name, tensor in tensors.items():
        *folders, key = name.split("/")
        place = values
        for folder in folders:
            place = place[folder]
        place[key] = tensor
    return values

"""What lies in a study's folder of cells and tokens that the study no longer has.

Whatever a cell's numbers depend on is in its name, so an edited study leaves its old cells where they are; switching
back finds them done.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from sparsedc.errors import InputError
from sparsedc.study import Study
from sparsedc.train.lock import held


def leftovers(study: Study, folder: Path) -> list[Path]:
    """Files and folders of cells and tokens that are not the study's.

    Args:
        folder: the study's results.
    """
    names = set(study.cells)
    found = _work(study, folder)
    found += [path for path in _within(folder / "cells") if path.name not in names]
    found += [path for path in _within(folder / "specs") if path.stem not in names]
    # A model half-written is in a folder whose name says so; it may be of a cell of the study, and be written now.
    found += [path for path in _within(folder / "models") if _of_model(path) not in names]
    for rule in ("spec", "train", "attempts"):
        found += [path for path in _within(folder / "logs" / rule) if path.stem not in names]
    return found + [path for path in _within(folder / "corpus") if path.name != study.data]


def check_idle(study: Study, folder: Path) -> None:
    """Raise an InputError while a cell that the study no longer has is being trained, as it was before an edit."""
    trained = [path.name for path in _work(study, folder) if held(path)]
    if trained:
        raise InputError(
            "study", study.name, f"{len(trained)} cells that it no longer has are being trained ({', '.join(trained)})",
            "Wait for their end, or stop them.",
        )  # fmt: skip


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _work(study: Study, folder: Path) -> list[Path]:
    fingerprints = {cell.fingerprint for cell in study.cells.values()}
    return [path for path in _within(folder / "work") if path.name not in fingerprints]


def _of_model(path: Path) -> str:
    """The cell of a model's folder, or of what `atomic.whole_folder` is to make one of."""
    return path.name.removeprefix(".").removesuffix(".partial")


def _within(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir()) if folder.is_dir() else [])

"""What lies in a study's folder of cells and tokens that the study no longer has.

Whatever a cell's numbers depend on is in its name, so an edited study leaves its old cells where they are; switching
back finds them done.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from sparsedc.study import Study
from sparsedc.train.lock import held


def leftovers(study: Study, folder: Path) -> list[Path]:
    """Files and folders of cells and tokens that are not the study's; none of a cell that is being trained.

    Args:
        folder: the study's results.
    """
    names = set(study.cells)
    fingerprints = {cell.fingerprint for cell in study.cells.values()}
    found = [path for path in _within(folder / "work") if path.name not in fingerprints and not held(path)]
    found += [path for path in _within(folder / "cells") if path.name not in names]
    found += [path for path in _within(folder / "specs") if path.stem not in names]
    # A model half-written is in a folder whose name says so; it may be of a cell of the study, and be written now.
    found += [path for path in _within(folder / "models") if _of_model(path) not in names]
    for rule in ("spec", "train", "attempts"):
        found += [path for path in _within(folder / "logs" / rule) if path.stem not in names]
    return found + [path for path in _within(folder / "corpus") if path.name != study.data]


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _of_model(path: Path) -> str:
    """The cell of a model's folder, or of what `atomic.whole_folder` is to make one of."""
    return path.name.removeprefix(".").removesuffix(".partial")


def _within(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir()) if folder.is_dir() else [])

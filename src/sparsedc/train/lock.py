"""Who trains a cell: a lock on its folder, which a dead process does not hold.

This module imports no torch.
"""

import fcntl
import itertools
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsedc.errors import InputError, SparsedcWarning

LOOKS = 10  # `held` takes the lock for a moment: so many looks before who finds it taken says so
PAUSE = 0.05  # seconds between looks
PATIENCE = 180.0  # seconds for processes that were asked to stop, which launchers give 120 to write a checkpoint


@contextmanager
def exclusive(work: Path) -> Iterator[None]:
    """Hold a cell's folder for this process alone, for as long as the block runs.

    The time at which the lock file was last changed is that of the last start.

    Raises:
        InputError: another process is training this cell, and goes on with that; or the file system has no locks.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a") as lock:
        for look in itertools.count():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if look == LOOKS:
                    problem = f"cell {work.name} is being trained by another process; waiting for its end"
                    warnings.warn(SparsedcWarning(problem), stacklevel=3)
                if look * PAUSE > PATIENCE:
                    raise InputError(
                        "cell", work.name, "is being trained by another process", "Wait for it, or stop it first."
                    ) from None
                time.sleep(PAUSE)
            except OSError as error:
                raise InputError(
                    "work", work, f"cannot be locked ({error.strerror})", "Put it on a file system that has flock."
                ) from error
        os.utime(lock.fileno())
        yield


def held(work: Path) -> bool:
    """Is a process training this cell, or is it another user's, who alone can tell?"""
    try:
        with (work / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):
        return True
    return False

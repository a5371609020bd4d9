"""Who trains a cell: a lock on its folder, which a dead process does not hold.

This module imports no torch.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsedc.errors import InputError

LOOKS = 10  # `held` takes the lock for a moment: who finds it taken looks again, so many times in all
PAUSE = 0.05  # seconds between looks


@contextmanager
def exclusive(work: Path) -> Iterator[None]:
    """Hold a cell's folder for this process alone, for as long as the block runs.

    The time at which the lock file was last changed is that of the last start.

    Raises:
        InputError: another process is training this cell.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        for look in range(LOOKS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if look == LOOKS - 1:
                    raise InputError(
                        "cell", work.name, "is being trained by another process", "Wait for it, or stop it first."
                    ) from None
                time.sleep(PAUSE)
        yield


def held(work: Path) -> bool:
    """Is a process training this cell?"""
    try:
        with (work / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False

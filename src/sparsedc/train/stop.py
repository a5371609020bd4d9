"""Being asked to stop: by Ctrl-C, or by a scheduler whose time is up and which kills some seconds later.

One request may arrive several times: Slurm tells every process of a job, and these tell each other.
"""

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def end_with_parent() -> None:
    """Ask this process to stop (SIGTERM) when the one that started it ends, where the system can (Linux)."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@dataclass
class Request:
    """Attributes:
    number: of the signal that has come; None so far.
    """

    number: int | None = None


@contextmanager
def requested() -> Iterator[Request]:
    """Note a signal to stop instead of ending by it; after one, Ctrl-C ends the process as ever."""
    request = Request()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _: FrameType | None) -> None:
        request.number = request.number or number
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

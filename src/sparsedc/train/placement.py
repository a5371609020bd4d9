"""Which of a machine's GPUs a cell gets.

A few cells share a GPU as long as what they are expected to take of its memory fits. A cell of several GPUs has them
to itself. A GPU that has failed gets no other for a while: always free, a broken one would be given all that come.
"""

import subprocess
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SLOTS = 8  # cells on a GPU at once; with more than five no more tokens a second were seen (docs/log.md)
ROOM = 0.9  # share of a GPU's memory that cells may take together: each holds a context, too
PROBATION = 60.0  # seconds for which a GPU that has failed gets no other cell; twice as long each time


@dataclass(frozen=True)
class Demand:
    """What a cell asks for.

    Attributes:
        gpus: how many it trains on.
        megabytes: of one's memory.
    """

    gpus: int = 1
    megabytes: int = 0

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "Demand":
        """Of a command line of `sparsedc train`; nothing special where it cannot be read, as the command will say."""
        parser = ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
        parser.add_argument("--ranks", type=int, default=1)
        parser.add_argument("--gpu-mb", type=int, default=0)
        try:
            known, _ = parser.parse_known_args(arguments)
        except (Exception, SystemExit):
            return cls()
        return cls(known.ranks, known.gpu_mb)


@dataclass
class Gpus:
    """The GPUs that may be used, and the cells on them.

    Attributes:
        memory: megabytes by the GPU's name, as CUDA_VISIBLE_DEVICES has it; None where it is not known.
        cells: by their number, where they are and what they asked for.
        faults: how often a GPU has failed since a cell ended well on it.
        probation: of GPUs that have failed, until when (`time.monotonic`) they get no other cell.
    """

    memory: dict[str, int | None]
    cells: dict[int, tuple[list[str], Demand]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    probation: dict[str, float] = field(default_factory=dict)

    def find(self, demand: Demand) -> list[str] | None:
        """GPUs for a cell, those on which fewest are at work; None where it has to wait.

        A GPU on probation gets none, as it is free whenever others are not, unless there are not as many others.
        A cell that asks for more than there are does not get any: `[]`.
        """
        if demand.gpus > len(self.memory):
            return []
        now = time.monotonic()
        waits = {gpu: max(0.0, self.probation.get(gpu, 0.0) - now) for gpu in self.memory}
        allowed = sorted(waits, key=lambda gpu: waits[gpu])
        enough = max(demand.gpus, sum(not wait for wait in waits.values()))
        suitable = [gpu for gpu in allowed[:enough] if self._suits(gpu, demand)]
        suitable.sort(key=lambda gpu: len(self._on(gpu)))
        return suitable[: demand.gpus] if len(suitable) >= demand.gpus else None

    def take(self, number: int, gpus: list[str], demand: Demand) -> None:
        """Put a cell there."""
        self.cells[number] = gpus, demand

    def leave(self, number: int, well: bool = False) -> None:
        """A cell has ended, if it was on a GPU."""
        gpus, _ = self.cells.pop(number, ([], Demand()))
        if well:
            for gpu in gpus:
                self.faults.pop(gpu, None)
                self.probation.pop(gpu, None)

    def fault(self, gpus: Sequence[str]) -> None:
        """One of these has failed a cell: nobody knows which."""
        for gpu in gpus:
            self.faults[gpu] += 1
            self.probation[gpu] = time.monotonic() + PROBATION * 2 ** (self.faults[gpu] - 1)

    def _on(self, gpu: str) -> list[Demand]:
        return [demand for gpus, demand in self.cells.values() if gpu in gpus]

    def _suits(self, gpu: str, demand: Demand) -> bool:
        others = self._on(gpu)
        if not others:
            return True
        if demand.gpus > 1 or any(other.gpus > 1 for other in others) or len(others) >= SLOTS:
            return False
        memory = self.memory[gpu]
        return memory is None or sum(one.megabytes for one in (demand, *others)) <= ROOM * memory


def visible_gpus(environment: Mapping[str, str]) -> dict[str, int | None]:
    """Megabytes of every GPU of this machine that may be used, by the name that CUDA_VISIBLE_DEVICES gives it, without
    touching any; None of one that nvidia-smi does not list so."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        listed = ""
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.count(",") == 2]
    known = [(index, uuid, int(memory) if memory.isdigit() else None) for index, uuid, memory in rows]
    by_index = {index: memory for index, _, memory in known}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return by_index
    names = by_index | {uuid: memory for _, uuid, memory in known}
    return {gpu: names.get(gpu) for gpu in visible.split(",") if gpu not in ("", "-1", "NoDevFiles")}

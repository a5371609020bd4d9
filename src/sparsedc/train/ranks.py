"""The ranks that train one cell: processes that torchrun has started, each with its own device and its own part of
every batch.

Weights, optimizer and masks are the same on all ranks; gradients are averaged, of maskable matrices the active parts
only. A checkpoint therefore fits any number of ranks. A large dense model's state is divided instead (`shards`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from sparsedc.train.launch import launched
from sparsedc.train.stop import end_with_parent


class ShortOfMemoryError(Exception):
    """Another rank has broken off the pass that this one is in."""


@dataclass(frozen=True)
class Ranks:
    """This rank, from 0, of so many."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Does this rank write, for all?"""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> None:
        """Sum over all ranks, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)

    def average(self, tensor: Tensor) -> None:
        """Average over all ranks, in place."""
        if self.size > 1:
            self.sum(tensor)
            tensor /= self.size

    def average_in_pass(self, tensor: Tensor) -> None:
        """Average, in a pass that ranks break off when they are short of memory, saying `all(False)`.

        Raises:
            ShortOfMemoryError: a rank has done so.
        """
        if not self.all(True, tensor.device):
            raise ShortOfMemoryError
        self.average(tensor)

    def average_all(self, tensors: Sequence[Tensor]) -> None:
        """The same for several tensors of one type, in one exchange."""
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            self.average(flat)
            for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def least(self, number: int, device: torch.device) -> int:
        """The smallest of all ranks' numbers."""
        if self.size == 1:
            return number
        smallest = torch.tensor(number, device=device)
        distributed.all_reduce(smallest, distributed.ReduceOp.MIN)
        return int(smallest)

    def all(self, here: bool, device: torch.device) -> bool:
        """Is it so on all ranks?"""
        return bool(self.least(int(here), device))

    def agree(self, what: str, value: object) -> None:
        """Raise unless all ranks have the same value."""
        if self.size == 1:
            return
        values: list[object] = [None] * self.size
        distributed.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            raise RuntimeError(f"ranks differ in {what}: {values}")

    def wait(self) -> None:
        """For all ranks to come here."""
        if self.size > 1:
            distributed.barrier()


ALONE = Ranks()


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """This process among the ranks that it was launched with, for as long as the block runs.

    After an error there is no farewell: it would wait for ranks that may be waiting for this one. Their launcher ends
    them when this process ends.
    """
    if not launched():
        yield ALONE
        return
    end_with_parent()
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Ranks(distributed.get_rank(), distributed.get_world_size())
    distributed.destroy_process_group()

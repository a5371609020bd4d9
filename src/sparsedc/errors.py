"""What goes wrong because of an input, said once and in one way: which field, which value, what to do; and what a GPU
does, which is nobody's input."""

from collections.abc import Iterable
from difflib import get_close_matches

GPU_FAULT = 75  # exit status of what may go well on another GPU, or later: EX_TEMPFAIL of sysexits.h
# As PyTorch's own calls say it, those of compiled code, Triton, NCCL and cuDNN; and what is said so and would be the
# same on every GPU of a machine.
GPU_FAULTS = (
    "CUDA error", "CUDA driver error", "Triton Error [CUDA]", "Cuda failure", "cuDNN error",
    "No CUDA GPUs are available", "Unexpected error from cudaGetDeviceCount",
)  # fmt: skip
NO_FAULTS = (
    "out of memory", "ALLOC_FAILED", "no kernel image", "invalid configuration argument", "NOT_SUPPORTED",
    "invalid device ordinal",
)  # fmt: skip


class InputError(ValueError):
    """An input that cannot be used. The command line prints it as one message and exits with status 2.

    Args:
        field: the key, column, option or file at fault, as the user wrote it.
        value: the offending value (long values are shortened in the message).
        problem: what is wrong with it, a clause without a full stop.
        remedy: what the user can do, a full sentence.
    """

    def __init__(self, field: str, value: object, problem: str, remedy: str) -> None:
        shown = str(value)
        if len(shown) > 200:
            shown = shown[:197] + "..."
        super().__init__(f"{field} = {shown}: {problem}. {remedy}")
        self.field, self.value, self.problem, self.remedy = field, value, problem, remedy


def nearest(word: object, known: Iterable[str]) -> str | None:
    """Which of the known words a word is like, whatever their case; None: none."""
    words = {name.lower(): name for name in known}
    return next((words[near] for near in get_close_matches(str(word).lower(), words, n=1)), None)


def one_of(word: object, known: Iterable[str]) -> str:
    """The remedy for a word that is none of those known: the one that was perhaps meant, and all if they are few."""
    *others, last = known
    near = nearest(word, [*others, last])
    if near is not None and len(others) >= 10:
        return f"Did you mean {near}?"
    listed = f"{', '.join(others)} or {last}" if others else last
    return f"Use {listed}" + (f" (did you mean {near}?)." if near is not None else ".")


def is_gpu_fault(error: BaseException) -> bool:
    """Has a GPU failed its process, by a fault of its own or of a process that shares it, or has its MPS daemon?"""
    said = str(error)
    return (
        isinstance(error, RuntimeError)
        and any(fault in said for fault in GPU_FAULTS)
        and not any(other in said for other in NO_FAULTS)
    )


class MissingGpuError(InputError):
    """A GPU is named that is not there: an input that cannot be used, unless it was there before."""


class SparsedcWarning(UserWarning):
    """Something that the user should know, after which the result is still right."""

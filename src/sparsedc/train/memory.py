"""What a device's memory holds, and what it has room for. The host's is never short."""

import torch

USABLE = 0.8  # of what is free, which is never in one piece


def capacity(device: torch.device) -> float:
    """Bytes that a device has."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else float("inf")


def forget_peak(device: torch.device) -> None:
    """From now on, peaks are those of what follows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def room(device: torch.device) -> int:
    """So many times what was needed for a moment, since the peak was forgotten, fit beside what is held now; or 1.

    On the host, which counts neither, 1.
    """
    if device.type != "cuda":
        return 1
    held = torch.cuda.memory_allocated(device)
    needed = torch.cuda.max_memory_allocated(device) - held
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - held
    return max(1, int(USABLE * free / max(needed, 1)))

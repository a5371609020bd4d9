"""What training a cell asks of a machine, for schedulers: rather too much than too little."""

import math

from sparsedc.spec import Spec

START_MINUTES = 15  # imports, compilation, reading tokens, and evaluation
SMALL_MINUTES = 10.0
LEEWAY = 2.0  # times the estimated minutes
FRAMEWORK_MEGABYTES = 6000  # PyTorch with CUDA in host memory
BYTES_A_PARAMETER = 16  # a model begins, and its checkpoints are made, in host memory


def minutes(spec: Spec, tflops: float, devices: int = 1, beside: int = 1) -> int:
    """On so many devices, which sustain 10^12 `tflops` FLOP/s each on the dense FLOPs.

    Args:
        beside: cells that share the device.
    """
    return START_MINUTES + math.ceil(LEEWAY * beside * compute_minutes(spec, tflops) / devices)


def small(spec: Spec, tflops: float, devices: int) -> bool:
    """Is it over sooner than a job's start pays for? Such cells share a job."""
    return devices == 1 and compute_minutes(spec, tflops) <= SMALL_MINUTES


def compute_minutes(spec: Spec, tflops: float) -> float:
    """Of one device."""
    return spec.flops(sparse=False) / (tflops * 1e12) / 60


def host_megabytes(spec: Spec) -> int:
    return FRAMEWORK_MEGABYTES + math.ceil(BYTES_A_PARAMETER * spec.counts.total / 1e6)

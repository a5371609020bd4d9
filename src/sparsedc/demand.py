"""What training a cell asks of a machine, for schedulers: rather too much than too little."""

import math

from sparsedc.spec import Spec

START_MINUTES = 15  # imports, compilation, reading tokens, and evaluation
LEEWAY = 2.0  # times the estimated minutes
FRAMEWORK_MEGABYTES = 6000  # PyTorch with CUDA in host memory
BYTES_A_PARAMETER = 16  # a model begins, and its checkpoints are made, in host memory


def minutes(spec: Spec, tflops: float) -> int:
    """On a device that sustains so many 10^12 FLOP/s on the dense FLOPs."""
    return START_MINUTES + math.ceil(LEEWAY * spec.flops(sparse=False) / (tflops * 1e12) / 60)


def host_megabytes(spec: Spec) -> int:
    return FRAMEWORK_MEGABYTES + math.ceil(BYTES_A_PARAMETER * spec.counts.total / 1e6)

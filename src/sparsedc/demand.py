"""What training a cell asks of a machine, for budgets and schedulers: rather too much than too little."""

import math

from sparsedc.sparsity.methods import METHODS
from sparsedc.spec import Spec

START_MINUTES = 15  # imports, compilation, reading tokens, and evaluation
SMALL_MINUTES = 10.0  # of training, below which a job's start is a large part of it
LEEWAY = 2.0  # times the estimated minutes
FRAMEWORK_MEGABYTES = 6000  # PyTorch with CUDA in host memory
WEIGHT_BYTES = 4  # a parameter
CHECKPOINT_BYTES = 12  # a parameter, beside the weights: made, and read, in host memory

CONTEXT_MEGABYTES = 600  # of a GPU: CUDA itself, and workspaces of its libraries
ALLOCATOR = 1.1  # times what tensors take: memory between them
TOGETHER = 2**28  # maskable weights up to which a step takes all layers at once (sparsedc.sparsity.engine)
LOGITS_AT_ONCE = 2**29  # as in sparsedc.train.head

CHECKPOINTS = 3  # the last two, and the one that is being written
TOKEN_BYTES = {True: 2, False: 4}  # does an id fit into 16 bits?


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


def host_megabytes(spec: Spec, ranks: int = 1) -> int:
    """Of a machine with so many of the cell's ranks, which each begin with the model's weights."""
    model, checkpoint = WEIGHT_BYTES * spec.counts.total / 1e6, CHECKPOINT_BYTES * spec.counts.total / 1e6
    return math.ceil(ranks * (FRAMEWORK_MEGABYTES + model) + checkpoint)


def device_megabytes(spec: Spec) -> int:
    """Of a GPU, by a cell that takes each batch at once, as it does where memory is ample.

    Counted are the tensors of `peak_bytes`, a tenth more for gaps between them, and CUDA's own memory. From 20m up to
    3b84 the tensors are within 7 % of measured peaks, below 6m up to 14 % under them; all of it together is above.
    """
    return _megabytes(peak_bytes(spec))


def least_device_megabytes(spec: Spec) -> int:
    """The same by a cell that takes one sequence at a time and computes activations twice, as where memory is short."""
    sequence = spec.sequence_length
    states_between_blocks = 4 * sequence * spec.shape.depth * spec.shape.width
    block = _activations(spec, sequence) / spec.shape.depth
    tensors = _held(spec) + _gradients(spec) + _sums(spec) + states_between_blocks + block + _head(spec, sequence)
    return _megabytes(tensors)


def checkpoint_megabytes(spec: Spec) -> float:
    """One checkpoint of a cell that trains on a GPU: weights, float32 or, of sparse matrices, bfloat16; float32 moments
    of all that is active; of sparse matrices also float32 weights, ages, and three masks: the present, the first and
    that of all weights ever active. Losses, a record of each topology update, and what `rigl-acc` remembers within its
    windows are left out."""
    matrices, rest = spec.counts.maskable, spec.counts.total - spec.counts.maskable
    if spec.method == "dense":
        return 12 * spec.counts.total / 1e6
    area = math.prod(spec.block)
    sparse = 2 * matrices + (12 + 2 / area) * _active_at_start(spec) + 3 / 8 * matrices / area + _mean(spec)
    return (12 * rest + sparse) / 1e6


def token_megabytes(spec: Spec) -> float:
    """The unique tokens on disk."""
    return spec.unique_tokens * TOKEN_BYTES[spec.vocab_size <= 2**16] / 1e6


def results_megabytes(spec: Spec) -> float:
    """metrics.json: mostly two counts a layer and topology update."""
    counts = 2 * 16 * len(spec.block_counts) * len(spec.topology.update_steps) if spec.method != "dense" else 0
    return (20_000 + counts) / 1e6


def peak_bytes(spec: Spec) -> float:
    """Of all tensors on a GPU at the fullest moment of a step that takes its batch at once: when activations are all
    there, and the head works on logits, or when they are gone and gradients are all there."""
    batch = spec.training.batch_tokens
    copies = 2 * spec.counts.maskable if spec.method == "dense" else 0  # bfloat16, for the backward pass
    return _held(spec) + max(copies + _activations(spec, batch) + _head(spec, batch), _gradients(spec))


def _held(spec: Spec) -> float:
    """Bytes that last from step to step: float32 weights and two moments of what is dense; of sparse matrices bfloat16
    weights and a mask, and for active weights float32 weights, two moments, a bfloat16 gradient and a 16-bit age,
    2 + 16 d + 1/8 bytes a weight. A small model keeps the ids of active blocks as well."""
    matrices, rest = spec.counts.maskable, spec.counts.total - spec.counts.maskable
    if spec.method == "dense":
        return 12 * spec.counts.total
    area, active = math.prod(spec.block), _active_at_start(spec)
    ids = 8 * active / area if matrices <= TOGETHER else 0
    return 12 * rest + (2 + 1 / 8 / area) * matrices + (14 + 2 / area) * active + ids + _mean(spec)


def _gradients(spec: Spec) -> float:
    """Of a whole backward pass, in bytes: float32 ones of what is dense; of sparse matrices, where a step takes them
    at once, bfloat16 ones and a copy of all in one piece; else they come and go a layer at a time."""
    matrices, rest = spec.counts.maskable, spec.counts.total - spec.counts.maskable
    if spec.method == "dense":
        return 4 * spec.counts.total
    return 4 * rest + (4 * matrices if matrices <= TOGETHER else 0)


def _sums(spec: Spec) -> float:
    """Of a batch's parts, in bytes: float32 sums of the gradients of sparse matrices, of active weights alone where
    layers come one at a time and the method never looks at others. Dense gradients are summed in place."""
    if spec.method == "dense":
        return 0
    whole = spec.counts.maskable <= TOGETHER or METHODS[spec.method].window != 0
    return 4 * (spec.counts.maskable if whole else _active_at_start(spec))


def _activations(spec: Spec, tokens: int) -> float:
    """Bytes that compiled blocks keep for the backward pass. For each token a block keeps its input and that of its
    feed-forward layer (float32), both normalised, queries, keys, values and the attention's output (bfloat16), and
    three vectors of the feed-forward width (bfloat16)."""
    shape = spec.shape
    return tokens * shape.depth * (20 * shape.width + 6 * shape.ffn)


def _head(spec: Spec, tokens: int) -> float:
    """Bytes of head and loss: logits of one stretch of tokens, or of two, the head's gradient and bfloat16 copy, and
    what goes in and its gradients."""
    logits = tokens * spec.vocab_size
    stretches = min(2 * LOGITS_AT_ONCE, logits)
    return 2 * stretches + 6 * spec.counts.head + 10 * tokens * spec.shape.width


def _active_at_start(spec: Spec) -> int:
    """Active maskable weights before the first topology update; never are there more."""
    return sum(spec.block_counts_at(None).values()) * math.prod(spec.block)


def _mean(spec: Spec) -> int:
    """Bytes of the gradient's running mean, which one method keeps of all maskable weights."""
    return 4 * spec.counts.maskable if spec.method == "momentum" else 0


def _megabytes(tensors: float) -> int:
    return CONTEXT_MEGABYTES + math.ceil(ALLOCATOR * tensors / 1e6)

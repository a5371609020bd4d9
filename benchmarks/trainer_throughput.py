"""Training steps of one process on one device: tokens/s, share of the matrix-product rate (MFU) and peak memory, beside
an eager loop that masks as released sparse-training code does, and transformers' Trainer.

    python benchmarks/trainer_throughput.py 20m:128:32000 60m:128:32000 3m:64:4096
    torchrun --nproc-per-node 2 benchmarks/trainer_throughput.py 1b92:128:32000      # without peers

A case is size:sequences:vocabulary, of 256 tokens a sequence. `dense` and `rigl` at density 0.25 run through the
trainer that cells use, and `evaluation` is held-out evaluation by the latter. `masked-loop` is transformers' model
under autocast with torch's AdamW, which multiplies gradients and weights by their masks tensor by tensor;
`transformers` is its dense `Trainer` with bf16, torch_compile and fused AdamW (needs `pip install accelerate`). No
topology update falls into what is timed; sparse_step.py does that. One JSON line a measurement; the matrix rate comes
first, in the same run.
"""

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import typer
from torch import Tensor

from sparsedc import model as models
from sparsedc.config import Hyperparameters
from sparsedc.spec import Spec
from sparsedc.train.ranks import Ranks, joined
from sparsedc.train.trainer import Trainer, autocast_dtype

SEQUENCE = 256
DENSITY = 0.25
WARM_UP = 6


class Timed(NamedTuple):
    """Seconds to the end of WARM_UP steps, and of one step after them."""

    start: float
    step: float


def main(cases: Annotated[list[str], typer.Argument()], steps: int = 20, peers: bool = True) -> None:
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with joined(device) as ranks:
        measure_all(cases, steps, peers and ranks.size == 1, device, ranks)


def measure_all(cases: list[str], steps: int, peers: bool, device: torch.device, ranks: Ranks) -> None:
    def say(line: str) -> None:
        if ranks.leads:
            print(line, flush=True)

    rate = matrix_rate(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    say(f"{ranks.size} x {name}, torch {torch.__version__}; a matrix product reached {rate / 1e12:.1f} TFLOP/s")
    for case in cases:
        size, sequences, vocabulary = case.split(":")
        spec = spec_of(size, int(sequences), int(vocabulary))
        ids = torch.randint(int(vocabulary), (int(sequences) // ranks.size, SEQUENCE + 1), device=device)
        ways: dict[str, Callable[[], Timed]] = {
            "dense": lambda spec=spec, ids=ids: timed(ours(spec, "dense", 1.0, ids, ranks), steps, device),
            "rigl": lambda spec=spec, ids=ids: timed(ours(spec, "rigl", DENSITY, ids, ranks), steps, device),
            "evaluation": lambda spec=spec, ids=ids: timed(evaluation(spec, ids, ranks), steps, device),
        }
        if peers:
            ways["masked-loop"] = lambda spec=spec, ids=ids: timed(masked_loop(spec, ids), steps, device)
            ways["transformers"] = lambda spec=spec, ids=ids: transformers_trainer(spec, ids, steps)
        flops = models.training_flops(spec.shape, spec.vocab_size, SEQUENCE, spec.training.batch_tokens)
        for way, measure in ways.items():
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            result = {"size": size, "batch": f"{sequences} x {SEQUENCE}", "vocabulary": int(vocabulary), "way": way}
            result |= {"gpus": ranks.size} if ranks.size > 1 else {}
            try:
                start, seconds = measure()
            except torch.OutOfMemoryError:
                say(json.dumps({**result, "failed": "out of memory"}))
                continue
            share = 1 / 3 if way == "evaluation" else 1  # of a step's FLOPs
            result |= {
                "tokens_per_second": round(spec.training.batch_tokens / seconds), "ms": round(seconds * 1e3, 3),
                "mfu": round(share * flops / seconds / rate / ranks.size, 3), "start_seconds": round(start, 1),
                "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else None,
            }  # fmt: skip
            say(json.dumps(result))


def timed(build: Callable[[], Callable[[], object]], steps: int, device: torch.device) -> Timed:
    begin = time.perf_counter()
    step = build()
    for _ in range(WARM_UP):
        step()
    settle(device)
    start = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    settle(device)
    return Timed(start, (time.perf_counter() - begin) / steps)


def spec_of(size: str, sequences: int, vocabulary: int) -> Spec:
    batch = sequences * SEQUENCE
    return Spec(
        data="0" * 16, size=size, shape=models.LADDER[size], vocab_size=vocabulary, sequence_length=SEQUENCE,
        evaluation_split="validation", method="dense", density=1.0, unique_tokens=batch * 10_000, epochs=1, seed=0,
        training=Hyperparameters(batch_tokens=batch, topology_interval=1000, topology_stop=1.0),
    )  # fmt: skip


def ours(spec: Spec, method: str, density: float, ids: Tensor, ranks: Ranks) -> Callable[[], Callable[[], None]]:
    def build() -> Callable[[], None]:
        trainer = Trainer.start(spec.model_copy(update={"method": method, "density": density}), ids.device, ranks=ranks)
        return lambda: trainer.take_step(ids[:, :-1], ids[:, 1:])

    return build


def evaluation(spec: Spec, ids: Tensor, ranks: Ranks) -> Callable[[], Callable[[], Tensor]]:
    def build() -> Callable[[], Tensor]:
        trainer = Trainer.start(spec.model_copy(update={"method": "rigl", "density": DENSITY}), ids.device, ranks=ranks)
        trainer.take_step(ids[:, :-1], ids[:, 1:])
        sequences = trainer.work.micro_batch_sequences
        return lambda: torch.cat(
            [trainer.work.losses_of(part[:, :-1], part[:, 1:]) for part in torch.split(ids, sequences)]
        )

    return build


def masked_loop(spec: Spec, ids: Tensor) -> Callable[[], Callable[[], None]]:
    """Eager: float32 weights under autocast, masks applied to gradients and weights one tensor after another."""
    dtype = autocast_dtype(ids.device)

    def build() -> Callable[[], None]:
        model = models.build_model(spec.shape, spec.vocab_size, SEQUENCE, 0.02, seed=0).to(ids.device)
        weights = models.maskable_weights(model, spec.shape)
        masks = {name: (torch.rand_like(weight) < DENSITY).float() for name, weight in weights.items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step() -> None:
            with torch.autocast(ids.device.type, dtype, enabled=dtype is not None):
                logits = model(ids[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            for name, weight in weights.items():
                assert weight.grad is not None
                weight.grad.mul_(masks[name])
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.mul_(masks[name])

        return step

    return build


def transformers_trainer(spec: Spec, ids: Tensor, steps: int) -> Timed:
    """transformers' `Trainer`, whose own loop a callback times. Batches come from memory; a sequence predicts one token
    less than ours, as the model itself shifts its labels."""
    from transformers import Trainer as Peer
    from transformers import TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        begin = time.perf_counter()
        times: ClassVar[dict[int, float]] = {}

        def on_step_end(self, arguments: object, state: Any, control: object, **_: object) -> None:
            if state.global_step in (WARM_UP, WARM_UP + steps):
                settle(ids.device)
                self.times[state.global_step] = time.perf_counter() - self.begin

    sequences = ids[:, :-1].cpu()
    rows = [{"input_ids": row, "labels": row} for row in sequences.repeat(WARM_UP + steps, 1)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=WARM_UP + steps, per_device_train_batch_size=len(sequences),
            bf16=ids.device.type == "cuda", torch_compile=True, optim="adamw_torch_fused", learning_rate=1e-4,
            max_grad_norm=1.0, logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=ids.device.type == "cpu",
        )  # fmt: skip
        model = models.build_model(spec.shape, spec.vocab_size, SEQUENCE, 0.02, seed=0)
        clock = Clock()
        Peer(model=model, args=arguments, train_dataset=rows, callbacks=[clock]).train()
    first, last = clock.times[WARM_UP], clock.times[WARM_UP + steps]
    return Timed(first, (last - first) / steps)


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of a large product in the type that training uses."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=autocast_dtype(device)) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        settle(device)
        begin = time.perf_counter()
        for _ in range(10):
            torch.mm(a, b)
        settle(device)
        best = min(best, (time.perf_counter() - begin) / 10)
    return 2 * side**3 / best


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    typer.run(main)

"""Memory of sparse training: tensors enumerated against the allocator and against dense AdamW, and the paper's largest
held-out shape, 7.68B dense-equivalent at 75 % sparsity, on one 80 GB GPU.

    python benchmarks/sparse_memory.py small                    shapes and granularities, seconds, GPU or CPU
    python benchmarks/sparse_memory.py large                    the 7.68B model; needs an 80 GB GPU
    python benchmarks/sparse_memory.py large --size 1b92        another size of the ladder

Prints one JSON line a measurement. Text does not matter for memory and speed: tokens are random.
"""

import json
import time
from typing import Annotated

import torch
import typer
from torch.nn import functional
from transformers import LlamaForCausalLM

from sparsedc.config import Shape
from sparsedc.model import LADDER, count_parameters, llama_config, maskable_shapes, maskable_weights
from sparsedc.optim import Newborn
from sparsedc.sparsity.distribution import layer_counts
from sparsedc.sparsity.engine import SparseEngine
from sparsedc.sparsity.methods import method
from sparsedc.sparsity.schedule import TopologySchedule

VOCABULARY = 32128  # the paper's tokenizer is t5-base
SEQUENCE = 256
DENSE_BYTES = 16  # a parameter of dense AdamW in mixed precision: float32 weight, gradient and two moments

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def bound(density: float) -> float:
    """Persistent bytes a maskable parameter: a bf16 weight; for active ones float32 master and two moments, a bf16
    gradient and a 16-bit age; one bit of mask."""
    return 2 + 16 * density + 1 / 8


@app.command()
def small() -> None:
    """Enumerated bytes, and what the allocator holds more than before, by density and granularity."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, columns, depth = 1024, 4096, 8
    for density in (1.0, 0.5, 0.25, 0.1):
        for block in ((1, 1), (1, 16), (1, 128), (16, 16)):
            shapes = {f"layer{i}": (rows, columns) for i in range(depth)}
            counts = layer_counts(shapes, density, "uniform", block=block)
            before = allocated(device)
            weights = {
                name: torch.nn.Parameter(torch.randn(shape, device=device, dtype=torch.bfloat16))
                for name, shape in shapes.items()
            }
            schedule = TopologySchedule(100, 10, 0.2, 0.005, 1.0)
            engine = SparseEngine(
                weights, lambda step, counts=counts: counts, method("smet"), schedule, 0, block=block, together=False
            )
            for step in range(1, 12):  # a topology update included
                engine.begin(step)
                x = torch.randn(16, columns, device=device, dtype=torch.bfloat16)
                sum((x @ w.T).float().square().mean() for w in weights.values()).backward()
                engine.step(1e-3)
                engine.update_topology()
            parameters = rows * columns * depth
            held = allocated(device) - before
            report(
                density=density,
                block=list(block),
                bound=bound(density),
                enumerated=engine.persistent_bytes() / parameters,
                allocator=held / parameters if device.type == "cuda" else None,
            )
            assert engine.persistent_bytes() <= bound(density) * parameters
            for hooked in weights.values():
                hooked.grad = None
            del engine, weights


@app.command()
def large(
    size: str = "7b68",
    density: float = 0.25,
    name: Annotated[str, typer.Option("--method")] = "smet",
    batch_tokens: int = 16384,
    steps: int = 12,
    interval: int = 5,
) -> None:
    """Training steps, topology updates among them, with tokens/s and peak memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = LADDER[size]
    counts = count_parameters(shape, VOCABULARY)
    begin = time.perf_counter()
    model = build(shape, device)
    schedule = TopologySchedule(steps, 1, 0.2, 0.005, 1.0, interval=interval)
    blocks = layer_counts(maskable_shapes(shape), density, "uniform")
    engine = SparseEngine(
        maskable_weights(model, shape), lambda step: blocks, method(name), schedule, 0, newborn=Newborn("linear")
    )
    masked = {id(layer.weight) for layer in engine.layers}
    others = [p for p in model.parameters() if id(p) not in masked]
    optimizer = torch.optim.AdamW(others, lr=1e-3, fused=device.type == "cuda")
    settle(device)
    report(
        size=size,
        density=density,
        method=name,
        parameters=counts.total,
        seconds_to_build=time.perf_counter() - begin,
        dense_adamw_gib=DENSE_BYTES * counts.total / 2**30,
        bound_gib=(bound(density) * counts.maskable + DENSE_BYTES * (counts.total - counts.maskable)) / 2**30,
        engine_bytes_a_maskable_parameter=engine.persistent_bytes() / counts.maskable,
        allocator_gib=allocated(device) / 2**30,
        **memory(device),
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        ids = torch.randint(VOCABULARY, (batch_tokens // SEQUENCE, SEQUENCE + 1), generator=generator).to(device)
        begin = time.perf_counter()
        engine.begin(step)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(ids[:, :-1]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        del logits
        loss.backward()
        norms = [torch.nn.utils.get_total_norm([p.grad for p in others]), engine.gradient_norm()]
        clip = (1.0 / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
        for p in others:
            p.grad.mul_(clip)
        optimizer.step()
        optimizer.zero_grad()
        engine.step(1e-3, clip)
        settle(device)
        seconds, update_begin = time.perf_counter() - begin, time.perf_counter()
        update = engine.update_topology()
        settle(device)
        report(
            step=step,
            loss=loss.item(),
            seconds=seconds,
            tokens_per_second=batch_tokens / seconds,
            update_seconds=time.perf_counter() - update_begin if update else None,
            replaced=sum(update.replaced) if update else None,
            **memory(device),
        )
    engine.check()
    report(mask_hash=engine.mask_hash())


def build(shape: Shape, device: torch.device) -> LlamaForCausalLM:
    """A model whose maskable matrices are made in bf16 where they stay, so that no float32 copy of them ever is."""
    config = llama_config(shape, VOCABULARY, SEQUENCE, init_std=0.02)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(before)
    masked = set(maskable_shapes(shape))
    for name, parameter in model.named_parameters():
        if name not in masked:
            parameter.data = parameter.data.float()
    model.model.rotary_emb.float()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {
        "allocated_gib": torch.cuda.memory_allocated(device) / 2**30,
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved(device) / 2**30,
    }


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    app()

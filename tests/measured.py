"""Small runs tables with losses that a test chooses."""

from typing import Any

import pandas as pd

from sparsedc.law.validate import SeedNoise
from sparsedc.noise import Noise
from sparsedc.runs import COLUMNS

#: dense-equivalent parameters outside embedding and head
SIZES = {"a": 1_000_000, "b": 2_000_000, "c": 4_000_000, "d": 8_000_000}
EMBEDDING = 1_000


def run(loss: float, size: str = "a", density: float = 1.0, epochs: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A row of a runs table; FLOPs are 6 × parameters outside the embedding × tokens."""
    changes = {"U": 1_000_000, "seed": 0, "method": "dense" if density == 1 else "set", "rate": 1e-3} | changes
    U, active = changes.pop("U"), round(SIZES[size] * density)
    tokens = round(U * epochs)
    rate = changes.pop("rate")
    name = f"{size}-{density}-{U}-{epochs}-{rate}-{changes['method']}-{changes['seed']}-{changes.get('held_out')}"
    return {
        "cell": name,
        "study": "made up",
        "role": "fit",
        "held_out": "text",
        "size": size,
        "density": density,
        "unique_tokens": U,
        "epochs": epochs,
        "tokens": tokens,
        "params_total": SIZES[size] + 2 * EMBEDDING,
        "params_embedding": EMBEDDING,
        "params_head": EMBEDDING,
        "params_maskable": SIZES[size],
        "params_active": active + 2 * EMBEDDING,
        "params_active_mean": active + 2 * EMBEDDING,
        "flops_dense": 6.0 * SIZES[size] * tokens,
        "flops_sparse": 6.0 * active * tokens,
        "lr": rate,
        "maskable_lr": rate,
        "weight_decay": 0.1,
        "batch_tokens": 1000,
        "steps": tokens // 1000,
        "val_loss": loss,
        "val_loss_se": 0.02,
        "train_loss": loss,
        "status": "ok",
        "seconds": 1.0,
        "tokens_per_second": 1.0,
        "device": "none",
        "torch": "none",
        "commit": "none",
        "fingerprint": name,
        **changes,
    }


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """As `read_runs` gives it."""
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def seeds(*losses: float, **where: Any) -> list[dict[str, Any]]:
    """Runs of one configuration, one seed each."""
    return [run(loss, **where, seed=seed) for seed, loss in enumerate(losses)]


def alike(sd: float, freedom: int) -> Noise:
    """One noise, known for either side from seeds of its own."""
    return Noise(SeedNoise(sd, freedom, freedom), SeedNoise(sd, freedom, freedom))


def noisy(freedom: int, sd: float = 0.01, density: float = 0.5) -> list[dict[str, Any]]:
    """Pairs of seeds whose pooled standard deviation is `sd`, at a U of their own."""
    half = sd / 2**0.5
    return [
        run(5 + sign * half, U=10_000 + pair, density=density, seed=seed)
        for pair in range(freedom)
        for seed, sign in enumerate((-1, 1))
    ]


def the_one(found: pd.DataFrame, **where: object) -> pd.Series:
    """The one row that has these values."""
    for column, value in where.items():
        found = found[found[column] == value]
    assert len(found) == 1
    return found.iloc[0]

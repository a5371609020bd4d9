"""A study's cells as a table: what each is, and what it will cost."""

import pandas as pd

from sparsedc.errors import InputError
from sparsedc.study import Study


def listing(study: Study, tflops: float) -> pd.DataFrame:
    """One row a cell, in training order. `hours` assumes a device that sustains `tflops` × 10^12 FLOP/s on the
    dense FLOPs; losses are not known yet.

    Raises:
        InputError: the study trains nothing.
    """
    if not study.cells:
        raise InputError("law", "published", f"the study {study.name} trains no cells", "There is nothing to list.")
    rows = []
    for cell in study.cells.values():
        spec = cell.spec
        dense = spec.flops(sparse=False)
        rows.append(
            {
                "cell": cell.id,
                "role": cell.role,
                "method": spec.method,
                "size": spec.size,
                "density": spec.density,
                "unique_tokens": spec.unique_tokens,
                "epochs": spec.epochs,
                "tokens": spec.tokens,
                "steps": spec.steps,
                "seed": spec.seed,
                "lr": spec.training.lr,
                "params_total": spec.counts.total,
                "params_maskable": spec.counts.maskable,
                "params_active": spec.counts.active(spec.active_maskable),
                "flops_dense": dense,
                "flops_sparse": spec.flops(sparse=True),
                "hours": dense / (tflops * 1e12) / 3600,
                "fingerprint": cell.fingerprint,
            }
        )
    return pd.DataFrame(rows)


def render(table: pd.DataFrame) -> str:
    """The table for a terminal, with totals."""
    columns = ["cell", "role", "params_total", "params_active", "tokens", "flops_dense", "flops_sparse", "hours"]
    number = "{:.3g}".format
    body = table[columns].to_string(
        index=False, formatters=dict.fromkeys(("flops_dense", "flops_sparse", "hours"), number)
    )
    total = (
        f"{len(table)} cells, {table['tokens'].sum():,} tokens, {table['flops_dense'].sum():.3g} dense FLOPs, "
        f"about {table['hours'].sum():.3g} device hours"
    )
    return f"{body}\n{total}"

"""A study's cells as a table: what each is, and what it will cost; and what a study costs in all."""

import pandas as pd

from sparsedc.demand import (
    CHECKPOINTS,
    checkpoint_megabytes,
    device_megabytes,
    host_megabytes,
    least_device_megabytes,
    results_megabytes,
    token_megabytes,
)
from sparsedc.errors import InputError
from sparsedc.runs import planned
from sparsedc.speed import Speed
from sparsedc.study import Study
from sparsedc.words import count_label

#: Of the runs table, what is listed.
PLANNED = (
    "method", "size", "density", "unique_tokens", "epochs", "tokens", "steps", "seed", "lr",
    "params_total", "params_maskable", "params_active", "flops_dense", "flops_sparse",
)  # fmt: skip
#: What a grid is thinned by.
FACTORS = ("role", "size", "density", "unique_tokens", "epochs", "method", "seed")


def listing(study: Study, speed: Speed) -> pd.DataFrame:
    """One row a cell, in training order; losses are not known yet.

    `hours` are of training on the dense FLOPs. `device_gb` is of a GPU with a batch taken at once, `least_device_gb`
    with one sequence at a time; `checkpoints_gb` of disk, while the cell trains.

    Raises:
        InputError: the study trains nothing.
    """
    if not study.cells:
        raise InputError("law", "published", f"the study {study.name} trains no cells", "There is nothing to list.")
    rows = []
    for cell in study.cells.values():
        spec = cell.spec
        row = planned(spec)
        rows.append(
            {
                "cell": cell.id,
                "role": cell.role,
                **{column: row[column] for column in PLANNED},
                "hours": row["flops_dense"] / (speed.at(spec.counts.total) * 1e12) / 3600,
                "device_gb": device_megabytes(spec) / 1e3,
                "least_device_gb": least_device_megabytes(spec) / 1e3,
                "host_gb": host_megabytes(spec) / 1e3,
                "checkpoints_gb": CHECKPOINTS * checkpoint_megabytes(spec) / 1e3,
                "tokens_gb": token_megabytes(spec) / 1e3,
                "results_gb": results_megabytes(spec) / 1e3,
                "fingerprint": cell.fingerprint,
            }
        )
    return pd.DataFrame(rows)


def render(table: pd.DataFrame, speed: Speed) -> str:
    """For a terminal: the cells; what may be saved by thinning each factor that varies; and totals."""
    cells = pd.DataFrame(
        {
            "cell": table["cell"],
            "role": table["role"],
            "params": table["params_total"].map(count_label),
            "active": table["params_active"].map(count_label),
            "tokens": table["tokens"].map(count_label),
            "FLOPs": table["flops_dense"].map("{:.3g}".format),
            "hours": table["hours"].map(_hours),
            "device GB": table["device_gb"].map(_gigabytes),
            "checkpoints GB": table["checkpoints_gb"].map(_gigabytes),
        }
    )
    varied = [factor for factor in FACTORS if table[factor].nunique() > 1]
    parts = [cells.to_string(index=False), *(_by(table, factor) for factor in varied), _totals(table, speed)]
    return "\n\n".join(parts)


def _by(table: pd.DataFrame, factor: str) -> str:
    """Hours of the cells that agree in a factor, and what each size needs of memory and disk at most."""
    groups = table.groupby(factor, sort=factor != "size")  # sizes come as they are trained, the costly first
    hours = groups["hours"].sum()
    label = count_label if factor == "unique_tokens" else str
    summary = {
        factor.replace("_", " "): [label(value) for value in hours.index],
        "cells": groups.size(),
        "hours": hours.map(_hours),
        "share": (hours / hours.sum()).map("{:.1%}".format),
    }
    if factor == "size":
        columns = {"device_gb": "device GB", "least_device_gb": "at least", "checkpoints_gb": "checkpoints GB"}
        summary |= {name: groups[column].max().map(_gigabytes) for column, name in columns.items()}
    return pd.DataFrame(summary).to_string(index=False)


def _totals(table: pd.DataFrame, speed: Speed) -> str:
    needs = ["device_gb", "least_device_gb", "host_gb", "checkpoints_gb", "tokens_gb"]
    most = table[needs].max().map(_gigabytes)
    unknown = sum(not speed.knows(params) for params in table["params_total"])
    nearest = f"; {unknown} cells are larger or smaller than all of these, and taken as the nearest" if unknown else ""
    return "\n".join(
        [
            f"{len(table)} cells, {table['tokens'].sum():,} tokens, {table['flops_dense'].sum():.3g} dense FLOPs",
            f"time    {_hours(table['hours'].sum())} hours of training, one cell after another, at {speed.text()}"
            + nearest,
            f"memory  {most['device_gb']} GB of a GPU for the largest cell with its batch taken at once, at least "
            f"{most['least_device_gb']} GB in parts; {most['host_gb']} GB of the host",
            f"disk    at least {most['tokens_gb']} GB of tokens, beside the text; up to {most['checkpoints_gb']} GB of "
            f"checkpoints for each cell in training; {_gigabytes(table['results_gb'].sum())} GB of results",
        ]
    )


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _gigabytes(gigabytes: float) -> str:
    return f"{gigabytes:,.0f}" if gigabytes >= 10 else f"{gigabytes:.2g}"

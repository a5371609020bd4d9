"""Does repeated text cost a sparse model less? From differences of measured losses, without a law.

    python benchmarks/repetition_cost.py > benchmarks/results/repetition_cost.md

The cost of a configuration is its loss on U unique tokens seen E times, less that of the same model on k U tokens seen
E / k times: as many tokens, steps and FLOPs, fewer of them fresh. Costs are regressed on log2 of the active parameters
and log2 of the density, with a level of its own for each pair of budgets. If sparsity delays saturation, the cost falls
with the density at equal N; if it only makes a model smaller, it does not. Intervals are of 10,000 resamples of the
models (size and density), since one cell is in several pairs.
"""

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from paper_design import heading

from sparsedc.law import read_table
from sparsedc.law.counts import count_params
from sparsedc.words import count_label

ROOT = Path(__file__).parents[1]
STUDIES = ("h100", "h100-as-published")
COUNTED = {"total": "total parameters", "active": "active parameters", "body": "active parameters of the body"}
RESAMPLES = 10_000


def costs(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a model and pair of budgets: `size`, `density`, log2 of N by convention, `pair`, `cost` (nats)."""
    counts = {name: count_params(runs, name) for name in ("active", "body")} | {"total": runs["params_total"]}
    runs = runs.assign(**{name: np.log2(count) for name, count in counts.items()})
    model = ["size", "density", *COUNTED]
    losses = runs.groupby([*model, "unique_tokens", "epochs"], as_index=False)["val_loss"].mean()
    budgets = sorted(set(zip(losses["unique_tokens"], losses["epochs"], strict=True)))
    rows: list[pd.DataFrame] = []
    for (few, often), (many, seldom) in product(budgets, budgets):
        if few < many and few * often == many * seldom:
            of = [
                losses[(losses["unique_tokens"] == u) & (losses["epochs"] == e)]
                for u, e in ((few, often), (many, seldom))
            ]
            both = of[0].merge(of[1], on=model, suffixes=("", "_fresher"))
            pair = f"{count_label(few)} × {often:g} less {count_label(many)} × {seldom:g}"
            rows.append(both[model].assign(pair=pair, cost=both["val_loss"] - both["val_loss_fresher"]))
    return pd.concat(rows, ignore_index=True)


def slopes(cells: pd.DataFrame, convention: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nats a doubling of N and a halving of the density: two estimates, and 2 × 2 limits of their 95 % intervals."""
    levels = pd.get_dummies(cells["pair"], dtype=float).to_numpy()
    design = np.column_stack([cells[convention], -np.log2(cells["density"]), levels])
    cost = cells["cost"].to_numpy()
    models = cells.groupby(["size", "density"]).indices
    rng = np.random.default_rng(0)
    drawn = np.empty((RESAMPLES, 2))
    groups = list(models.values())
    for n in range(RESAMPLES):
        rows = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        drawn[n] = np.linalg.lstsq(design[rows], cost[rows], rcond=None)[0][:2]
    return np.linalg.lstsq(design, cost, rcond=None)[0][:2], np.quantile(drawn, [0.025, 0.975], axis=0)


def main() -> None:
    print(heading("What repetition costs, by density"))
    print(__doc__.partition("\n\n")[2].partition("\n\n")[2])
    for study in STUDIES:
        runs = read_table(ROOT / "results" / study / "runs.csv")
        cells = costs(runs[runs["status"] == "ok"])
        print(f"## {study}: {len(cells)} pairs of {cells.groupby(['size', 'density']).ngroups} models\n")
        print("| N counts | nats a doubling of N | nats a halving of the density at equal N |\n|---|---|---|")
        for convention, words in COUNTED.items():
            best, (low, high) = slopes(cells, convention)
            print(
                f"| {words} | "
                + " | ".join(f"{b:+.3f} ({a:+.3f} to {c:+.3f})" for b, a, c in zip(best, low, high, strict=True))
                + " |"
            )
        print("\nMean cost, nats per token:\n")
        means = cells.pivot_table(index="pair", columns="density", values="cost").sort_index(axis=1, ascending=False)
        print("| | " + " | ".join(f"density {density:g}" for density in means) + " |\n|---|" + "---|" * means.shape[1])
        for pair, row in means.iterrows():
            print(f"| {pair} | " + " | ".join("–" if np.isnan(value) else f"{value:.3f}" for value in row) + " |")
        print()


if __name__ == "__main__":
    main()

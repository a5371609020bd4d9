"""Does repeated text cost a sparse model less? From differences of measured losses, without a law.

    python benchmarks/repetition_cost.py > benchmarks/results/repetition_cost.md

The cost of a configuration is its loss on U unique tokens seen E times, less that of the same model on k U tokens seen
E / k times: as many tokens, steps and FLOPs, fewer of them fresh. Costs are regressed on log2 of N, with a level of its
own for each pair of budgets, and on one of three more: log2 of the density; whether the model is sparse at all; and the
same for the logarithm of the cost. If sparsity delays saturation, they are below 0 (a ratio below 1) at equal N; if it
only makes a model smaller, they are not. Intervals are of 10,000 resamples of the models (size and density), since one
cell is in several pairs. By the published law, whose R_D* steps from 4.4 to 6.6-7.0, the ratio is 0.65 to 0.68 for four
epochs less one, whatever U.
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
Floats = npt.NDArray[np.float64]


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


def regress(cells: pd.DataFrame, convention: str) -> tuple[Floats, Floats]:
    """Estimates (4,) and 95 % limits (2, 4).

    Nats a doubling of N; nats a halving of the density; nats that sparse costs beyond dense; ratio of their costs.
    """
    levels = pd.get_dummies(cells["pair"], dtype=float).to_numpy()
    N, density = cells[convention].to_numpy(), cells["density"].to_numpy()
    gradual, step = (np.column_stack([N, term, levels]) for term in (-np.log2(density), density < 1))
    cost = cells["cost"].to_numpy()

    def estimates(rows: npt.NDArray[np.intp] | slice) -> list[float]:
        size, halving = np.linalg.lstsq(gradual[rows], cost[rows], rcond=None)[0][:2]
        beyond = np.linalg.lstsq(step[rows], cost[rows], rcond=None)[0][1]
        ratio = np.exp(np.linalg.lstsq(step[rows], np.log(cost[rows]), rcond=None)[0][1])
        return [size, halving, beyond, ratio]

    models = list(cells.groupby(["size", "density"]).indices.values())
    rng = np.random.default_rng(0)
    drawn = [
        estimates(np.concatenate([models[i] for i in rng.integers(len(models), size=len(models))]))
        for _ in range(RESAMPLES)
    ]
    return np.array(estimates(slice(None))), np.quantile(drawn, [0.025, 0.975], axis=0)


def main() -> None:
    print(heading("What repetition costs, by density"))
    print(__doc__.partition("\n\n")[2].partition("\n\n")[2])
    for study in STUDIES:
        runs = read_table(ROOT / "results" / study / "runs.csv")
        cells = costs(runs[runs["status"] == "ok"])
        print(f"## {study}: {len(cells)} pairs of {cells.groupby(['size', 'density']).ngroups} models\n")
        print(
            "| N counts | nats a doubling of N | a halving of the density | sparse less dense | ratio sparse / dense |"
        )
        print("|---|---|---|---|---|")
        for convention, words in COUNTED.items():
            best, (low, high) = regress(cells, convention)
            told = [f"{b:+.3f} ({a:+.3f} to {c:+.3f})" for b, a, c in zip(best[:3], low, high, strict=False)]
            print(f"| {words} | {' | '.join(told)} | {best[3]:.2f} ({low[3]:.2f} to {high[3]:.2f}) |")
        print("\nMean cost, nats per token:\n")
        means = cells.pivot_table(index="pair", columns="density", values="cost").sort_index(axis=1, ascending=False)
        print("| | " + " | ".join(f"density {density:g}" for density in means) + " |\n|---|" + "---|" * means.shape[1])
        for pair, row in means.iterrows():
            print(f"| {pair} | " + " | ".join("–" if np.isnan(value) else f"{value:.3f}" for value in row) + " |")
        print()


if __name__ == "__main__":
    main()

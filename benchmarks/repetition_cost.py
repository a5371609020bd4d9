"""Does repeated text cost a sparse model less? From differences of measured losses, without a law.

    python benchmarks/repetition_cost.py > benchmarks/results/repetition_cost.md

The cost of a configuration is its loss on U unique tokens seen E times, less that of the same model on k U tokens seen
E / k times: as many tokens, steps and FLOPs, fewer of them fresh. Costs are regressed on log2 of N, with a level of its
own for each pair of budgets, and on one of three more: log2 of the density; whether the model is sparse at all; and the
same for the logarithm of the cost. If sparsity delays saturation, they are below 0 (a ratio below 1) at equal N; if it
only makes a model smaller, they are not. Intervals are of 10,000 resamples of the models (size and density), since one
cell is in several pairs. Below each table stands the ratio that the data term of the published law, whose R_D* steps
from 4.4 to 6.6-7.0, gives to the same pairs.
"""

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from paper_design import heading

from sparsedc.law import read_table
from sparsedc.law.counts import count_params
from sparsedc.law.published import published_fit
from sparsedc.law.repetition import QuadraticStars, saturating
from sparsedc.words import count_label

ROOT = Path(__file__).parents[1]
STUDIES = ("h100", "h100-as-published")
COUNTED = {"total": "total parameters", "active": "active parameters", "body": "active parameters of the body"}
RESAMPLES = 10_000
Floats = npt.NDArray[np.float64]


def published_term(cells: pd.DataFrame) -> Floats:
    """B / D_eff^β of the published law, (n,), in nats; β is α there."""
    theta = published_fit().parameters
    U, epochs, s = (cells[name].to_numpy(dtype=np.float64) for name in ("unique_tokens", "epochs", "density"))
    _, R_D_star = QuadraticStars()(theta, s)
    return np.asarray(theta["B"] * (U * (1 + saturating(epochs - 1, R_D_star))) ** -theta["alpha"], dtype=np.float64)


def costs(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a model and pair of budgets: `size`, `density`, log2 of N by convention, `pair`, `cost` and `published`
    (nats)."""
    counts = {name: count_params(runs, name) for name in ("active", "body")} | {"total": runs["params_total"]}
    runs = runs.assign(**{name: np.log2(count) for name, count in counts.items()})
    model = ["size", "density", *COUNTED]
    losses = runs.groupby([*model, "unique_tokens", "epochs"])["val_loss"].mean().reset_index()
    losses["published"] = published_term(losses)
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
            cost = both["val_loss"] - both["val_loss_fresher"]
            published = both["published"] - both["published_fresher"]
            rows.append(both[model].assign(pair=pair, cost=cost, published=published))
    return pd.concat(rows, ignore_index=True)


def estimates(cells: pd.DataFrame, convention: str, cost: str = "cost") -> list[float]:
    """Nats a doubling of N and a halving of the density, nats that sparse costs beyond dense, ratio of their costs."""
    levels = pd.get_dummies(cells["pair"], dtype=float).to_numpy()
    N, density = cells[convention].to_numpy(), cells["density"].to_numpy()
    gradual, step = (np.column_stack([N, term, levels]) for term in (-np.log2(density), density < 1))
    nats = cells[cost].to_numpy()
    size, halving = np.linalg.lstsq(gradual, nats, rcond=None)[0][:2]
    beyond, log_ratio = (np.linalg.lstsq(step, y, rcond=None)[0][1] for y in (nats, np.log(nats)))
    return [size, halving, beyond, np.exp(log_ratio)]


def limits(cells: pd.DataFrame, convention: str) -> Floats:
    """Of the 95 % intervals of the estimates, (2, 4)."""
    models = list(cells.groupby(["size", "density"]).indices.values())
    rng = np.random.default_rng(0)
    drawn = [
        estimates(
            cells.iloc[np.concatenate([models[i] for i in rng.integers(len(models), size=len(models))])], convention
        )
        for _ in range(RESAMPLES)
    ]
    return np.quantile(drawn, [0.025, 0.975], axis=0)


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
            best, (low, high) = estimates(cells, convention), limits(cells, convention)
            told = [f"{b:+.3f} ({a:+.3f} to {c:+.3f})" for b, a, c in zip(best[:3], low, high, strict=False)]
            print(f"| {words} | {' | '.join(told)} | {best[3]:.2f} ({low[3]:.2f} to {high[3]:.2f}) |")
        published = estimates(cells, "active", "published")[3]
        print(f"\nRatio by the published law: {published:.2f}. Mean cost, nats per token:\n")
        means = cells.pivot_table(index="pair", columns="density", values="cost").sort_index(axis=1, ascending=False)
        print("| | " + " | ".join(f"density {density:g}" for density in means) + " |\n|---|" + "---|" * means.shape[1])
        for pair, row in means.iterrows():
            print(f"| {pair} | " + " | ".join("–" if np.isnan(value) else f"{value:.3f}" for value in row) + " |")
        print()


if __name__ == "__main__":
    main()

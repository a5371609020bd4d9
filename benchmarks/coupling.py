"""Do the model-size term and the data term of a law add up? The same law with their plain sum and with a norm of it.

    python benchmarks/coupling.py > benchmarks/results/coupling.md

Peers are the additive laws of Hoffmann et al. and Muennighoff et al. Tables are those of others under tests/law/data
(sources beside them) and the committed H100 study; N counts all active parameters. Takes a few minutes.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from paper_design import heading

from sparsedc.errors import SparsedcWarning
from sparsedc.law import Fit, finished, fit_law, read_table
from sparsedc.law.profile import profile
from sparsedc.law.validate import cross_validate, folds, pooled_rmse

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "law" / "data"
PARAMS = "active"
ONE_EPOCH = ("chinchilla", "muennighoff:unlimited,untied,coupled")
GEMSTONES = {"params_active": "params_active_precise", "val_loss": "final_loss"}


def tables() -> Iterator[tuple[str, pd.DataFrame, tuple[str, str]]]:
    """Name, runs, and the additive and the coupled form; of others' tables also without their least trained runs."""
    gadre = read_table(DATA / "gadre_overtraining_104.csv", {"params_active": "params", "val_loss": "loss_c4_val"})
    theirs = pd.read_csv(DATA / "gadre_overtraining_104.csv")
    for dataset, name in (("c4_original", "C4"), ("rpj", "RedPajama"), ("rw_original", "RefinedWeb")):
        of_dataset = (theirs["dataset"] == dataset).to_numpy()
        yield f"Gadre et al., trained on {name}", gadre[of_dataset], ONE_EPOCH
        trained = of_dataset & (theirs["chinchilla_multiplier"] >= 1).to_numpy()
        yield "… of at least 20 tokens a parameter", gadre[trained], ONE_EPOCH
    for file, name in (("gemstones_hot.csv", "constant rate"), ("gemstones_cool_end.csv", "cooled down")):
        runs = read_table(DATA / file, GEMSTONES)
        yield f"McLeish et al., {name}", runs, ONE_EPOCH
        yield "… of at least 60 tokens a parameter", runs[runs["tokens"] >= 60 * runs["params_active"]], ONE_EPOCH
    repeated = read_table(DATA / "datablations_c4_fit182.csv", {"params_active": "params"})
    yield "Muennighoff et al., C4", repeated, ("muennighoff:untied", "muennighoff:untied,coupled")
    yield "… of one epoch", repeated[repeated["tokens"] <= repeated["unique_tokens"]], ONE_EPOCH
    ours = read_table(ROOT / "results" / "h100" / "runs.csv")
    yield "H100 study", ours, ("power:untied", "power:untied,coupled")
    fresh = finished(ours, "fit").query("density == 1 and epochs <= 1")
    yield "… dense, one epoch", fresh, ONE_EPOCH


def beyond(runs: pd.DataFrame, fit: Fit) -> float | None:
    """RMSE on the tenth of the configurations with the most compute, fitted without them."""
    kept = finished(runs, "fit")
    masks = {"compute": folds(kept, PARAMS)["compute"]}
    return pooled_rmse(cross_validate(kept, fit, masks)["compute"])


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def main() -> None:
    warnings.simplefilter("ignore", SparsedcWarning)
    print(heading("Do the terms of a law add up?"))
    print("RMSE in nats on the fitted runs, and on the tenth of most compute fitted without it.\n")
    print("| runs | n | additive: fitted, most compute | coupled: fitted, most compute | ΔAICc | q | 95 % |")
    print("|---|---|---|---|---|---|---|")
    for name, runs, forms in tables():
        plain, coupled = (fit_law(runs, form, params=PARAMS) for form in forms)
        errors = [f"{fit.rmse:.3f}, {number(beyond(runs, fit), 3)}" for fit in (plain, coupled)]
        interval = profile(finished(runs, "fit"), coupled, "q")
        print(
            f"| {name} | {plain.n_runs} | {errors[0]} | {errors[1]} | {coupled.aicc - plain.aicc:+.1f}"
            f" | {coupled.parameters['q']:.2f} | {number(interval.low, 2)} to {number(interval.high, 2)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

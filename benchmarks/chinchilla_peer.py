"""The form "chinchilla" beside the package vpnls, which fits no other: objective and time on 240 runs.

    python benchmarks/chinchilla_peer.py [--repeats 15] | tee benchmarks/results/chinchilla_peer.md

vpnls (github.com/Open-Athena/vpnls, arXiv 2603.22339) searches a grid of exponents and solves for E, A and B at each;
its "scipy" method goes on from there by L-BFGS-B. Both run as its README says: resolution 0.01, δ = 1e-3, N in millions
and D in billions. Its Huber loss is of residuals in loss, ours by default of residuals in ln loss, so that ours is
fitted both ways and everything is measured both ways. All fits of a round run one after the other on the same data,
round after round with new noise; times are medians over rounds.

Needs the peer: `pip install vpnls[scipy]`, or, where the registry has none,
`pip install "vpnls[scipy] @ git+https://github.com/Open-Athena/vpnls"`, which needs a C compiler.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from paper_design import heading

from sparsedc.law.design import Design
from sparsedc.law.fitting import fit_finished
from sparsedc.law.forms import get_form
from sparsedc.law.likelihood import Huber

try:
    from vpnls.api import fit_vpnls, huber
except ImportError:
    sys.exit('vpnls is not installed: pip install "vpnls[scipy] @ git+https://github.com/Open-Athena/vpnls"')

#: Hoffmann et al. 2022 (arXiv 2203.15556), approach 3, rounded as there
TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
NOISE = 0.006
DELTA = 1e-3
Law = dict[str, float]


def isoflop_runs(seed: int) -> pd.DataFrame:
    """240 runs: 16 model sizes about the optimum at each of 15 budgets, 1e17 to 1e22 FLOPs."""
    flops, offset = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e17, 1e22, 15), np.linspace(-1, 1, 16)))
    exponent = TRUTH["alpha"] + TRUTH["beta"]
    G = (TRUTH["alpha"] * TRUTH["A"] / (TRUTH["beta"] * TRUTH["B"])) ** (1 / exponent)
    N = G * (flops / 6) ** (TRUTH["beta"] / exponent) * 10**offset
    D = flops / (6 * N)
    loss = get_form("chinchilla").loss(TRUTH, Design.of(N, D, D, 1.0))
    return pd.DataFrame(
        {
            "cell": [f"run {i}" for i in range(N.size)],
            "params_active": N,
            "unique_tokens": D,
            "tokens": D,
            "density": 1.0,
            "val_loss": loss * np.exp(np.random.default_rng(seed).normal(0, NOISE, N.size)),
        }
    )


def ours(residuals: str) -> Callable[[pd.DataFrame], Law]:
    likelihood = Huber(DELTA, residuals=residuals)
    return lambda runs: fit_finished(runs, "chinchilla", params="active", likelihood=likelihood).parameters


def theirs(method: str) -> Callable[[pd.DataFrame], Law]:
    def fit(runs: pd.DataFrame) -> Law:
        N, D, loss = (runs[name].to_numpy(copy=True) for name in ("params_active", "tokens", "val_loss"))
        found = fit_vpnls(N / 1e6, D / 1e9, loss, method=method, resolution=0.01, loss=huber(DELTA))
        return {
            "E": found.E,
            "A": found.A * 1e6**found.alpha,
            "B": found.B * 1e9**found.beta,
            "alpha": found.alpha,
            "beta": found.beta,
        }

    return fit


def objective(law: Law, runs: pd.DataFrame, residuals: str) -> float:
    """Σ Huber, written out here: it is what both are judged by."""
    predicted = law["E"] + law["A"] / runs["params_active"] ** law["alpha"] + law["B"] / runs["tokens"] ** law["beta"]
    measured = np.log if residuals == "log" else np.asarray
    size = np.abs(measured(predicted) - measured(runs["val_loss"]))
    return float(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    fits = {
        "sparsedc, residuals in loss": ours("loss"),
        "vpnls grid": theirs("grid"),
        "vpnls scipy": theirs("scipy"),
        "sparsedc, residuals in ln loss": ours("log"),
    }
    rows = []
    for seed in range(-1, arguments.repeats):  # the first round warms caches and is left out
        runs = isoflop_runs(max(seed, 0))
        for name, fit in fits.items():
            began = time.perf_counter()
            law = fit(runs)
            took = time.perf_counter() - began
            sums = {f"in {kind}": objective(law, runs, kind) for kind in ("loss", "log")}
            rows.append({"seed": seed, "fit": name, "seconds": took, **sums})
    table = pd.DataFrame(rows).query("seed >= 0").pivot(index="seed", columns="fit")
    print(heading(f"Chinchilla's form on 240 runs, {NOISE:.1%} noise, {arguments.repeats} rounds"))
    print("| fit | median seconds | Σ Huber of loss, mean | Σ Huber of ln loss, mean |")
    print("|---|---|---|---|")
    for name in fits:
        means = " | ".join(f"{table[f'in {kind}', name].mean():.9f}" for kind in ("loss", "log"))
        print(f"| {name} | {table['seconds', name].median():.3f} | {means} |")
    print()
    for kind, mine in (("loss", "sparsedc, residuals in loss"), ("log", "sparsedc, residuals in ln loss")):
        for peer in ("vpnls grid", "vpnls scipy"):
            sums, times = table[f"in {kind}"], table["seconds"]
            ratio = np.median(times[mine] / times[peer])
            share = np.mean(sums[mine] <= sums[peer] * (1 + 1e-9))
            excess = np.median(sums[mine] / sums[peer] - 1)
            print(
                f"- {mine}, against {peer}: {ratio:.2f} × its time (median of the rounds' ratios), an objective no"
                f" higher in {share:.0%} of rounds (median difference {excess:+.1e})"
            )


if __name__ == "__main__":
    main()

"""Does the fit find the law that made the runs, and do its intervals say how well? Many simulated studies.

    python benchmarks/law_recovery.py [--studies 200] [--first 1000] [--workers 2] [--draws 300] [--out FOLDER]

Each study is drawn from the published law, 490 runs like the paper's with 0.6 % noise (paper_design.py), and fitted
jointly, in the paper's four stages, and 300 times more to resampled runs. The report says, against the truth: how far
either fit predicts wrong for larger models than it has seen, and how often the bootstrap's 95 % intervals of the joint
fit hold each parameter, R_D*(s) and R_N*(s), the losses of those larger models and the loss-optimal density.

What the staged fit loses here has two causes. Its first two stages count N in full, while most of the one-epoch runs
here have more parameters than N_opt; and stages are frozen. Told the true R_N* from the start, it extrapolated with an
RMSE of 0.0067 nats in 12 studies rather than 0.0210, and the joint fit with 0.0040.

Studies go to OUT as they finish, into studies.csv and quantities.csv, and a second call skips those that are there.
The report is printed and written to OUT/report.md. Takes about a minute of one core a study. Needs numpy, scipy and
pandas, and src on PYTHONPATH where sparsedc is not installed.
"""

import argparse
import os
import time
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: the studies are what runs in parallel

import numpy as np
import pandas as pd
from paper_design import DENSITIES, FORM, NOISE, PARAMS, TRUTH, heading, held_out, paper_like, true_loss

from sparsedc.law.bootstrap import bootstrap
from sparsedc.law.design import Design
from sparsedc.law.fitting import fit_finished
from sparsedc.law.forms import DataConstrained, get_form
from sparsedc.law.staged import fit_staged

LEVEL = 0.95
RUNS = 490
#: where the loss-optimal density is sought, at so many tokens and parameters that more add nothing
GRID = np.linspace(1 / 32, 1.0, 311)
LIMITLESS = Design.of(1e25, 1.3e9, 1e25, GRID)


def quantities(laws: Mapping[str, object]) -> dict[str, np.ndarray]:
    """All that is compared with the truth, of k laws at once: name → (k,)."""
    theta = {name: np.atleast_1d(np.asarray(values, dtype=np.float64))[:, None] for name, values in laws.items()}
    form = get_form(FORM)
    assert isinstance(form, DataConstrained)
    R_N, R_D = form.stars(theta, np.array(DENSITIES))
    loss = form.loss(theta, held_out())
    found = {name: values[:, 0] for name, values in theta.items()}
    found |= {f"R_D_star(s={s:g})": R_D[:, i] for i, s in enumerate(DENSITIES)}
    found |= {f"R_N_star(s={s:g})": R_N[:, i] for i, s in enumerate(DENSITIES)}
    found |= {"optimal_density": GRID[np.argmin(form.loss(theta, LIMITLESS), axis=1)]}
    return found | {f"loss[{i}]": loss[:, i] for i in range(loss.shape[1])}


def study(task: tuple[int, int]) -> tuple[dict[str, object], list[dict[str, object]]]:
    """One study: its row of studies.csv, and its rows of quantities.csv."""
    seed, draws = task
    began = time.perf_counter()
    runs = paper_like(seed, RUNS - 295)
    joint = fit_finished(runs, FORM, params=PARAMS)
    jointly = time.perf_counter()
    staged = fit_staged(runs, params=PARAMS)
    staging = time.perf_counter()
    joint = bootstrap(runs, joint, n=draws, seed=seed, workers=1, level=LEVEL)
    assert joint.draws is not None
    assert joint.intervals is not None
    truth, of_joint, of_staged, of_draws = (
        quantities(laws) for laws in (TRUTH, joint.parameters, staged.parameters, joint.draws)
    )
    rows: list[dict[str, object]] = []
    for name in truth:
        low, high = joint.intervals.get(name, np.quantile(of_draws[name], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        rows.append(
            {
                "study": seed,
                "quantity": name,
                "truth": truth[name][0],
                "joint": of_joint[name][0],
                "low": -np.inf if low is None else low,
                "high": np.inf if high is None else high,
                "staged": of_staged[name][0],
            }
        )
    design = held_out()
    row: dict[str, object] = {"study": seed, "status": joint.status, "share_at_best": joint.share_at_best}
    for name, fit in {"joint": joint, "staged": staged}.items():
        errors = fit.predict(design.N, design.U, design.D, design.s) - true_loss(design)
        row[f"{name}_rmse"] = float(np.sqrt(np.mean(errors**2)))
        row[f"{name}_objective"] = fit.objective
    row |= {
        "joint_seconds": jointly - began,
        "staged_seconds": staging - jointly,
        "bootstrap_seconds": time.perf_counter() - staging,
    }
    return row, rows


def append(path: Path, rows: list[dict[str, object]]) -> None:
    pd.DataFrame(rows).to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.10g")


def report(out: Path, draws: int) -> str:
    """The tables that answer both questions, in Markdown."""
    studies = pd.read_csv(out / "studies.csv")
    rows = pd.read_csv(out / "quantities.csv")
    rows["covered"] = rows["truth"].between(rows["low"], rows["high"])
    rows["open"] = ~np.isfinite(rows["high"] - rows["low"])
    joint, staged = (np.sqrt(np.mean(studies[f"{name}_rmse"] ** 2)) for name in ("joint", "staged"))
    n, middle = len(studies), studies.median(numeric_only=True)
    lines = [
        heading(f"Recovery of the published law in {n} simulated studies"),
        f"{RUNS} runs a study, {NOISE:.1%} noise, {draws} bootstrap draws; benchmarks/law_recovery.py.",
        "",
        "| | joint | staged |",
        "|---|---|---|",
        f"| extrapolation RMSE over all studies, nats | {joint:.4f} | {staged:.4f} |",
        f"| its median | {middle['joint_rmse']:.4f} | {middle['staged_rmse']:.4f} |",
        f"| median objective | {middle['joint_objective']:.6f} | {middle['staged_objective']:.6f} |",
        f"| median seconds | {middle['joint_seconds']:.1f} | {middle['staged_seconds']:.1f} |",
        "",
        f"The joint fit extrapolates better in {np.mean(studies['joint_rmse'] < studies['staged_rmse']):.0%} of studies"
        f" and has the lower objective in {np.mean(studies['joint_objective'] <= studies['staged_objective']):.0%}."
        f" {draws} refits take {middle['bootstrap_seconds']:.0f} s (median, one core)."
        f" Status: {', '.join(f'{k} {v}' for k, v in studies['status'].value_counts().items())}.",
        "",
        f"| quantity | truth | median joint | RMSE | median staged | RMSE | coverage of {LEVEL:.0%} intervals | open |",
        "|---|---|---|---|---|---|---|---|",
    ]
    is_loss = rows["quantity"].str.startswith("loss[")
    for name, of in rows[~is_loss].groupby("quantity", sort=False):
        truth = of["truth"].iloc[0]
        errors = [np.sqrt(np.mean((of[fit] - truth) ** 2)) for fit in ("joint", "staged")]
        lines.append(
            f"| {name} | {truth:.4g} | {of['joint'].median():.4g} | {errors[0]:.3g} | {of['staged'].median():.4g} |"
            f" {errors[1]:.3g} | {of['covered'].mean():.1%} | {of['open'].mean():.0%} |"
        )
    each = rows[is_loss].groupby("quantity")["covered"].mean()
    lines += [
        f"| {len(each)} extrapolated losses | | | {joint:.4f} | | {staged:.4f} |"
        f" {each.mean():.1%} ({each.min():.1%} to {each.max():.1%}) | 0% |",
        "",
        f"The standard error of a coverage near {LEVEL:.0%} is {np.sqrt(LEVEL * (1 - LEVEL) / n):.1%}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--first", type=int, default=1000, help="seed of the first study; the others follow")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "law_recovery")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    done = set(pd.read_csv(out / "studies.csv")["study"]) if (out / "studies.csv").exists() else set()
    seeds = range(arguments.first, arguments.first + arguments.studies)
    tasks = [(seed, arguments.draws) for seed in seeds if seed not in done]
    with get_context("spawn").Pool(arguments.workers) as pool:
        for row, rows in pool.imap_unordered(study, tasks):
            append(out / "quantities.csv", rows)
            append(out / "studies.csv", [row])
            print(
                f"study {row['study']}: joint {row['joint_rmse']:.4f}, staged {row['staged_rmse']:.4f} nats", flush=True
            )
    text = report(out, arguments.draws)
    (out / "report.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""Small studies to draw: simulated runs and a law, with no fit between them unless a test needs one; and what topology
updates did to their sparse cells, made up."""

import numpy as np
import pandas as pd

from sparsedc.contrasts import contrasts, write_contrasts
from sparsedc.law.fit import Fit
from sparsedc.law.fitting import design_of
from sparsedc.law.published import WHEN_DATA_IS_SCARCE
from sparsedc.law.select import Selection, save_selection
from sparsedc.law.validate import Error, predict_runs
from sparsedc.observations import COLUMNS, STABILITY, TOPOLOGY, write_observations
from sparsedc.runs import write_runs

_TERMS = {"E": 2.5, "A": 40.0, "B": 60.0, "alpha": 0.33}
_STARS = {"R_N_star": 8.0, "R_D_star": 4.0}
#: laws under which sizes and tokens of `TINY` matter about equally
LAWS = {
    "chinchilla": _TERMS | {"beta": 0.33},
    "gadre": {"E": 2.5, "a": 30.0, "b": 70.0, "eta": 0.16},
    "frantar": _TERMS | {"beta": 0.33, "a_S": 0.3, "b_S": 0.8},
    "muennighoff": _TERMS | _STARS,
    "overfit": _TERMS | {"beta": 0.33, "P": 0.03, "kappa": 0.9, "lambda": 0.3},
    "power": _TERMS | _STARS | {"epsilon": 0.2},
    "power:overfit": _TERMS | _STARS | {"epsilon": 0.2, "P": 0.02, "kappa": 1.2, "lambda": 0.3},
    "sparse": WHEN_DATA_IS_SCARCE | _TERMS | {"gamma2": 3.0},
    "sparse:untied,step": _TERMS
    | _STARS
    | {"beta": 0.35, "epsilon": -0.01, "mu": 0.85, "c": -0.27, "R_N_star_sparse": 9.0, "R_D_star_sparse": 6.0},
}
TINY = {
    "body": [50_000, 130_000, 400_000],
    "densities": [1.0, 0.5, 0.25],
    "unique_tokens": [32_768, 262_144],
    "epochs": [1, 2, 4, 8],
    "embedding": 131_072,
}


def known_fit(form, runs, draws=0):
    """The law that the runs were drawn from, as if it had been fitted to them."""
    fitted = runs[runs["role"] == "fit"]
    design = design_of(fitted, "body")
    measured = {"N": design.N, "U": design.U, "D": design.D, "s": design.s, "epochs": design.D / design.U}
    shaken = np.random.default_rng(0).normal(1.0, 0.02, (draws, len(LAWS[form])))
    return Fit(
        form=form,
        parameters=LAWS[form],
        params="body",
        status="ok",
        reasons=(),
        objective=0.1,
        n_runs=len(fitted),
        rmse=0.01,
        noise=0.005,
        aicc=-100.0,
        ranges={name: (float(values.min()), float(values.max())) for name, values in measured.items()},
        level=0.95 if draws else None,
        draws={name: tuple(shaken[:, i] * value) for i, (name, value) in enumerate(LAWS[form].items())}
        if draws
        else None,
    )


def write_study(folder, runs, form="sparse", draws=0):
    """runs.csv, the tables beside it that figures read and law/ in `folder`, as the workflow leaves them."""
    write_runs(runs, folder / "runs.csv")
    write_contrasts(contrasts(runs), folder / "contrasts.csv")
    for name, table in made_up(runs[runs["density"] < 1]).items():
        write_observations(name, table, folder)
    fit = known_fit(form, runs, draws)
    held_out = runs[(runs["role"] == "extrapolation") & (runs["status"] == "ok")]
    observed = held_out["val_loss"].to_numpy()
    errors = {form: Error.of(predict_runs(fit, held_out), observed), "mean": Error.of(observed * 0 + 4, observed)}
    errors["nearest run"] = Error.of(observed + 0.05, observed)
    save_selection(Selection((fit,), errors), runs[runs["status"] == "ok"], folder / "law")


#: Policy → RMS step of a regrown weight, in learning rates, at the first and the 16th step; see `made_up`.
POLICIES = {"naive": (3.16, 6.0), "reset": (1.0, 0.9), "linear": (0.01, 0.16), "compounding": (0.015, 0.02)}


def made_up(cells, newborn=None, updates=9):
    """Tables of topology updates of these cells, with numbers that a test can foresee.

    Args:
        newborn: cell → policy; by default all reset.

    Returns:
        Table → rows. Update k of n is at step 100 k; it replaces 0.2 / k, explores towards 1, and overlap falls. Naive
        cells lose 0.1 nats just after an update, others 0.01, and recover within 20 steps.
    """
    policy = dict.fromkeys(cells["cell"], "reset") | (newborn or {})
    topology, stability = [], []
    for cell in cells.itertuples():
        name = policy[cell.cell]
        of_cell = {
            "cell": cell.cell,
            "newborn": name,
            "ramp_steps": 100 if name in ("linear", "compounding") else None,
        }
        for k in range(1, updates + 1):
            topology.append(
                {
                    **of_cell,
                    "step": 100 * k,
                    "drop_fraction": 0.2 / k,
                    "active_share": cell.density,
                    "replaced_share": 0.2 / k,
                    **dict(zip([f"age_{q}" for q in ("min", "q25", "median", "q75", "max")],
                               [100, 50 * k + 50, 80 * k + 20, 90 * k + 10, 100 * k], strict=True)),
                    "overlap": 1 / (1 + k / 10),
                    "explored": 1 - (1 - cell.density) * 0.9**k,
                    "layer_density_min": cell.density * 0.9,
                    "layer_density_max": cell.density * 1.1,
                }
            )  # fmt: skip
        jump = 0.1 if name == "naive" else 0.01
        first, last = POLICIES[name]
        for offset in range(-8, 33):
            stability.append(
                {
                    **of_cell,
                    "offset": offset,
                    "loss": max(0.0, jump * (1 - (offset - 1) / 20)) if offset >= 1 else -0.001 * offset,
                    "update_ratio": first * (last / first) ** ((offset - 1) / 15) if 1 <= offset <= 16 else None,
                }
            )
    rows = {TOPOLOGY: topology, STABILITY: stability}
    return {name: pd.DataFrame(rows[name], columns=list(columns)).astype(columns) for name, columns in COLUMNS.items()}

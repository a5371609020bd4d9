"""Small studies to draw: simulated runs and a law, with no fit between them unless a test needs one."""

import numpy as np

from sparsedc.law.fit import Fit, design_of
from sparsedc.law.published import WHEN_DATA_IS_SCARCE
from sparsedc.law.select import Selection, save_selection
from sparsedc.law.validate import Error, predict_runs
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
    """runs.csv and law/ in `folder`, as the workflow leaves them."""
    write_runs(runs, folder / "runs.csv")
    fit = known_fit(form, runs, draws)
    held_out = runs[(runs["role"] == "extrapolation") & (runs["status"] == "ok")]
    observed = held_out["val_loss"].to_numpy()
    errors = {form: Error.of(predict_runs(fit, held_out), observed), "mean": Error.of(observed * 0 + 4, observed)}
    errors["nearest run"] = Error.of(observed + 0.05, observed)
    save_selection(Selection((fit,), errors), runs[runs["status"] == "ok"], folder / "law")

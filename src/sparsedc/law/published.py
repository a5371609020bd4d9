"""Published constants, to predict with and to test against.

Their N is counted as `paper` in `sparsedc.law.counts`.
"""

import math
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from sparsedc.law.design import Design
from sparsedc.law.fit import Fit
from sparsedc.law.forms import get_form

#: The law of "When Data Is Scarce" (ICML 2026, arXiv 2606.01155), fitted by its authors in four stages to 500 runs of
#: LLaMA-style models on C4. From the released notebook (github.com/boqian333/sparse-dc-scaling at 94414a8,
#: fitting/fitting.ipynb), which states a = ln A, b = ln B, e = ln E.
WHEN_DATA_IS_SCARCE: dict[str, float] = {
    "E": math.exp(0.8535501324918354),
    "A": math.exp(5.240737178917673),
    "B": math.exp(6.103030891809012),
    "alpha": 0.3268217718148829,
    "epsilon": -0.009680437509279435,
    "mu": 0.8466179337054532,
    "c": -0.2728893199074849,
    "gamma1": 11.087637121468322,
    "gamma2": 4.404748822323469,
    "c11": 1.9039562899771467,
    "c21": 2.79909312658146,
    "c12": 1.8213812238803706,
    "c22": 1.3653091691735397,
}

#: form → published constants of it
PUBLISHED: dict[str, dict[str, float]] = {"sparse": WHEN_DATA_IS_SCARCE}

#: Of the paper's grid: 27M to 1.92B parameters at densities 1 to 1/16, 130M to 2.6B unique tokens, 1 to 16 epochs.
RANGES = {
    "N": (27e6 / 16, 1.92e9),
    "U": (130e6, 2.6e9),
    "D": (130e6, 16 * 2.6e9),
    "s": (1 / 16, 1.0),
    "epochs": (1.0, 16.0),
}


def validation_runs() -> pd.DataFrame:
    """The eleven validation runs of "When Data Is Scarce" (released notebook, outputs of cells 10 and 11).

    One row a run: name, params_dense, density, params_active (their product, the law's N), tokens, unique_tokens,
    epochs, val_loss (nats per token), published_pred (their law's prediction, rounded by them to four decimals).
    """
    with (files("sparsedc.law") / "data" / "when_data_is_scarce_validation.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


@cache
def published_fit() -> Fit:
    """The published law as a fit.

    The authors give no intervals and not the runs that they fitted. `noise`, from which intervals of new runs come, is
    therefore the law's root mean square error in ln loss on the eleven validation runs.
    """
    runs = validation_runs()
    design = Design.of(runs["params_active"], runs["unique_tokens"], runs["tokens"], runs["density"])
    predicted = get_form("sparse").loss(WHEN_DATA_IS_SCARCE, design)
    errors = np.log(predicted) - np.log(runs["val_loss"].to_numpy())
    return Fit(
        form="sparse",
        parameters=dict(WHEN_DATA_IS_SCARCE),
        params="paper",
        status="published",
        reasons=("constants of arXiv 2606.01155, without intervals; those of runs come from eleven validation runs",),
        objective=None,
        n_runs=len(runs),
        noise=float(np.sqrt(np.mean(errors**2))),
        rmse=float(np.sqrt(np.mean((predicted - runs["val_loss"]) ** 2))),
        ranges=dict(RANGES),
    )


def load_law(law: str | Path) -> Fit:
    """The published law by the name "published", else the fit of that file.

    Raises:
        InputError: there is no such file, or it holds no fit.
    """
    return published_fit() if str(law) == "published" else Fit.load(Path(law))

"""What N counts. A law's exponent means nothing until this is said, so every fit names its convention.

Embedding and head are never masked: at density 1/16 they can be most of what is active. Multiplying a whole model by
its density, as the paper does, then counts parameters that are not there and leaves out ones that are.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparsedc.errors import InputError, one_of

Floats = npt.NDArray[np.float64]


def _paper(runs: pd.DataFrame) -> pd.Series:
    return (runs["params_total"] - runs["params_head"]) * runs["density"]


def _active(runs: pd.DataFrame) -> pd.Series:
    return runs["params_active"]


def _average(runs: pd.DataFrame) -> pd.Series:
    return runs["params_active_mean"] - runs["params_embedding"] - runs["params_head"]


def _body(runs: pd.DataFrame) -> pd.Series:
    return runs["params_active"] - runs["params_embedding"] - runs["params_head"]


#: Counting conventions by name.
#: paper: (body + one embedding) × density, as in the paper's fit; published constants need this one.
#: active: every parameter that is not masked out, embedding and head included.
#: body: the active ones outside embedding and head, after Kaplan et al. 2020. The default: it varies where the
#: ladder of models varies, while vocabulary × width, constant in density, would blur small and sparse models.
#: average: the same, averaged over training steps, after Jin et al. 2025, The Journey Matters: for densities that
#: change while a model trains. For constant ones it is `body`.
CONVENTIONS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "paper": _paper,
    "active": _active,
    "body": _body,
    "average": _average,
}
DEFAULT_CONVENTION = "body"


def default_convention(runs: pd.DataFrame) -> str:
    """What N counts unless somebody says otherwise: `body`, or `active` where the table has no such counts."""
    return DEFAULT_CONVENTION if {"params_embedding", "params_head"} <= set(runs.columns) else "active"


def count_params(runs: pd.DataFrame, convention: str = DEFAULT_CONVENTION) -> Floats:
    """N of each run under `convention`, shape (n,).

    Raises:
        InputError: no such convention, or its count is not positive for some run.
    """
    if convention not in CONVENTIONS:
        raise InputError("params", convention, "no such counting convention", one_of(convention, CONVENTIONS))
    try:
        counted = CONVENTIONS[convention](runs)
    except KeyError as error:
        raise InputError(
            "params", convention, f"needs the column {error.args[0]}", "Give it, or use --params active."
        ) from error
    N = counted.to_numpy(dtype=np.float64)
    bad = ~(N > 0)
    if bad.any():
        raise InputError(
            f"N ({convention}) of cell {runs['cell'].to_numpy()[bad][0]}",
            N[bad][0],
            "a parameter count must be above 0",
            "Correct the params_* columns of the runs table, or choose another convention.",
        )
    return N

"""Fit every form, choose one, and write what the figures, the report and the planner read.

law.json holds the choice and all fits, comparison.csv the forms and baselines side by side, predictions.csv every
finished cell as the chosen law predicts it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from sparsedc.atomic import whole
from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.counts import DEFAULT_CONVENTION
from sparsedc.law.fit import DELTA, FORMAT, Fit, finished, fit_finished, read_json, write_json
from sparsedc.law.forms import FORMS, get_form
from sparsedc.law.validate import Error, baselines, predict_runs, predictions
from sparsedc.runs import read_runs

LAW, COMPARISON, PREDICTIONS = "law.json", "comparison.csv", "predictions.csv"


@dataclass(frozen=True)
class Selection:
    """All fits to one runs table, best first, and how they predict what they were not fitted to."""

    fits: tuple[Fit, ...]
    extrapolation: dict[str, Error | None]  # form or baseline → error on the extrapolation cells, if there are any

    @property
    def best(self) -> Fit:
        return self.fits[0]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "best": self.best.form,
            "usable": self.best.usable,
            "fits": {fit.form: fit.to_dict() for fit in self.fits},
            "extrapolation": {
                name: None if error is None else asdict(error) for name, error in self.extrapolation.items()
            },
        }

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or holds no laws.
        """
        values = read_json(path)
        remedy = "Fit the law anew with `sparsedc law`."
        if values.get("format") != FORMAT:
            raise InputError("format", values.get("format"), f"{path} is not of format {FORMAT}", remedy)
        if missing := {"best", "fits", "extrapolation"} - set(values):
            raise InputError("keys", sorted(missing), f"missing in {path}", remedy)
        fits = [Fit.from_dict(fit, path) for fit in values["fits"].values()]
        fits.sort(key=lambda fit: fit.form != values["best"])
        errors = {name: None if error is None else Error(**error) for name, error in values["extrapolation"].items()}
        return cls(tuple(fits), errors)


def select_law(
    runs: pd.DataFrame,
    forms: Sequence[str] = tuple(FORMS),
    *,
    params: str = DEFAULT_CONVENTION,
    delta: float = DELTA,
) -> Selection:
    """Fit `forms` to the finished fit cells and order them: usable ones by AICc, then the rest.

    A form that the runs cannot identify is never preferred to one that they can, however low its AICc. Where none is
    usable, the one with the lowest objective leads, and its status says what is missing.

    Raises:
        InputError: no form given, an unknown one, or an unusable runs table.
    """
    if not forms:
        raise InputError("forms", "[]", "no form of the law to fit", f"Name some of {' | '.join(FORMS)}.")
    for form in forms:
        get_form(form)
    fitted, held_out = finished(runs, "fit"), finished(runs, "extrapolation")
    if mixed := _mixtures(pd.concat([fitted, held_out])):
        warnings.warn(f"cells fitted as one differ in {'; '.join(mixed)}", SparsedcWarning, stacklevel=2)
    left_out = int((runs["role"] == "fit").sum()) - len(fitted)
    fits = [
        fit_finished(fitted, form, params=params, delta=delta, n_left_out=left_out) for form in dict.fromkeys(forms)
    ]
    fits.sort(key=lambda fit: (not fit.usable, fit.aicc if fit.usable else fit.objective))
    observed = held_out["val_loss"].to_numpy(dtype=np.float64)
    predicted = {fit.form: predict_runs(fit, held_out) for fit in fits}
    predicted |= baselines(fitted, held_out, params, delta)
    return Selection(tuple(fits), {name: Error.of(values, observed) for name, values in predicted.items()})


def _mixtures(runs: pd.DataFrame) -> list[str]:
    """What differs between runs though the law, which knows N, U, D and s alone, takes them for comparable."""
    found = []
    for column in ("held_out", "method"):
        values = sorted(set(runs[column].dropna()) - {"dense"})
        if len(values) > 1:
            found.append(f"{column} ({', '.join(values)})")
    for column in ("lr", "maskable_lr", "weight_decay", "batch_tokens"):
        for (size, density), group in runs.groupby(["size", "density"]):
            distinct = sorted(group[column].dropna().unique())
            if len(distinct) > 1:
                shown = ", ".join(f"{value:g}" for value in distinct)
                found.append(f"{column} at size {size}, density {density:g} ({shown})")
    return found[:5] + ([f"and {len(found) - 5} more"] if len(found) > 5 else [])


def comparison(selection: Selection) -> pd.DataFrame:
    """One row a form, best first, then one a baseline; errors in nats per token."""
    lowest = min(fit.aicc for fit in selection.fits)
    rows: list[dict[str, Any]] = []
    for fit in selection.fits:
        rows.append(
            {
                "name": fit.form,
                "kind": "form",
                "parameters": len(fit.parameters),
                "n": fit.n_runs,
                "objective": fit.objective,
                "aicc": fit.aicc,
                "delta_aicc": fit.aicc - lowest if np.isfinite(fit.aicc) else np.inf,
                "rmse_fit": fit.rmse,
                "status": fit.status,
                "reasons": "; ".join(fit.reasons),
            }
        )
    names = {fit.form for fit in selection.fits}
    rows += [{"name": name, "kind": "baseline"} for name in selection.extrapolation if name not in names]
    for row in rows:
        error = selection.extrapolation[row["name"]]
        row["n_extrapolation"] = error.n if error else 0
        row["rmse_extrapolation"] = error.rmse if error else np.nan
        row["mean_abs_extrapolation"] = error.mean_abs if error else np.nan
    return pd.DataFrame(rows).astype({"parameters": "Int64", "n": "Int64"})


def fit_laws(runs: Path, out: Path, forms: list[str], params: str, delta: float) -> None:
    """Fit `forms` to the table `runs` and write law.json, comparison.csv and predictions.csv into `out`.

    Raises:
        InputError: nothing to fit, or an unusable table or argument.
    """
    table = read_runs(runs)
    selection = select_law(table, forms, params=params, delta=delta)
    with whole(out / PREDICTIONS) as partial:
        predictions(selection.best, table[table["status"] == "ok"]).to_csv(partial, index=False)
    with whole(out / COMPARISON) as partial:
        comparison(selection).to_csv(partial, index=False)
    selection.save(out / LAW)  # last: whoever finds it finds the others

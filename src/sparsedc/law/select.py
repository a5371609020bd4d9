"""Fit several forms, choose one, and write what the figures, the report and the planner read.

law.json is the chosen fit, selection.json all of them with their errors on runs that they did not see, comparison.csv
the same as one table, predictions.csv every finished cell as the chosen law predicts it.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from sparsedc.atomic import whole
from sparsedc.errors import InputError, SparsedcWarning
from sparsedc.law.bootstrap import bootstrap
from sparsedc.law.counts import default_convention
from sparsedc.law.fit import FORMAT, Fit, read_json, write_json
from sparsedc.law.fitting import finished, fit_finished
from sparsedc.law.forms import COMPARED, FORMS, get_form
from sparsedc.law.likelihood import Likelihood
from sparsedc.law.published import published_fit, validation_runs
from sparsedc.law.validate import (
    KINDS,
    CrossValidation,
    Error,
    Fold,
    SeedNoise,
    baselines,
    cross_validate,
    cross_validate_baselines,
    folds,
    pooled_rmse,
    predict_runs,
    predictions,
    seed_noise,
)
from sparsedc.words import count_label

LAW, SELECTION, COMPARISON, PREDICTIONS = "law.json", "selection.json", "comparison.csv", "predictions.csv"


@dataclass(frozen=True)
class Selection:
    """All fits to one runs table, best first, and how they predict what they were not fitted to."""

    fits: tuple[Fit, ...]
    #: form or baseline → error on the extrapolation cells, None where there are none
    extrapolation: dict[str, Error | None]
    #: form or baseline → what was left out → its folds
    cross_validation: dict[str, CrossValidation] = field(default_factory=dict)
    noise: SeedNoise | None = None  # between seeds of one configuration, where the table has several

    @property
    def best(self) -> Fit:
        return self.fits[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Bootstrap draws are left out: law.json has those of the chosen fit."""
        return {
            "format": FORMAT,
            "best": self.best.form,
            "usable": self.best.usable,
            "fits": {fit.form: replace(fit, draws=None).to_dict() for fit in self.fits},
            "extrapolation": {
                name: None if error is None else asdict(error) for name, error in self.extrapolation.items()
            },
            "cross_validation": {
                name: {kind: [asdict(fold) for fold in some] for kind, some in kinds.items()}
                for name, kinds in self.cross_validation.items()
            },
            "noise": None if self.noise is None else asdict(self.noise),
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
        remedy = "Fit the laws anew with `sparsedc law compare`."
        if values.get("format") != FORMAT:
            raise InputError("format", values.get("format"), f"{path} is not of format {FORMAT}", remedy)
        if missing := {"best", "fits", "extrapolation", "cross_validation", "noise"} - set(values):
            raise InputError("keys", sorted(missing), f"missing in {path}", remedy)
        fits = [Fit.from_dict(fit, path) for fit in values["fits"].values()]
        fits.sort(key=lambda fit: fit.form != values["best"])
        return cls(
            tuple(fits),
            {name: None if error is None else Error(**error) for name, error in values["extrapolation"].items()},
            {
                name: {kind: tuple(Fold(**fold) for fold in some) for kind, some in kinds.items()}
                for name, kinds in values["cross_validation"].items()
            },
            None if values["noise"] is None else SeedNoise(**values["noise"]),
        )


def select_law(
    runs: pd.DataFrame,
    forms: Sequence[str] = COMPARED,
    *,
    params: str | None = None,
    likelihood: Likelihood | None = None,
    starts: int | None = None,
    seed: int = 0,
    draws: int = 0,
    workers: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Selection:
    """Fit `forms` to the finished fit cells, order them as `best_first` does, and predict with each what it never saw.

    Args:
        params: what N counts, see `sparsedc.law.counts`; the table's own default if None.
        likelihood, starts, seed: as of `sparsedc.law.fitting.fit_law`.
        draws: bootstrap refits of the chosen form, none if 0. A form that is not usable gets none.
        workers: processes of the bootstrap.
        tell: is told what comes next, for whoever waits.

    Raises:
        InputError: no form given, an unknown one, or an unusable runs table.
    """
    if not forms:
        raise InputError("forms", "[]", "no form of the law to fit", f"Name some of {' | '.join(FORMS)}.")
    for form in forms:
        get_form(form)
    params = params or default_convention(runs)
    fitted, held_out = finished(runs, "fit"), finished(runs, "extrapolation")
    both = pd.concat([fitted, held_out])
    warn_of_mixtures(both)
    left_out = int((runs["role"] == "fit").sum()) - len(fitted)

    fits = []
    for form in dict.fromkeys(forms):
        tell(f"fitting {form} to {len(fitted)} runs")
        fits.append(
            fit_finished(
                fitted, form, params=params, likelihood=likelihood, starts=starts, seed=seed, n_left_out=left_out
            )
        )
    fits = best_first(fits)
    masks = folds(fitted, params)
    cross = {}
    for fit in fits:
        tell(f"cross-validating {fit.form}")
        cross[fit.form] = cross_validate(fitted, fit, masks)
    if draws and fits[0].usable:
        tell(f"refitting {fits[0].form} to {draws} resamplings")
        fits[0] = bootstrap(fitted, fits[0], n=draws, seed=seed, workers=workers)

    observed = held_out["val_loss"].to_numpy(dtype=np.float64)
    predicted = {fit.form: predict_runs(fit, held_out) for fit in fits}
    predicted |= baselines(fitted, held_out, params, likelihood)
    return Selection(
        tuple(fits),
        {name: Error.of(values, observed) for name, values in predicted.items()},
        cross | cross_validate_baselines(fitted, masks, params, likelihood),
        seed_noise(both),
    )


def best_first(fits: Sequence[Fit]) -> list[Fit]:
    """Fits to the same runs in order: usable ones by AICc, then the rest.

    A form that the runs cannot identify is never preferred to one that they can, however low its AICc. Where none is
    usable, the one with the lowest objective leads, and its status says what is missing.
    """
    return sorted(fits, key=lambda fit: (not fit.usable, fit.aicc if fit.usable else fit.objective))


def warn_of_mixtures(runs: pd.DataFrame) -> None:
    """Say what differs between runs though the law, which knows N, U, D and s alone, takes them for comparable."""
    found = []
    for column in ("held_out", "method"):
        values = sorted(set(runs[column].dropna()) - {"dense"}) if column in runs else []
        if len(values) > 1:
            found.append(f"{column} ({', '.join(values)})")
    for column in ("lr", "maskable_lr", "weight_decay", "batch_tokens"):
        if column not in runs:
            continue
        for (size, density), group in runs.groupby(["size", "density"]):
            distinct = sorted(group[column].dropna().unique())
            if len(distinct) > 1:
                shown = ", ".join(str(value) for value in distinct)
                found.append(f"{column} at size {size}, density {density:g} ({shown})")
    more = [f"and {len(found) - 5} more"] if len(found) > 5 else []
    if found:
        warnings.warn(f"cells fitted as one differ in {'; '.join(found[:5] + more)}", SparsedcWarning, stacklevel=3)


def comparison(selection: Selection) -> pd.DataFrame:
    """One row a form, best first, then one a baseline, then the noise between seeds; errors in nats per token.

    The noise stands in every column of errors, as the least that any of them can be expected to be.
    """
    lowest = min(fit.aicc for fit in selection.fits)
    forms: dict[str, dict[str, Any]] = {
        fit.form: {
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
        for fit in selection.fits
    }
    for fit in selection.fits:
        if fit.status == "published":  # nothing was fitted, and its n and RMSE are those of the runs it was tested on
            forms[fit.form] |= dict.fromkeys(("n", "aicc", "delta_aicc", "rmse_fit"))
    names = dict.fromkeys([*forms, *selection.extrapolation, *selection.cross_validation])
    rows = []
    for name in names:
        error = selection.extrapolation.get(name)
        folded = selection.cross_validation.get(name, {})
        rows.append(
            {"name": name}
            | forms.get(name, {"kind": "baseline"})
            | {f"cv_{kind}": pooled_rmse(folded.get(kind, ())) for kind in KINDS}
            | {
                "n_extrapolation": error.n if error else 0,
                "rmse_extrapolation": error.rmse if error else None,
                "mean_abs_extrapolation": error.mean_abs if error else None,
                "r2_extrapolation": error.r2 if error else None,
            }
        )
    if noise := selection.noise:
        errors = ("rmse_fit", *(f"cv_{kind}" for kind in KINDS), "rmse_extrapolation")
        reason = f"seeds of {noise.configurations} configurations, {noise.freedom} degrees of freedom"
        rows.append({"name": "seed noise", "kind": "noise", "reasons": reason} | dict.fromkeys(errors, noise.sd))
    columns = ["name", "kind", "parameters", "n", "objective", "aicc", "delta_aicc", "rmse_fit"]
    columns += [f"cv_{kind}" for kind in KINDS]
    columns += ["n_extrapolation", "rmse_extrapolation", "mean_abs_extrapolation", "r2_extrapolation"]
    table = pd.DataFrame(rows, columns=[*columns, "status", "reasons"])
    whole_numbers = dict.fromkeys(("parameters", "n", "n_extrapolation"), "Int64")
    texts = ("name", "kind", "status", "reasons")
    return table.astype(
        {column: "string" if column in texts else whole_numbers.get(column, "float64") for column in table.columns}
    )


def save_selection(selection: Selection, runs: pd.DataFrame, out: Path) -> None:
    """Write law.json, selection.json, comparison.csv and predictions.csv into the folder `out`.

    Args:
        runs: the table that the selection is of.
    """
    with whole(out / PREDICTIONS) as partial:
        predictions(selection.best, runs[runs["status"] == "ok"]).to_csv(partial, index=False)
    with whole(out / COMPARISON) as partial:
        comparison(selection).to_csv(partial, index=False)
    selection.save(out / SELECTION)
    selection.best.save(out / LAW)  # last: whoever finds it finds the others


def published_study() -> tuple[Selection, pd.DataFrame]:
    """The published law in place of a chosen one, and the table of the eleven runs that its authors tested it on.

    Their embedding and head are part of N, as the paper counts it, so that both are 0 in the table.
    """
    fit, tested = published_fit(), validation_runs()
    runs = pd.DataFrame(
        {
            "cell": tested["name"],
            "role": "extrapolation",
            "method": np.where(tested["density"] == 1, "dense", "sparse"),
            "size": [count_label(count) for count in tested["params_dense"]],
            **{column: tested[column] for column in ("density", "unique_tokens", "epochs", "tokens")},
            "params_total": tested["params_dense"],
            "params_embedding": 0,
            "params_head": 0,
            "params_active": tested["params_active"],
            "val_loss": tested["val_loss"],
            "status": "ok",
        }
    )
    error = Error.of(predict_runs(fit, runs), runs["val_loss"].to_numpy(dtype=np.float64))
    return Selection((fit,), {fit.form: error}), runs

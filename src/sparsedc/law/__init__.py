"""The scaling law: forms, fits, their uncertainty, selection, predictions. Needs a runs table and nothing that trains.

Its public names are imported from here and loaded at first use, so that to predict one loss does not wait for what
fits and selects. Two stay in the modules of their own name, `bootstrap` and `profile`.

    from sparsedc.law import finished, fit_law, read_table
    from sparsedc.law.bootstrap import bootstrap

    runs = read_table(Path("table.csv"), {"params_active": "N", "tokens": "D", "val_loss": "loss"})
    fit = fit_law(runs, "chinchilla")
    fit = bootstrap(finished(runs, "fit"), fit, n=1000)
    fit.predict(N=1e9, U=20e9, D=20e9, s=1.0)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsedc.law.fit import Fit
    from sparsedc.law.fitting import finished, fit_finished, fit_law
    from sparsedc.law.forms import get_form
    from sparsedc.law.likelihood import Gaussian, Huber, StudentT
    from sparsedc.law.profile import Profile
    from sparsedc.law.published import load_law, published_fit
    from sparsedc.law.select import Selection, comparison, select_law
    from sparsedc.law.simulate import simulate_runs
    from sparsedc.law.table import read_table
    from sparsedc.law.validate import cross_validate, folds, seed_noise

#: module → what of it is public
_PUBLIC = {
    "fit": ("Fit",),
    "fitting": ("finished", "fit_finished", "fit_law"),
    "forms": ("get_form",),
    "likelihood": ("Gaussian", "Huber", "StudentT"),
    "profile": ("Profile",),
    "published": ("load_law", "published_fit"),
    "select": ("Selection", "comparison", "select_law"),
    "simulate": ("simulate_runs",),
    "table": ("read_table",),
    "validate": ("cross_validate", "folds", "seed_noise"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "Fit",
    "Gaussian",
    "Huber",
    "Profile",
    "Selection",
    "StudentT",
    "comparison",
    "cross_validate",
    "finished",
    "fit_finished",
    "fit_law",
    "folds",
    "get_form",
    "load_law",
    "published_fit",
    "read_table",
    "seed_noise",
    "select_law",
    "simulate_runs",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

"""A fitted law: what it was fitted to, how well the runs determine it, and what it predicts; kept as a JSON file.

`sparsedc.law.fitting` makes one and `sparsedc.law.bootstrap` adds intervals to it. To ask one needs neither.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from sparsedc.atomic import write_text
from sparsedc.errors import InputError
from sparsedc.law.design import Design, Floats
from sparsedc.law.forms import get_form
from sparsedc.law.likelihood import Residuals
from sparsedc.words import some

FORMAT = 2

#: ok; weakly determined: some parameter's standard error is large, or equally good optima differ in it; at bound: some
#: parameter's value is the edge of the search, not an estimate; not identifiable: the runs cannot tell some parameters
#: apart; published: constants from elsewhere. The worst one holds.
Status = Literal["ok", "weakly determined", "at bound", "not identifiable", "published"]

Interval = tuple[float | None, float | None]  # None: open, the runs do not bound the value on that side


@dataclass(frozen=True)
class Fit:
    """A fitted law and what is known about the quality of the fit."""

    form: str
    parameters: dict[str, float]
    params: str  # counting convention of N
    status: Status
    reasons: tuple[str, ...]  # why the status is not ok, one clause each
    objective: float | None  # the minimised sum, at the optimum; None for published constants
    n_runs: int
    likelihood: str = "huber"
    delta: float | None = None  # of the Huber loss
    residuals: Residuals = "log"
    rmse: float = math.nan  # of the fitted runs, nats
    noise: float = math.nan  # standard deviation of ln loss between a run and the law
    aicc: float = math.inf  # infinite where there are too few runs for it
    n_left_out: int = 0  # runs that diverged
    fixed: dict[str, float] = field(default_factory=dict)  # parameters held at a value
    starts: int = 0
    share_at_best: float = math.nan  # of the starts, those that ended within 0.1 % of the best objective
    condition: float = math.inf  # of the Jacobian at the optimum, columns scaled to unit norm
    at_bound: tuple[str, ...] = ()
    rivals: tuple[dict[str, Any], ...] = ()  # other optima that fit about as well: objective and parameters
    ranges: dict[str, tuple[float, float]] | None = None  # of N, U, D, s and epochs of the fitted runs
    level: float | None = None  # of the intervals
    intervals: dict[str, Interval] | None = None  # parameter → bootstrap interval
    draws: dict[str, tuple[float, ...]] | None = None  # parameter → its value in each bootstrap refit
    profiles: dict[str, dict[str, Any]] | None = None  # quantity → `sparsedc.law.profile.Profile`
    format: int = FORMAT

    @property
    def usable(self) -> bool:
        """Whether predictions follow from the runs."""
        return self.status != "not identifiable"

    def predict(self, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike) -> Floats:
        """Loss in nats per token, shape (n,). N is counted as `params` says."""
        loss = get_form(self.form).loss(self.parameters, Design.of(N, U, D, s))
        return np.asarray(loss, dtype=np.float64)

    def predict_draws(self, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike) -> Floats:
        """Loss under each of the k bootstrap refits, (k, n).

        Raises:
            InputError: the fit has no draws.
        """
        if self.draws is None:
            raise InputError("draws", None, "the fit has no bootstrap", "Fit it with `--bootstrap 1000`.")
        theta = {name: np.array(values)[:, None] for name, values in self.draws.items()}
        return np.asarray(get_form(self.form).loss(theta, Design.of(N, U, D, s)), dtype=np.float64)

    def law_interval(
        self, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike, level: float = 0.95
    ) -> Floats:
        """Where the law is, by its bootstrap, (n, 2): the mean loss of runs there.

        Raises:
            InputError: the fit has no draws.
        """
        return np.asarray(np.quantile(self.predict_draws(N, U, D, s), [(1 - level) / 2, (1 + level) / 2], axis=0).T)

    def run_interval(
        self, N: npt.ArrayLike, U: npt.ArrayLike, D: npt.ArrayLike, s: npt.ArrayLike, level: float = 0.95
    ) -> Floats:
        """Where one new run will fall, (n, 2): runs spread about the law, and the law is itself uncertain.

        Without a bootstrap the second part is left out.
        """
        tails = np.array([(1 - level) / 2, (1 + level) / 2])
        spread = 1e-12 if math.isnan(self.noise) else max(self.noise, 1e-12)
        if self.draws is None:
            freedom = max(self.n_runs - (0 if self.status == "published" else len(self.parameters)), 1)
            return np.asarray(self.predict(N, U, D, s)[:, None] * np.exp(spread * stdtrit(freedom, tails)))
        drawn = np.log(self.predict_draws(N, U, D, s))
        from scipy.optimize.elementwise import find_root

        def excess(x: Floats, tail: Floats, at: Floats) -> Floats:  # of the share of runs below e^x over the tail
            return np.asarray(ndtr((x - drawn[:, at.astype(np.intp)]) / spread).mean(axis=0) - tail)

        reach = 10 * spread
        edges = (np.tile(drawn.min(axis=0) - reach, (2, 1)), np.tile(drawn.max(axis=0) + reach, (2, 1)))
        args = np.meshgrid(np.arange(drawn.shape[1], dtype=np.float64), tails)[::-1]
        return np.asarray(np.exp(find_root(excess, edges, args=tuple(args)).x.T))

    def outside(self, N: float, U: float, D: float, s: float) -> list[str]:
        """What of a run lies beyond the fitted runs, one clause each; empty where nothing does or nothing is known."""
        if self.ranges is None:
            return []
        words = {
            "N": (f"N ({self.params})", N),
            "U": ("unique tokens", U),
            "D": ("tokens", D),
            "s": ("density", s),
            "epochs": ("epochs", D / U),
        }
        found = []
        for key, (low, high) in self.ranges.items():
            name, value = words[key]
            if not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
                found.append(f"{name} {value:.4g} is outside the fitted {low:.4g} to {high:.4g}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which knows neither infinity nor NaN: null stands for them."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str | Path = "fit") -> Self:
        """The inverse of `to_dict`.

        Raises:
            InputError: another format, a missing or unknown key, or parameters that are not the form's.
        """
        remedy = "Fit the law anew with `sparsedc law fit`."
        if values.get("format", FORMAT) != FORMAT:
            raise InputError("format", values["format"], f"{source} is not a fit of format {FORMAT}", remedy)
        names = [each.name for each in fields(cls)]
        if missing := [name for name in names if name not in values]:
            raise InputError(
                "law", source, f"is no fit: it lacks {some(missing)}",
                "Name a law.json, or fit one with `sparsedc law fit`.",
            )  # fmt: skip
        if unknown := [key for key in values if key not in names]:
            raise InputError("law", source, f"is no fit: it holds {some(unknown)}", remedy)
        form = get_form(values["form"])
        given = values["parameters"]
        if not isinstance(given, Mapping) or set(given) != set(form.names):
            raise InputError("parameters", given, f"not those of {form.name} in {source}", remedy)
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(name, value, f"must be a number in {source}", remedy)
        if values["status"] not in get_args(Status):
            raise InputError("status", values["status"], f"unknown in {source}", remedy)
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        for each in fields(cls):
            if each.type is float and plain[each.name] is None:
                plain[each.name] = each.default
        for key in ("ranges", "intervals", "draws"):
            if plain[key] is not None:
                plain[key] = {name: tuple(value) for name, value in plain[key].items()}
        return cls(**plain)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or holds no fit.
        """
        values = read_json(path)
        if "fits" in values:
            remedy = f"Name {path.with_name('law.json')}, the one that was chosen."
            raise InputError("law", path, "is a selection, which holds several fits", remedy)
        return cls.from_dict(values, path)


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write JSON, whole or not at all; lists of numbers in one line."""
    lines = (
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in values.items()
    )
    write_text("{\n" + ",\n".join(lines) + "\n}\n", path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing or holds something else.
    """
    remedy = "Name a file that `sparsedc law` wrote."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("law", path, "no such file", remedy) from error
    except IsADirectoryError as error:
        raise InputError("law", path, "is a folder", "Name the file law.json in it.") from error
    except NotADirectoryError as error:
        raise InputError(
            "law", path.parent, "is no folder", "Name the one that `sparsedc law compare` wrote."
        ) from error
    except ValueError as error:
        raise InputError("law", path, "not JSON", remedy) from error
    if not isinstance(values, dict):
        raise InputError("law", path, "not a JSON object", remedy)
    return values

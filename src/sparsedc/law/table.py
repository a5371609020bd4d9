"""Any CSV with named columns as the table that laws are fitted to: ours, a published one, a colleague's.

`sparsedc.runs.read_runs` is the strict reader of the project's own table. Here three columns are enough, N, D and the
loss, under whatever names. What is absent gets what its absence means: one pass over the tokens, a dense model, a run
to fit, and one that finished.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparsedc.errors import InputError, one_of
from sparsedc.numbers import parse_number
from sparsedc.runs import ROLES, STATUSES
from sparsedc.words import count_label

#: what a table has to have; `tokens` may be given as unique_tokens × epochs
NEEDED = ("params_active", "tokens", "val_loss")
#: counts beside N, from which `sparsedc.law.counts` makes its other conventions
COUNTS = ("params_total", "params_embedding", "params_head", "params_maskable", "params_active_mean")
#: what tells runs apart that a law takes for comparable; kept as text
LABELS = ("study", "held_out", "seed", "lr", "maskable_lr", "weight_decay", "batch_tokens")
#: what may be blank: figures show it, no law needs it
FURTHER = ("val_loss_se", "flops_dense", "flops_sparse")
KNOWN = (
    *("cell", "role", "status", "method", "size", "density", "unique_tokens", "epochs"),
    *(*NEEDED, *COUNTS, *LABELS, *FURTHER),
)

Floats = npt.NDArray[np.float64]


def read_table(path: str | Path, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read a runs table of whatever origin, one row a run.

    Args:
        columns: our name → the file's, for each column that the file calls otherwise; see `KNOWN` for ours.

    Returns:
        The columns of `NEEDED` and cell, role, status, method, size, density, unique_tokens and epochs, and of `KNOWN`
        what else the file has. Counts that are whole are int64, other numbers float64. Absent columns mean:
        unique_tokens = tokens / epochs, or tokens where there are no epochs either; density 1; role fit; status ok;
        cell the number of the row; method dense at density 1 and sparse below; size N / density, as text.

    Raises:
        InputError: naming file, line, column and value: no such file or column, a number that is none or is out of its
            range, a finished run without a loss, a row or a cell that stands there twice, no row at all.
    """
    file = _File.read(Path(path), columns or {})
    n = len(file.rows)
    status = file.choice("status", STATUSES, "ok")
    density = file.numbers("density", most=1.0) if file.has("density") else np.ones(n)
    N = file.numbers("params_active")
    unique, tokens, epochs = _tokens(file)
    table: dict[str, object] = {
        "cell": file.text("cell") if file.has("cell") else [str(i + 1) for i in range(n)],
        "role": file.choice("role", ROLES, "fit"),
        "method": file.text("method") if file.has("method") else np.where(density == 1, "dense", "sparse"),
        "size": file.text("size") if file.has("size") else [count_label(count) for count in N / density],
        "density": density,
        "unique_tokens": _whole(unique),
        "epochs": epochs,
        "tokens": _whole(tokens),
        "params_active": _whole(N),
        "val_loss": file.numbers("val_loss", blank=np.array(status) != "ok"),
        "status": status,
    }
    for column in COUNTS:
        if file.has(column):
            zero = column in ("params_embedding", "params_head", "params_maskable")
            table[column] = _whole(file.numbers(column, zero=zero))
    table |= {column: file.text(column) for column in LABELS if file.has(column)}
    table |= {column: file.numbers(column, zero=True, blank=np.full(n, True)) for column in FURTHER if file.has(column)}
    file.refuse_repeated_cells()
    runs = pd.DataFrame(table)
    texts = ("cell", "role", "method", "size", "status", *LABELS)
    return runs.astype({column: "string" for column in texts if column in runs})


def _tokens(file: "_File") -> tuple[Floats, Floats, Floats]:
    """U, D and epochs, each from the others where it is absent."""
    epochs = file.numbers("epochs") if file.has("epochs") else None
    if not file.has("tokens"):
        unique, epochs = file.numbers("unique_tokens"), file.numbers("epochs")
        return unique, unique * epochs, epochs
    tokens = file.numbers("tokens")
    if file.has("unique_tokens"):
        unique = file.numbers("unique_tokens")
    else:
        unique = tokens if epochs is None else tokens / epochs
    passes = tokens / unique
    if epochs is not None:
        # Whole steps leave out a last partial batch, which in a tiny run is most of an epoch; never do they add one.
        wrong = (passes > 1.1 * epochs) | ((passes >= 1) & (passes < epochs / 2))
        if wrong.any():
            i = int(wrong.argmax())
            problem = f"is not tokens over unique tokens, {passes[i]:.4g}"
            raise InputError(file.at("epochs", i), f"{epochs[i]:g}", problem, "Correct the row, or leave epochs out.")
    return unique, tokens, passes if epochs is None else epochs


def _whole(values: Floats) -> npt.NDArray[np.int64] | Floats:
    """As integers, if all of them are and float64 holds them exactly."""
    return values.astype(np.int64) if bool(np.all((values == values.round()) & (values < 2**53))) else values


@dataclass(frozen=True)
class _File:
    """A CSV file's text, and where in it our columns stand."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]  # with the line that each ends on
    places: dict[str, int]  # our name → index in the header

    @classmethod
    def read(cls, path: Path, columns: Mapping[str, str]) -> "_File":
        remedy = "Name a CSV file with a header line and a line a run."
        try:
            with path.open(newline="", encoding="utf-8-sig") as text:
                reader = csv.reader(text)
                rows = [(reader.line_num, row) for row in reader if row]
        except FileNotFoundError as error:
            raise InputError("runs table", path, "no such file", remedy) from error
        except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
            raise InputError("runs table", path, "not a CSV table", remedy) from error
        if len(rows) < 2:
            raise InputError("runs table", path, "has no rows" if rows else "is empty", remedy)
        header, rows = [name.strip() for name in rows[0][1]], rows[1:]
        seen: dict[tuple[str, ...], int] = {}
        for line, row in rows:
            if len(row) != len(header):
                problem = f"has {len(row)} values, the header {len(header)}"
                raise InputError(f"line {line} of {path}", ",".join(row), problem, "Correct the line.")
            if (first := seen.setdefault(tuple(row), line)) != line:
                problem = f"is the same as line {first}"
                raise InputError(f"line {line} of {path}", ",".join(row), problem, "Keep one row a run.")
        return cls(path, header, rows, _places(path, header, columns))

    def has(self, column: str) -> bool:
        return column in self.places

    def text(self, column: str) -> list[str]:
        return [row[self.places[column]].strip() for _, row in self.rows]

    def choice(self, column: str, known: tuple[str, ...], default: str) -> list[str]:
        """A column that knows a few words only."""
        if not self.has(column):
            return [default] * len(self.rows)
        words = self.text(column)
        for i, word in enumerate(words):
            if word not in known:
                remedy = f"{one_of(word, known)} Or take the column out of the file: without it all are {default}."
                raise InputError(self.at(column, i), word, "is unknown", remedy)
        return words

    def numbers(
        self, column: str, *, zero: bool = False, most: float = np.inf, blank: npt.NDArray[np.bool_] | None = None
    ) -> Floats:
        """A column of finite numbers above 0, or from 0 on; NaN for what is blank or "nan" where `blank` lets it."""
        values = np.empty(len(self.rows))
        for i, text in enumerate(self.text(column)):
            try:
                values[i] = float(parse_number(text)) if text else np.nan
            except ValueError:
                raise InputError(self.at(column, i), text, "is not a number", "Correct it.") from None
            if np.isnan(values[i]) and blank is not None and blank[i]:
                continue
            if column == "val_loss" and not np.isfinite(values[i]):
                remedy = "Take the row out, or say diverged in a column status."
                raise InputError(self.at(column, i), text or "(blank)", "a finished run has a finite loss", remedy)
            if not (np.isfinite(values[i]) and (values[i] > 0 or (zero and values[i] == 0)) and values[i] <= most):
                least = "at least 0" if zero else "above 0"
                problem = f"must be {least}" + (f" and at most {most:g}" if np.isfinite(most) else "")
                raise InputError(self.at(column, i), text or "(blank)", problem, "Correct it, or take the row out.")
        return values

    def refuse_repeated_cells(self) -> None:
        """A cell names a run, so that two rows of one name are an error of whoever put the table together."""
        seen: dict[str, int] = {}
        for i, cell in enumerate(self.text("cell") if self.has("cell") else ()):
            if (first := seen.setdefault(cell, i)) != i:
                problem = f"stands in line {self.rows[first][0]} as well"
                raise InputError(self.at("cell", i), cell, problem, "Keep one row a cell.")

    def at(self, column: str, row: int) -> str:
        """Where a value stands."""
        return f"{self.header[self.places[column]]} in line {self.rows[row][0]} of {self.path}"


def _places(path: Path, header: list[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Our name of each column that the file has → its index in the header."""
    listed = ", ".join(header)
    for ours, theirs in columns.items():
        if ours not in KNOWN:
            raise InputError("columns", f"{ours}={theirs}", f"{ours} is no column of ours", one_of(ours, KNOWN))
        if theirs not in header:
            raise InputError("columns", f"{ours}={theirs}", f"{path} has no column {theirs}", f"It has {listed}.")
    if len(set(columns.values())) < len(columns):
        twice = next(theirs for theirs in columns.values() if list(columns.values()).count(theirs) > 1)
        raise InputError("columns", twice, "stands for two of our columns", "Give each a column of its own.")
    names = {column: columns.get(column, column) for column in KNOWN}
    doubled = [name for name in names.values() if header.count(name) > 1]
    if doubled:
        raise InputError("column", doubled[0], f"stands more than once in {path}", "Give each column its own name.")
    places = {ours: header.index(theirs) for ours, theirs in names.items() if theirs in header}
    missing = [column for column in NEEDED if column not in places]
    if "tokens" in missing and {"unique_tokens", "epochs"} <= places.keys():
        missing.remove("tokens")
    if missing:
        example = ",".join(f"{column}=NAME" for column in missing)
        remedy = f"It has {listed}: say which of them with `--columns {example}`."
        raise InputError("runs table", path, f"lacks the column(s) {', '.join(missing)}", remedy)
    return places

"""What options of `sparsedc law` mean that are more than one number or one name."""

from typing import get_args

from sparsedc.errors import InputError, one_of
from sparsedc.law.likelihood import LIKELIHOODS, Huber, Likelihood, Residuals
from sparsedc.numbers import parse_number, read_number


def parse_columns(text: str) -> dict[str, str]:
    """`params_active=N,tokens=D`: our name → the file's.

    Raises:
        InputError: a part is not OURS=THEIRS, or names one of our columns twice.
    """
    return _pairs("columns", text, "params_active=N,tokens=D,val_loss=loss")


def parse_values(text: str) -> dict[str, float]:
    """`alpha=0.34,E=1.69`: parameter → value.

    Raises:
        InputError: a part is not NAME=NUMBER, or names a parameter twice.
    """
    values = {}
    for name, value in _pairs("fix", text, "alpha=0.34,E=1.69").items():
        try:
            values[name] = float(parse_number(value))
        except ValueError:
            raise InputError(f"fix {name}", value, "is not a number", "Write it like alpha=0.34.") from None
    return values


def parse_likelihood(name: str, delta: str = "1e-3", residuals: str = "log") -> Likelihood:
    """The likelihood of that name; `delta` is Huber's.

    Raises:
        InputError: there is none, no such residuals, or a delta that is not above 0.
    """
    if name not in LIKELIHOODS:
        raise InputError("likelihood", name, "no such likelihood", one_of(name, LIKELIHOODS))
    for known in get_args(Residuals):
        if residuals == known:
            if name == Huber.name:
                return Huber(read_number("delta", delta), residuals=known)
            return LIKELIHOODS[name](residuals=known)
    raise InputError("residuals", residuals, "no such residuals", one_of(residuals, get_args(Residuals)))


def check_bootstrap(n: int) -> None:
    """Refuse a number of refits that gives no intervals, before minutes of fitting.

    Raises:
        InputError: it is negative or 1.
    """
    if n < 0 or n == 1:
        raise InputError("bootstrap", n, "must be 0, or at least 2", "1000 are usual.")


def _pairs(field: str, text: str, example: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if not (name and value):
            raise InputError(field, part, "is not of the form NAME=VALUE", f"Write it like {example}.")
        if name in pairs:
            raise InputError(field, part, f"names {name} twice", "Name it once.")
        pairs[name] = value
    return pairs

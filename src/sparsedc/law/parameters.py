"""What a form's parameters are: their meaning, and where a fit looks for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: float64, or complex128 while a derivative is taken
Values = npt.NDArray[Any]
#: parameter → its value, or an array of values that broadcasts against a design
Theta = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a form: its name, what it means, and where a fit looks for it.

    `low` and `high` bound the search, `starts` is the range its starts are drawn from, `log` says that both are
    searched in logarithms. An anchored parameter is the factor of a power term, A / x^α, and A alone has no scale:
    with anchor ("N", "alpha") its bounds and starts are those of the whole term, in nats, at the geometric mean of
    the runs' N. This also takes away most of the correlation between A and α.
    """

    name: str
    meaning: str
    low: float
    high: float
    starts: tuple[float, float]
    log: bool = True
    anchor: tuple[str, str] | None = None


#: What an anchored parameter's power may be of, as ln x of a design, (n,).
ANCHORS = {
    "N": lambda design: design.log_N,
    "D": lambda design: design.log_D,
    "6N²": lambda design: np.log(6) + 2 * design.log_N,
    "6D²": lambda design: np.log(6) + 2 * design.log_D,
    "U/N": lambda design: design.log_U - design.log_N,
}

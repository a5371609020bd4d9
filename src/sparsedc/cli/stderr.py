"""What a command says beside its answer; the answer alone goes to standard output."""

import sys
from typing import TextIO

from sparsedc.errors import SparsedcWarning


def tell(what: str) -> None:
    """Say at once what takes a while or is left out."""
    print(what, file=sys.stderr, flush=True)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say our own warnings in one line, and leave out those that libraries mean for developers."""
    if issubclass(category, SparsedcWarning):
        print(f"warning: {message}", file=sys.stderr)

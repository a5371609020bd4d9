"""Directories written whole or not at all: an interrupted step leaves nothing to mistake for a result."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(out: Path, index: str) -> Iterator[Path]:
    """Yield a temporary directory whose files move into `out` if the block ends without an error.

    Args:
        out: the directory to fill; made if missing. Files in it that the block does not write are left alone.
        index: the file, relative to `out`, that says what the others are. It leaves first and arrives last:
            readers look for it, so they never see old and new files together.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        stage = Path(name)
        try:
            yield stage
        except OSError as error:
            error.filename = error.filename or str(out)  # a full disk does not say where it is
            raise
        files = sorted(file.relative_to(stage) for file in stage.rglob("*") if file.is_file())
        (out / index).unlink(missing_ok=True)
        for file in sorted(files, key=lambda file: file == Path(index)):
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / file, out / file)

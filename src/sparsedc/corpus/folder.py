"""A folder of text files: .txt and .md hold one document each, .jsonl and .parquet one a row.

All but .parquet, which compresses itself, may also end in .gz or .zst.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sparsedc.config import FolderCorpus
from sparsedc.corpus.tokens import Split
from sparsedc.errors import InputError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FORMATS = (".txt", ".md", ".jsonl", ".parquet")


class Folder:
    """The documents of all files of known formats below a folder, hidden ones left out."""

    def __init__(self, config: FolderCorpus) -> None:
        self._config = config
        if not config.path.is_dir():
            raise InputError("corpus.path", config.path, "there is no such folder", "Correct the path.")
        self.splits: tuple[Split, ...] | None = None if config.splits is None else tuple(config.splits)
        self._files: list[tuple[Split | None, Path]] = []
        ignored = 0
        globs: list[tuple[Split | None, str]] = [(None, "**/*")] if config.splits is None else [*config.splits.items()]
        for split, pattern in globs:
            matches = _matches(config.path, pattern, split)
            known = [file for file in matches if _format(file) is not None]
            if not known:
                raise InputError(
                    "corpus.path" if split is None else f"corpus.splits.{split}",
                    config.path if split is None else pattern,
                    f"no {', '.join(FORMATS)} file here ({len(matches)} files with other endings)",
                    "Correct it, or convert the files to one of these formats (.gz and .zst may follow).",
                )
            self._files += [(split, file) for file in known]
            ignored += len(matches) - len(known)
        paths = self.files
        file, matched = Counter(paths).most_common(1)[0]
        if matched > 1:
            raise InputError("corpus.splits", file, "two splits match this file", "Make the globs disjoint.")
        self.provenance: dict[str, object] = {
            "files": len(paths),
            "bytes": sum(file.stat().st_size for file in paths),
            "ignored_files": ignored,
        }

    @property
    def files(self) -> list[Path]:
        """Every file that is read, in order."""
        return [file for _, file in self._files]

    def documents(self) -> Iterator[tuple[Split | None, str]]:
        """Documents in order of file path and row; a null row is an empty document.

        Raises:
            InputError: naming the file, and the line where there is one, that is not what its ending says.
        """
        for split, file in self._files:
            try:
                for text in _read(file, self._config.text_field):
                    yield split, text
            except InputError:
                raise
            except UnicodeDecodeError as error:
                raise _unreadable(file, "this file is not UTF-8 text") from error
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(file, f"this file is damaged or cannot be read ({error})") from error


def _matches(folder: Path, pattern: str, split: Split | None) -> list[Path]:
    try:
        files = [file for file in folder.glob(pattern) if file.is_file()]
    except (ValueError, NotImplementedError) as error:  # an empty or an absolute pattern
        raise InputError(
            f"corpus.splits.{split}", pattern, "not a usable glob", "Give a glob relative to corpus.path."
        ) from error
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def _format(file: Path) -> tuple[str, str | None] | None:
    """The format and compression that a file's name says, or None if it names no known format."""
    *_, first, last = ["", "", *(suffix.lower() for suffix in file.suffixes)]
    compression = COMPRESSIONS.get(last)
    kind = last if compression is None else first
    if kind not in FORMATS or (kind == ".parquet" and compression is not None):
        return None
    return kind, compression


def _read(file: Path, text_field: str) -> Iterator[str]:
    kind, compression = _format(file) or ("", None)
    if kind == ".parquet":
        yield from _parquet(file, text_field)
        return
    # Arrow's streams read files of several frames and, unlike zstandard's, fail on truncated ones.
    with (
        pa.input_stream(str(file), compression=compression) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig") as lines,
    ):
        if kind == ".jsonl":
            yield from _jsonl(file, lines, text_field)
        else:
            text = lines.read()
            if "\0" in text:
                raise _unreadable(file, "this file is binary")
            yield text


def _jsonl(file: Path, lines: io.TextIOWrapper, text_field: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _unreadable(file, f"line {number} is not JSON ({error})") from error
        if not isinstance(row, dict) or text_field not in row:
            raise _lacks_field(file, f"line {number} lacks the field {text_field!r}")
        text = "" if row[text_field] is None else row[text_field]
        if not isinstance(text, str):
            raise _lacks_field(file, f"line {number}: the field {text_field!r} is not a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _unreadable(file, f"line {number} escapes half a surrogate pair") from error
        yield text


def _parquet(file: Path, text_field: str) -> Iterator[str]:
    with pq.ParquetFile(file) as table:
        if text_field not in table.schema_arrow.names:
            raise _lacks_field(file, f"no column {text_field!r} (it has {', '.join(table.schema_arrow.names)})")
        kind = table.schema_arrow.field(text_field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise _lacks_field(file, f"the column {text_field!r} holds {kind}, not strings")
        for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
            for text in batch.column(0).to_pylist():
                yield text or ""


def _unreadable(file: Path, problem: str) -> InputError:
    return InputError("corpus.path", file, problem, "Repair the file, or take it out of the folder.")


def _lacks_field(file: Path, problem: str) -> InputError:
    return InputError("corpus.path", file, problem, "Set corpus.text_field to the field that holds the text.")

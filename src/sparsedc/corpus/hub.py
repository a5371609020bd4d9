"""A Hugging Face dataset, streamed: nothing is downloaded beyond the documents that are read."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from sparsedc.config import HubCorpus
from sparsedc.corpus.tokens import Split
from sparsedc.errors import InputError


class Hub:
    """A dataset of the hub, or a local folder that `datasets.load_dataset` accepts."""

    def __init__(self, config: HubCorpus) -> None:
        import datasets  # slow to import, and only this source needs it

        self._config = config
        self.splits: tuple[Split, ...] | None = None if set(config.splits) == {"train"} else tuple(config.splits)
        self._streams: dict[Split, Any] = {}
        # load_dataset(streaming=True) in its two steps, because the builder knows the commit that was read.
        try:
            builder = datasets.load_dataset_builder(config.dataset, config.subset, revision=config.revision)
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
            raise InputError(
                "corpus.dataset",
                config.dataset if config.subset is None else f"{config.dataset} ({config.subset})",
                f"this dataset cannot be opened ({error})",
                "Check its name and subset on huggingface.co, the network, and HF_TOKEN if it is gated.",
            ) from error
        for split, name in config.splits.items():
            try:
                self._streams[split] = builder.as_streaming_dataset(split=name)
            except ValueError as error:
                raise InputError(
                    f"corpus.splits.{split}",
                    name,
                    f"no such split ({error})",
                    "Name one of the dataset's splits.",
                ) from error
        self.provenance: dict[str, object] = {
            "datasets": datasets.__version__,
            "commit": builder.hash if builder.repo_id is not None else None,
        }

    def documents(self) -> Iterator[tuple[Split | None, str]]:
        """The first `max_documents` rows of each split, in order; a null row is an empty document.

        Raises:
            InputError: a row without the text field, or a stream that breaks off.
        """
        for split, stream in self._streams.items():
            rows = iter(islice(stream, self._config.max_documents))
            while (row := self._next(rows)) is not None:
                yield None if self.splits is None else split, self._text(row)

    def _next(self, rows: Iterator[dict[str, object]]) -> dict[str, object] | None:
        try:
            return next(rows, None)
        except Exception as error:  # whatever the dataset's file format and the network raise
            raise InputError(
                "corpus.dataset", self._config.dataset, f"reading it failed ({error})", "Run the step again."
            ) from error

    def _text(self, row: dict[str, object]) -> str:
        text = row.get(self._config.text_field, 0)
        if text is not None and not isinstance(text, str):
            raise InputError(
                "corpus.text_field",
                self._config.text_field,
                f"a row of {self._config.dataset} has no text there (its fields: {', '.join(row)})",
                "Name the field that holds the text.",
            )
        return text or ""

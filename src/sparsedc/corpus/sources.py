"""One interface to three places that text comes from: installed packages, a folder, the Hugging Face hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, assert_never

from sparsedc.config import Corpus, FolderCorpus, HubCorpus, InstalledCorpus
from sparsedc.corpus.folder import Folder
from sparsedc.corpus.hub import Hub
from sparsedc.corpus.installed import Installed, versions
from sparsedc.corpus.tokens import Split


class Source(Protocol):
    """Where documents come from. Making one checks what can be checked without reading the text."""

    @property
    def splits(self) -> tuple[Split, ...] | None:
        """The splits that the source is already divided into; None leaves dividing it to document hashes."""

    @property
    def provenance(self) -> dict[str, object]:
        """What the config does not say about where the text came from, such as package versions."""

    def documents(self) -> Iterator[tuple[Split | None, str]]:
        """Each document with its split (None where `splits` is), empty and repeated ones included.

        Raises:
            InputError: a file or record that cannot be read as text.
        """


def open_source(corpus: Corpus) -> Source:
    """The source that a study's corpus section names.

    Raises:
        InputError: a package, folder or dataset that is not there.
    """
    match corpus:
        case InstalledCorpus():
            return Installed(corpus)
        case FolderCorpus():
            return Folder(corpus)
        case HubCorpus():
            return Hub(corpus)
        case _:
            assert_never(corpus)


def watched_files(corpus: Corpus | None) -> list[Path]:
    """Files whose change makes documents stale: those of a folder; other sources have none of their own."""
    return Folder(corpus).files if isinstance(corpus, FolderCorpus) else []


def watched_versions(corpus: Corpus | None) -> dict[str, str]:
    """Versions whose change makes documents stale: those of installed packages."""
    return versions(corpus) if isinstance(corpus, InstalledCorpus) else {}

"""The documentation of installed packages: a corpus of real prose on every machine that can run a study.

Source files are parsed, never imported, so that reading a package needs none of its dependencies. A document
is one docstring of a module, class or function: in numpy, scipy and pandas these are whole reference pages.
"""

import ast
import importlib.metadata
import importlib.util
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from sparsedc.config import InstalledCorpus
from sparsedc.corpus.tokens import Split
from sparsedc.errors import InputError

MIN_CHARACTERS = 200
"""Shorter docstrings are one-line summaries rather than prose, and are left out."""

TEST_FOLDERS = {"test", "tests"}


class Installed:
    """Docstrings of the packages that the config names."""

    splits = None

    def __init__(self, config: InstalledCorpus) -> None:
        self._files = [file for name in config.packages for file in _python_files(name)]
        self.provenance: dict[str, object] = {"packages": versions(config)}

    def documents(self) -> Iterator[tuple[Split | None, str]]:
        """Docstrings in a fixed order. Files that this Python cannot parse are skipped."""
        for file in self._files:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # such as a SyntaxWarning in someone else's package
                    tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node) or ""
                    text = text.encode(errors="replace").decode()  # a docstring may escape half a surrogate pair
                    if len(text) >= MIN_CHARACTERS:
                        yield None, text


def versions(config: InstalledCorpus) -> dict[str, str]:
    """Package name -> what is installed of it; other versions hold other text."""
    return {name: _version(name) for name in config.packages}


def _python_files(package: str) -> list[Path]:
    remedy = f"Install it (pip install {package}), or take it out of the list."
    if not package.isidentifier():  # find_spec would import the parent of a dotted name
        raise InputError("corpus.packages", package, "not the name of a top-level package", "Name it as in `import`.")
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise InputError("corpus.packages", package, "this package is not installed", remedy)
    if spec.submodule_search_locations is not None:
        roots = [Path(root) for root in spec.submodule_search_locations]
        files = [(root, file) for root in roots for file in sorted(root.rglob("*.py"))]
        found = [file for root, file in files if not TEST_FOLDERS & set(file.relative_to(root).parts)]
    else:
        found = [Path(spec.origin)] if spec.origin is not None and spec.origin.endswith(".py") else []
    if not found:
        raise InputError("corpus.packages", package, "this package has no Python source", remedy)
    return found


def _version(package: str) -> str:
    if package in sys.stdlib_module_names:
        return f"python {platform.python_version()}"
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        pass  # a distribution may be named otherwise than its package: scikit-learn holds sklearn
    names = importlib.metadata.packages_distributions().get(package, [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names))) or "unknown"

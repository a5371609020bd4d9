"""Benchmarks are run by hand and seldom: what they import has to be there all the same."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_sparsedc_is_there(script):
    imported = [
        (node.module, name.name)
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparsedc")
        for name in node.names
    ]
    for module, name in imported:
        found = import_module(module)
        assert hasattr(found, name) or import_module(f"{module}.{name}"), f"{module}.{name}"

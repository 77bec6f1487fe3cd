"""The examples in docstrings run and give what they show."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

from kerasnn.config.simulation import simulate

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "kerasnn").rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    # Schedules show what `simulate` makes of them; it is in a module above theirs.
    result = doctest.testmod(
        importlib.import_module(name), extraglobs={"simulate": simulate}, optionflags=doctest.ELLIPSIS
    )
    assert result.attempted > 0
    # None is left out, as one would be behind a decorator that hides its function.
    tree = ast.parse((ROOT / Path(*name.split("."))).with_suffix(".py").read_text())
    documented = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    written = sum(">>>" in (ast.get_docstring(node) or "") for node in documented)
    found = doctest.DocTestFinder().find(importlib.import_module(name))
    assert sum(bool(test.examples) for test in found) == written
    assert result.failed == 0

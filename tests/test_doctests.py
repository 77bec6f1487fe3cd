"""The examples in docstrings run, and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import kerasnn

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "kerasnn").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    # The examples of schedules show what the public function makes of them.
    results = doctest.testmod(importlib.import_module(module), extraglobs={"simulate": kerasnn.simulate})
    assert results.attempted > 0
    assert results.failed == 0

"""The examples in docstrings run and give what they show."""

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
    assert result.failed == 0

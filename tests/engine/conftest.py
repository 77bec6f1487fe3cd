"""XLA compiles what these tests train, though they train a few steps."""

import pytest

from kerasnn.engine import compilation


@pytest.fixture(autouse=True)
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of steps that run without XLA; tests may give another by `indirect` parameters."""
    steps: int = getattr(request, "param", 0)
    monkeypatch.setattr(compilation, "FEW", steps)
    return steps

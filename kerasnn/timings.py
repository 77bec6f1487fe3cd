"""Seconds of a run by phase, and work that may take a share of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PHASES = ("import", "data", "build", "trace", "compile", "epochs", "reports", "results", "other")
"""Importing TensorFlow and Keras; reading and preparing the data; building the network; tracing its steps and layers;
compiling them; training and validation; callbacks and pictures; final models and metrics; and the rest."""

SHARE = 0.05
"""Share of a training's time that reports and saved states may take where nobody says how often they are made."""


class TimeShare:
    """Whether work may be repeated within `SHARE` of the time, if it takes as long as the last time.

    Args:
        seconds: what the work takes the first time, approximately; 0: it is due at once.

    >>> work = TimeShare()
    >>> work.due
    True
    >>> with work.counted():
    ...     time.sleep(0.01)
    >>> work.due
    False
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the time since the work was last done allows it again."""
        return time.monotonic() - self._last >= self._seconds / SHARE

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time within it as the work's."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._seconds = self._last - start


class Timings:
    """Seconds by phase, each counted once: a phase within another one is not counted there.

    >>> timings = Timings()
    >>> with timings.phase("epochs"), timings.phase("reports"):
    ...     time.sleep(0.02)
    >>> timings.seconds()["reports"] >= 0.02
    True
    """

    def __init__(self) -> None:
        self._begun = self._since = time.perf_counter()
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open = ["other"]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within it as a phase's.

        Args:
            name: one of `PHASES`.
        """
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase until now, and of all together as `total`."""
        self._count()
        return {**self._seconds, "total": self._since - self._begun}

    def __str__(self) -> str:
        seconds = self.seconds()
        total = seconds.pop("total")
        return f"{total:.1f}: " + ", ".join(f"{name} {each:.1f}" for name, each in seconds.items())

    def _count(self) -> None:
        now = time.perf_counter()
        self._seconds[self._open[-1]] += now - self._since
        self._since = now


_current: ContextVar[Timings | None] = ContextVar("timings", default=None)


@contextmanager
def timed() -> Iterator[Timings]:
    """Within it, `phase` counts: for the timings that are already being taken, or for new ones."""
    if (current := _current.get()) is not None:
        yield current
        return
    timings = Timings()
    token = _current.set(timings)
    try:
        yield timings
    finally:
        _current.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time within it as a phase's, where timings are being taken."""
    current = _current.get()
    if current is None:
        yield
        return
    with current.phase(name):
        yield

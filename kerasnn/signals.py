"""SIGTERM and Ctrl-C as exceptions."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


def error_of(number: int) -> KeyboardInterrupt:
    """The exception for a signal: `TerminatedError` for SIGTERM, else KeyboardInterrupt."""
    return TerminatedError() if number == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def caught(handle: Callable[[int], None]) -> Iterator[None]:
    """While this lasts, Ctrl-C and SIGTERM call a function; outside the main thread nothing changes.

    Args:
        handle: called with the signal's number.
    """
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda received, _: handle(received)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raised() -> AbstractContextManager[None]:
    """While this lasts, Ctrl-C raises KeyboardInterrupt and SIGTERM raises `TerminatedError`."""

    def end(number: int) -> NoReturn:
        raise error_of(number)

    return caught(end)

"""A display that is replaced while training runs: on a terminal by rich, in a notebook by IPython."""

import io
import sys
from typing import Any, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.live import Live

COLUMNS = 110
"""Width of the display in a notebook, in characters."""


class LiveDisplay(Protocol):
    """What `Progress` needs of a display."""

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None:
        """Replace what is shown."""

    def stop(self) -> None:
        """End the display; what it shows last stays."""


def is_notebook(stream: TextIO) -> bool:
    """Whether text that is printed to a stream appears below a notebook's cell."""
    return stream is sys.stdout and Console().is_jupyter


def live_display(stream: TextIO) -> LiveDisplay:
    """Begin a display on a terminal, or below the running cell of a notebook."""
    if is_notebook(stream):
        return NotebookDisplay()
    display = Live(console=Console(file=stream), auto_refresh=False)
    display.start()
    # After an error in fit no hook ends the display.
    display.console.show_cursor(True)
    return display


class NotebookDisplay:
    """Text below a notebook's cell that is replaced in place; unlike rich's own display it needs no widgets.

    Reference: `IPython.display.display(..., display_id=True)`.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None:
        """Replace the text by what rich makes of a renderable."""
        from IPython.display import display

        text = io.StringIO()
        Console(file=text, force_jupyter=False, force_terminal=False, width=COLUMNS).print(renderable)
        shown = {"text/plain": "\n".join(line.rstrip() for line in text.getvalue().splitlines())}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def stop(self) -> None:
        """Nothing: the text stays."""

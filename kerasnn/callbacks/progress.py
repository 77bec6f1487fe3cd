"""The progress of a training, on a terminal or in a notebook."""

import atexit
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal, TextIO, get_args

import keras
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kerasnn.callbacks.live_display import LiveDisplay, is_notebook, live_display
from kerasnn.callbacks.logs import flat_logs, learning_rate_of
from kerasnn.config.schema import one_of, readable

Style = Literal["auto", "bar", "lines", "silent"]

REFRESH = 0.1
"""Minimum time between two updates of the display in seconds."""


class Progress(keras.callbacks.Callback):
    """Show epoch, metrics, learning rate, speed and time left: live on a terminal or in a notebook, else in lines.

    Text that is printed or logged during training, such as the alarms of `Health`, appears above the live display.
    Call `fit` with `verbose=0`, and put this callback after those that add to the logs.

    Args:
        style: "bar" is a live display, "lines" prints one line per epoch, "silent" nothing; "auto" is "bar" on a
            terminal and in a notebook, else "lines".
        examples: examples in an epoch; None shows steps per second instead of examples per second.
        stream: the output; None: standard output.

    Raises:
        ValueError: for an unknown style.

    Reference: `keras.callbacks.ProgbarLogger`; `rich.live.Live`.

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> history = model.fit(np.zeros((8, 2)), np.ones(8), epochs=1, verbose=0, callbacks=[Progress("lines")])
    epoch 1/1  loss 1  learning rate 0  ... steps/s  0 s left
    """

    def __init__(self, style: Style = "auto", *, examples: int | None = None, stream: TextIO | None = None) -> None:
        super().__init__()
        self.stream = stream or sys.stdout
        self.style = "bar" if style == "auto" and is_notebook(self.stream) else shown_as(style, self.stream)
        self.examples = examples
        self._live: LiveDisplay | None = None
        self._begin = self._epoch_begin = self._drawn_at = 0.0
        self._first_epoch: int | None = None
        self._epoch = self._step = 0
        self._values: dict[str, float | str] = {}

    def __repr__(self) -> str:
        return f"Progress({self.style!r}, examples={self.examples})"

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.close()
        self._begin = time.monotonic()
        self._first_epoch, self._values = None, {}
        if self.style == "bar":
            self._live = live_display(self.stream)
            atexit.register(self.close)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch_begin = time.monotonic()
        self._epoch, self._step = epoch, 0
        if self._first_epoch is None:
            self._first_epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step = batch + 1
        if self._live is not None and time.monotonic() - self._drawn_at > REFRESH:
            self._values |= flat_logs(logs)
            self._draw()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._values = flat_logs(logs)
        # Last, even if the logs contain it.
        if (rate := self._values.pop("learning_rate", None) or learning_rate_of(self.model)) is not None:
            self._values["learning_rate"] = rate
        self._epoch, self._step = epoch + 1, 0
        if self._live is not None and time.monotonic() - self._drawn_at > REFRESH:
            self._draw()
        elif self.style == "lines":
            total = str(self.params["epochs"])
            seconds = time.monotonic() - self._epoch_begin
            line = [f"epoch {self._epoch:>{len(total)}}/{total}", *_formatted(self._values), self._speed(1.0, seconds)]
            print("  ".join([*line, f"{duration(self._remaining)} left"]), file=self.stream, flush=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._live is not None:
            self._draw()
        self.close()

    def close(self) -> None:
        """End the live display; its last state stays visible. Call it if `fit` may fail."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            atexit.unregister(self.close)

    @property
    def _done(self) -> float:
        """Completed epochs in this `fit`, with fractions."""
        return self._epoch - (self._first_epoch or 0) + self._step / (self.params.get("steps") or max(1, self._step))

    @property
    def _remaining(self) -> float:
        """Remaining time in seconds at the average speed so far."""
        seconds = time.monotonic() - self._begin
        remaining = self.params["epochs"] - (self._first_epoch or 0) - self._done
        return remaining * seconds / self._done if self._done else 0.0

    def _speed(self, epochs: float, seconds: float) -> str:
        count, unit = (self.examples, "examples") if self.examples else (self.params.get("steps") or 0, "steps")
        return f"{count * epochs / seconds:,.0f} {unit}/s" if seconds else ""

    def _draw(self) -> None:
        assert self._live is not None
        self._drawn_at = now = time.monotonic()
        total = self.params["epochs"]
        top = Table.grid(padding=(0, 2, 0, 0))
        at = min(self._epoch + (self._step > 0), total)
        left = "done in " + duration(now - self._begin) if self._epoch >= total else f"{duration(self._remaining)} left"
        bar = ProgressBar(total=total - (self._first_epoch or 0), completed=self._done, width=40)
        top.add_row(f"epoch {at}/{total}", bar, left, self._speed(self._done, now - self._begin))
        self._live.update(Group(top, Text("  ".join(_formatted(self._values)))), refresh=True)


def shown_as(style: str, stream: TextIO) -> str:
    """The style of a display, with "auto" resolved for a stream.

    Args:
        style: "auto", "bar", "lines" or "silent".
        stream: the output.

    Raises:
        ValueError: for another style.
    """
    if style not in get_args(Style):
        raise ValueError(one_of("style", style, get_args(Style)))
    return ("bar" if stream.isatty() else "lines") if style == "auto" else style


def duration(seconds: float) -> str:
    """A duration as text.

    >>> duration(12), duration(200), duration(3900)
    ('12 s', '3 min 20 s', '1 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _formatted(values: Mapping[str, float | str]) -> list[str]:
    return [
        f"{name.replace('learning_rate', 'learning rate')} {value if isinstance(value, str) else readable(value)}"
        for name, value in values.items()
    ]

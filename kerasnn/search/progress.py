"""The progress of a search on the terminal."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from kerasnn.callbacks.progress import duration, shown_as
from kerasnn.search.config import SearchSettings
from kerasnn.search.table import trials_table
from kerasnn.search.trial import Trial, best_of

ROWS = 5
"""Trials in the live table."""
REFRESH = 0.1
"""Minimum seconds between two drawings."""


class SearchProgress:
    """Shows the best trials so far: as a live table on a terminal, elsewhere as a line for each group of results.

    >>> from kerasnn.search.config import SearchConfig
    >>> progress = SearchProgress(SearchConfig(trials=2))
    >>> progress.results([Trial(1, {}, "completed", score=0.5, epoch=3), Trial(0, {}, "failed")])
    2/2 trials, 0 s, best val_loss 0.5000 in epoch 3 of trial 1

    Args:
        config: the search, whose `progress_style` is the style.
        stream: output; None takes the standard output.
    """

    def __init__(self, config: SearchSettings, stream: TextIO | None = None) -> None:
        self._config = config
        self._stream = stream or sys.stdout
        self._style = shown_as(config.progress_style, self._stream)
        self._start = time.monotonic()
        self._drawn_at, self._height = -1.0, 0
        self._best: list[Trial] = []
        self._ended = self._replayed = self._on_front = 0
        self._workers = ""

    def message(self, line: str) -> None:
        """Print a line that stays."""
        if self._style != "silent":
            self.close()
            print(line, file=self._stream, flush=True)

    def workers(self, working: int, wanted: int) -> None:
        """Show how many workers train or could, of those that the search wants."""
        self._workers = f"{working} of {wanted} workers, "
        if self._style != "lines":
            self._draw(self._line())
        elif working in (1, wanted):
            self.message(self._line())

    def results(self, ranking: Sequence[Trial], replayed: int = 0) -> None:
        """Show the trials that have ended, the best first; `replayed` of the new ones were read from the journal."""
        self._ended = len(ranking)
        self._replayed += replayed
        self._best = [trial for trial in ranking[:ROWS] if trial.score is not None]
        self._on_front = len(best_of(ranking, self._config)) if len(self._config.objectives) > 1 else 0
        if self._style == "lines":
            self.message(self._line())
        else:
            self._draw(self._line())

    def epoch(self, epoch: int, running: Mapping[int, float]) -> None:
        """Show that the running trials have ended an epoch, given the objective of each by number."""
        if self._style == "bar" and running and time.monotonic() - self._drawn_at > REFRESH:
            best = min(running.values(), key=self._config.as_loss)
            plural = "s" if len(running) > 1 else ""
            self._draw(f"{self._line()}; {len(running)} trial{plural} in epoch {epoch}, best now {best:.4f}")

    def _line(self) -> str:
        seconds, trials = time.monotonic() - self._start, self._config.trials
        text = f"{self._ended}/{trials} trials, {self._workers}{duration(seconds)}"
        if (trained := self._ended - self._replayed) > 0 and self._ended < trials:
            text += f", {duration((trials - self._ended) * seconds / trained)} left"
        if len(self._config.objectives) > 1:
            return f"{text}, {self._on_front} on the Pareto front"
        for best in self._best[:1]:
            text += f", best {self._config.objective_name} {best.score:.4f} in epoch {best.epoch}"
            text += f" of trial {best.number}"
        return text

    def _draw(self, line: str) -> None:
        if self._style != "bar":
            return
        text = line
        if self._best:
            text += "\n" + trials_table(self._best, self._config)
        # A line that wraps would count as two.
        columns = shutil.get_terminal_size().columns
        text = "\n".join(row[:columns] for row in text.split("\n"))
        self.close()
        print(text, file=self._stream, flush=True)
        self._height = text.count("\n") + 1
        self._drawn_at = time.monotonic()

    def close(self) -> None:
        """Erase the live table."""
        if self._height:
            # Move the cursor up to the table's first line, and clear from there.
            print(f"\x1b[{self._height}F\x1b[J", end="", file=self._stream, flush=True)
            self._height = 0

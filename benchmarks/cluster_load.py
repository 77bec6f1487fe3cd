"""A search's driver under load: 10,000 trials that a formula answers, on 100 of Ray's actors without TensorFlow.

`python -m benchmarks.cluster_load [trials] [actors] [trials at once]` prints trials a second, the driver's memory and
its seconds in each part, for each tenth of the search: what grows with the number of trials shows.
"""

import functools
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.answered import AnsweredRuns
from benchmarks.answers import Answers
from kerasnn.search import run_search
from kerasnn.search.cluster import Cluster
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import Journal
from kerasnn.search.oracle import Oracle
from kerasnn.search.run_search import search_subject
from kerasnn.search.table import aligned
from kerasnn.search.trial import Outcome, Proposal


class Clock:
    """The seconds within some methods, without those of others that they call.

    Args:
        methods: class and name of each.
    """

    def __init__(self, methods: Sequence[tuple[type, str]]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._methods, self._inner = methods, [0.0]

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this lasts, the methods are timed."""
        before = [getattr(owner, name) for owner, name in self._methods]
        for (owner, name), method in zip(self._methods, before, strict=True):
            setattr(owner, name, self._timed(name, method))
        try:
            yield
        finally:
            for (owner, name), method in zip(self._methods, before, strict=True):
                setattr(owner, name, method)

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*arguments: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                seconds = time.perf_counter() - start
                self.seconds[name] += seconds - self._inner.pop()
                self._inner[-1] += seconds

        return timed


def measure(trials: int, actors: int, at_once: int, folder: Path) -> list[list[str]]:
    """Search, and give back the table's rows, the headings first."""
    quiet = {"progress": "silent", "tensorboard": False}
    config = SearchConfig.model_validate(
        {"trials": trials, "workers": actors, "trials_at_once": at_once, "run": {"report": quiet}}
    )
    timed = {"ask": Oracle, "tell": Oracle, "_record": run_search._Search, "append": Journal}
    timed |= {"_on_epoch": run_search._Search, "_take": run_search._Search, "_score_to_beat": run_search._Search}
    timed |= {"_assign": Cluster, "_collect": Cluster, "_answer": Cluster}
    clock = Clock([(owner, name) for name, owner in timed.items()])
    rows = [["trials", "trials/s", "driver MB", *(f"{name} ms" for name in timed), "other ms"]]
    before, start, done = dict.fromkeys(timed, 0.0), 0.0, 0

    def counted(search: Any, outcomes: Sequence[Outcome], proposals: Mapping[int, Proposal]) -> None:
        nonlocal before, start, done
        if not done:
            start = time.perf_counter()
        take(search, outcomes, proposals)
        done += len(outcomes)
        if done % max(trials // 10, 1) == 0:
            now = time.perf_counter()
            part = max(trials // 10, 1)
            spent = {name: clock.seconds[name] - before[name] for name in timed}
            row = [
                f"{done}",
                f"{part / (now - start):.0f}",
                f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f}",
            ]
            row += [f"{1000 * seconds / part:.2f}" for seconds in spent.values()]
            rows.append([*row, f"{1000 * (now - start - sum(spent.values())) / part:.2f}"])
            print("  ".join(rows[-1]), flush=True)
            before, start = dict(clock.seconds), now

    with clock.running():
        take = run_search._Search._take
        with mock.patch.object(run_search._Search, "_take", counted):
            search_subject(AnsweredRuns(config, Answers), folder)
    return rows


def main() -> None:
    trials, actors, at_once = (int(each) for each in [*sys.argv[1:], *("10000", "100", "10000")[len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rows = measure(trials, actors, at_once, Path(folder) / "search")
        print(aligned(rows))
        size = (Path(folder) / "search" / "journal.jsonl").stat().st_size
        print(f"{time.perf_counter() - start:.0f} s with Ray's start, journal of {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

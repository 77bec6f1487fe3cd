"""Searches whose trials are answered by a formula, in this process or by Ray's workers."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.answers import Answers
from kerasnn.search.cluster import Cluster
from kerasnn.search.config import SearchConfig
from kerasnn.search.progress import SearchProgress
from kerasnn.search.run_search import RunSubject
from kerasnn.search.subject import ScoreToBeat, Train
from kerasnn.search.trainer import proposal_key


class AnsweredRuns(RunSubject):
    """The runs of a config, answered by a formula.

    Args:
        config: the search.
        worker: answers.
    """

    def __init__(self, config: SearchConfig, worker: type[Answers]) -> None:
        super().__init__(config, None)
        self._worker = worker

    @contextmanager
    def training(self, progress: SearchProgress, score_to_beat: ScoreToBeat) -> Iterator[Train]:
        """A context that returns the `Train`: of this process, or of workers."""
        if not self.config.has_workers:
            worker = self._worker()
            worker.prepare(self.config, [], None)
            yield lambda batch, proposals, _: worker.train(batch, proposals, None)
            return
        group = functools.partial(proposal_key, self.config)
        with Cluster(self.config, None, group, progress, self._worker) as cluster:
            yield functools.partial(cluster.train, score_to_beat=score_to_beat)

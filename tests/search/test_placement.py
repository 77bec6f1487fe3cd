"""Workers get the GPUs that a cluster has, those of machines that join a running search too."""

import io
import os
import re
import sys
import threading
import time
from functools import partial

import pytest

from kerasnn.search.actors import Worker
from kerasnn.search.cluster import Cluster
from kerasnn.search.config import SearchConfig
from kerasnn.search.placement import divide_gpus
from kerasnn.search.progress import SearchProgress
from kerasnn.search.trainer import proposal_key
from kerasnn.search.trial import Outcome, Proposal

CONFIG = SearchConfig.model_validate({"workers": 2, "run": {"report": {"progress": "silent"}}})
LINES = SearchConfig.model_validate({"run": {"report": {"progress": "lines"}}})


class Stub(Worker):
    """Says which process and GPUs train a trial, and notes that it trains it."""

    def prepare(self, config, folder, mailbox):
        import ray

        self.folder, self.mailbox = ray.get(folder[0]), mailbox
        return ray.get_runtime_context().get_node_id()

    def train(self, batch, proposals, score_to_beat):
        return [[self.outcome(proposal) for proposal in proposals]]

    def outcome(self, proposal):
        import ray

        with (self.folder / str(proposal.number)).open("a") as times:
            times.write("x")
        self.mailbox.report.remote(1, {proposal.number: 0.5}, False)
        end = time.monotonic() + 20
        while (self.folder / "wait").exists() and time.monotonic() < end:
            time.sleep(0.05)
        line = f"process {os.getpid()}, {len(ray.get_gpu_ids())} GPUs"
        return Outcome(proposal.number, "completed", ({"val_loss": [1.0]},), 0.1, error=line)


@pytest.fixture
def machines():
    """A cluster that begins with a machine of two processors and no GPU."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster as Machines

    machines = Machines(True, head_node_args={"num_cpus": 2, "num_gpus": 0, "include_dashboard": False})
    ray.init(machines.address, log_to_driver=False, logging_level="ERROR")
    # Ray's processes can't import this module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield machines
    ray.shutdown()
    machines.shutdown()


def search_on(folder, stream=None, config=CONFIG):
    return Cluster(config, folder, partial(proposal_key, config), SearchProgress(LINES, stream or io.StringIO()), Stub)


def trained(workers, batch, continues=(None, None), on_epoch=lambda epoch, values: ()):
    """What trained each trial of a batch, by number; `continues` has the trial that each of them continues."""
    numbers = [10 * batch + place for place in range(len(continues))]
    wanted = [Proposal(number, {}, 2, begun) for number, begun in zip(numbers, continues, strict=True)]
    groups = workers.train(batch, wanted, on_epoch, lambda: None)
    found = {outcome.number: outcome.error for outcomes in groups for outcome in outcomes}
    assert sorted(found) == numbers
    return found


def gpus_of(found):
    return sorted(int(re.search(r"(\d) GPUs", line)[1]) for line in found.values())


def trained_until(workers, gpus, batches):
    """Train batches until their trials are trained with these GPUs."""
    for batch in batches:
        if gpus_of(trained(workers, batch)) == gpus:
            return
        time.sleep(0.2)
    raise AssertionError(f"no batch was trained with {gpus} GPUs")


def test_gpus_that_join_are_used_and_workers_whose_gpus_left_go_on_without(machines, tmp_path):
    stream = io.StringIO()
    with search_on(tmp_path, stream) as workers:
        assert gpus_of(trained(workers, 0)) == [0, 0]
        joined = machines.add_node(num_cpus=2, num_gpus=2)
        trained_until(workers, [1, 1], range(1, 100))
        machines.remove_node(joined)
        trained_until(workers, [0, 0], range(100, 200))
    shown = stream.getvalue()
    for number in range(2):
        assert f"worker {number} starts anew with 1 GPUs, it had 0\n" in shown
        assert f"worker {number} starts anew with 0 GPUs, it had 1\n" in shown
    assert "trials are tried again" not in shown
    assert {path.read_text() for path in tmp_path.iterdir()} == {"x"}


def test_a_worker_that_trains_or_keeps_what_hyperband_continues_is_left_alone(machines, tmp_path):
    (tmp_path / "wait").touch()

    def join(epoch, values):
        if len(machines.list_all_nodes()) == 1 and (tmp_path / "0").exists() and (tmp_path / "1").exists():
            machines.add_node(num_cpus=2, num_gpus=2)
            # Longer than a search needs to find the machine.
            threading.Timer(2.5, (tmp_path / "wait").unlink).start()
        return ()

    config = SearchConfig.model_validate({**CONFIG.model_dump(), "oracle": "hyperband"})
    with search_on(tmp_path, config=config) as workers:
        begun = trained(workers, 0, on_epoch=join)
        assert gpus_of(begun) == [0, 0]
        continued = trained(workers, 1, continues=[1, 0])
        assert (continued[10], continued[11]) == (begun[1], begun[0])
        trained_until(workers, [1, 1], range(2, 100))
    assert {path.read_text() for path in tmp_path.iterdir()} == {"x"}


def test_a_worker_that_waits_for_a_machine_gets_its_gpu_while_others_train(machines, tmp_path):
    (tmp_path / "wait").touch()

    def join(epoch, values):
        if len(machines.list_all_nodes()) == 1:
            machines.add_node(num_cpus=1, num_gpus=1)
        elif len([*tmp_path.iterdir()]) == 4:
            (tmp_path / "wait").unlink()
        return ()

    config = SearchConfig.model_validate({**CONFIG.model_dump(), "workers": 3})
    with search_on(tmp_path, config=config) as workers:
        found = trained(workers, 0, (None, None, None), join)
    assert gpus_of(found) == [0, 0, 1]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"x"}


@pytest.mark.parametrize(
    ("machines", "workers", "expected"),
    [
        ([(4, 0)], 4, (0.0, 4)),
        # GPUs of a machine without processors for workers.
        ([(0, 8), (4, 0)], 2, (0.0, 2)),
        ([(8, 2)], 2, (1.0, 0)),
        ([(8, 8)], 2, (1.0, 0)),
        # Two thirds of a GPU for each would fit only twice.
        ([(8, 2)], 3, (0.5, 0)),
        ([(8, 1)], 4, (0.25, 0)),
        # The machine with a GPU has room for two workers, the other one for three; the rest wait.
        ([(2, 1), (3, 0)], 4, (0.5, 2)),
        ([(2, 1), (3, 0)], 9, (0.5, 3)),
        ([(2, 1), (2, 2), (8, 0)], 4, (0.5, 0)),
        ([(2, 1), (2, 1)], 2, (1.0, 0)),
    ],
)
def test_gpus_are_divided_equally_among_workers_whose_machines_have_some(machines, workers, expected):
    nodes = [
        {"NodeID": number, "Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}}
        for number, (cpus, gpus) in enumerate(machines)
    ]
    left = {"NodeID": "left", "Alive": False, "Resources": {"CPU": 9.0, "GPU": 9.0}}
    assert divide_gpus([left, *nodes], workers)[:2] == expected

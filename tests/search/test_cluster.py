"""Workers train a search's trials on Ray: no death of one hangs the search, and no result is lost or taken twice."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.processes import command_line, descendants
from kerasnn.search import cluster, search
from kerasnn.search.actors import NotReadyError, Worker
from kerasnn.search.cluster import Cluster
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import read_journal
from kerasnn.search.progress import SearchProgress
from kerasnn.search.result import read_search
from kerasnn.search.trainer import proposal_key
from kerasnn.search.trial import Outcome, Proposal

ROOT = Path(__file__).resolve().parents[2]
ALL = "KERASNN_ALL_TESTS" in os.environ
CONFIG = SearchConfig.model_validate({"workers": 2, "keep_best": 2, "run": {"report": {"progress": "silent"}}})
GROUP = partial(proposal_key, CONFIG)
LINES = SearchConfig.model_validate({"run": {"report": {"progress": "lines"}}})


class Stub(Worker):
    """Answers at once, by the trial's number."""

    def prepare(self, config, data, mailbox):
        import ray

        self.config, self.mailbox, self.data = config, mailbox, ray.get(data[0])

    def train(self, batch, proposals, score_to_beat):
        return [[self.outcome(proposal) for proposal in proposals]]

    def outcome(self, proposal, **fields):
        return Outcome(proposal.number, "completed", ({"val_loss": [2.0, 1 / (1 + proposal.number)]},), 0.1, **fields)


class Dies(Stub):
    def outcome(self, proposal):
        if proposal.number == 3:
            os._exit(1)
        return super().outcome(proposal)


class Raises(Stub):
    def outcome(self, proposal):
        if proposal.number == 3:
            raise MemoryError("too large")
        return super().outcome(proposal)


class ReturnsNaN(Stub):
    def outcome(self, proposal):
        return super().outcome(proposal, weights=([np.full(2, np.nan if proposal.number == 3 else 1.0)],))


class ReturnsText(Stub):
    def outcome(self, proposal):
        return "done" if proposal.number == 3 else super().outcome(proposal)


class ReturnsOthers(Stub):
    def outcome(self, proposal):
        return super().outcome(Proposal(99, {}, 2) if proposal.number == 3 else proposal)


class Forgets(Stub):
    """Is as if its process had begun anew, four times."""

    def outcome(self, proposal):
        if proposal.number == 3:
            with Path(self.data).open("a") as times:
                times.write("x")
            if Path(self.data).stat().st_size < 5:
                raise NotReadyError
        return super().outcome(proposal)


class LeavesAMachine(Stub):
    """Has been on a machine that has left."""

    def prepare(self, config, data, mailbox):
        super().prepare(config, data, mailbox)
        return "left"


class DiesFourTimes(LeavesAMachine, Forgets):
    def outcome(self, proposal):
        try:
            return super().outcome(proposal)
        except NotReadyError:
            os._exit(1)


class Stops(Stub):
    """Stops its process at the first attempt at a trial; its process says more often than others that it runs."""

    def alive(self):
        time.sleep(0.2)

    alive.__ray_concurrency_group__ = "alive"

    def outcome(self, proposal):
        if proposal.number == 3 and not Path(self.data).exists():
            Path(self.data).touch()
            os.kill(os.getpid(), signal.SIGSTOP)
            # Another thread may take the signal, and this one would go on until the kernel has stopped it.
            time.sleep(60)
        return super().outcome(proposal)


class Asks(Stub):
    """Reports one epoch, and says in the error which trials it was told to stop."""

    def outcome(self, proposal):
        import ray

        stop = ray.get(self.mailbox.report.remote(1, {proposal.number: 0.5}, True))
        return super().outcome(proposal, error=f"stop {list(stop)}, {self.data}")


@pytest.fixture(scope="module")
def ray():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    # Ray's processes can't import this module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


def proposals(count):
    return [Proposal(number, {"seed": number}, 2) for number in range(count)]


def outcomes_of(workers, batch, wanted, on_epoch=lambda epoch, values: ()):
    for outcomes in workers.train(batch, wanted, on_epoch, lambda: None):
        yield from ((outcome.number, outcome) for outcome in outcomes)


def trained(worker, count=6, config=CONFIG, on_epoch=lambda epoch, values: (), data="the data"):
    """Outcomes by number, and the lines that were shown."""
    found, stream = {}, io.StringIO()
    with Cluster(config, data, GROUP, SearchProgress(LINES, stream), worker) as workers:
        for outcomes in workers.train(0, proposals(count), on_epoch, lambda: None):
            for outcome in outcomes:
                assert outcome.number not in found
                found[outcome.number] = outcome
    return found, stream.getvalue().splitlines()


def test_every_trial_is_trained_once(ray):
    found, shown = trained(Stub)
    expected = {number: [(1 / (1 + number), 2)] for number in range(6)}
    assert {number: outcome.best_epochs(CONFIG) for number, outcome in found.items()} == expected
    assert re.fullmatch(r"0/128 trials, 1 of 2 workers, \d+ s", shown[0])


@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        (Dies, "its process or its machine is gone"),
        (Raises, "too large"),
        (ReturnsNaN, "an outcome's weights must be finite"),
        (ReturnsText, "an outcome must be an Outcome, received 'done'"),
        (ReturnsOthers, r"a worker must return its trials, received \[99\]"),
    ],
)
def test_a_worker_that_fails_costs_its_trial_and_not_the_search(ray, worker, reason):
    found, shown = trained(worker)
    assert sorted(found) == list(range(6))
    assert {number for number, outcome in found.items() if outcome.status == "failed"} == {3}
    assert found[3].error.startswith("each of 3 attempts failed, the last: ")
    assert "\n" not in found[3].error
    assert re.search(reason, found[3].error), found[3].error
    failures = [line for line in shown if "failed" in line]
    assert len(failures) == 3
    assert "trials are tried again" in failures[0]
    assert "tried again" not in failures[-1]


@pytest.mark.parametrize("worker", [Forgets, DiesFourTimes])
def test_what_is_not_the_trial_s_fault_costs_it_no_attempt(ray, tmp_path, monkeypatch, worker):
    alive = ray.nodes
    monkeypatch.setattr(ray, "nodes", lambda: [*alive(), {"NodeID": "left", "Alive": False}])
    found, shown = trained(worker, data=str(tmp_path / "times"))
    assert [found[number].status for number in range(6)] == ["completed"] * 6
    assert (tmp_path / "times").read_text() == "x" * 5
    assert sum("its process or its machine is gone" in line for line in shown) == 4


def test_a_worker_that_is_stopped_is_killed_and_its_trials_are_tried_again(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "SILENCE", 4.0)
    found, shown = trained(Stops, data=str(tmp_path / "stopped"))
    assert [found[number].status for number in range(6)] == ["completed"] * 6
    killed, failed = (line for line in shown if "worker" in line and "trials, " not in line)
    assert re.fullmatch(r"worker \d has not answered for 4 s and is killed", killed)
    assert re.fullmatch(r"worker \d failed: its process or its machine is gone; 3 trials are tried again", failed)


def test_a_worker_that_is_stopped_while_it_waits_costs_no_trial_an_attempt(ray, tmp_path, monkeypatch):
    class StopsTheOther(Stops):
        def prepare(self, config, data, mailbox):
            super().prepare(config, data, mailbox)
            (self.data / str(os.getpid())).touch()

        def outcome(self, proposal):
            if proposal.number == 0:
                [other] = {path.name for path in self.data.iterdir()} - {str(os.getpid())}
                os.kill(int(other), signal.SIGSTOP)
                time.sleep(8)
            return Stub.outcome(self, proposal)

    monkeypatch.setattr(cluster, "SILENCE", 4.0)
    stream = io.StringIO()
    with Cluster(CONFIG, tmp_path, GROUP, SearchProgress(LINES, stream), StopsTheOther) as workers:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.1)
        found = [*outcomes_of(workers, 0, proposals(1)), *outcomes_of(workers, 1, proposals(4)[1:])]
    assert [number for number, _ in found] == [0, 1, 2, 3]
    assert "has not answered for 4 s and is killed" in stream.getvalue()
    assert "failed" not in stream.getvalue()


def test_a_search_survives_the_stop_of_its_mailbox(ray, monkeypatch):
    monkeypatch.setattr(cluster, "SILENCE", 12.0)
    config = SearchConfig.model_validate({**CONFIG.model_dump(), "stopper": "median"})
    with Cluster(config, "the data", GROUP, SearchProgress(LINES, io.StringIO()), Asks) as workers:
        ray.get(workers._mailbox.report.remote(1, {}, False))
        [mailbox] = [pid for pid in descendants(os.getpid()) if "ray::Mailbox" in command_line(pid)]
        os.kill(mailbox, signal.SIGSTOP)
        assert sorted(number for number, _ in outcomes_of(workers, 0, proposals(4))) == list(range(4))


def test_a_search_survives_the_death_of_its_mailbox(ray):
    class Slow(Stub):
        def outcome(self, proposal):
            time.sleep(1)
            return super().outcome(proposal)

    with Cluster(CONFIG, "the data", GROUP, SearchProgress(LINES, io.StringIO()), Slow) as workers:
        for batch in range(2):
            found = dict(outcomes_of(workers, batch, proposals(4)))
            assert {number: outcome.status for number, outcome in found.items()} == dict.fromkeys(range(4), "completed")
            ray.kill(workers._mailbox, no_restart=False)


def test_workers_learn_which_trials_to_stop_in_every_batch(ray):
    config = SearchConfig.model_validate({**CONFIG.model_dump(), "stopper": "median"})
    with Cluster(config, "the data", GROUP, SearchProgress(LINES, io.StringIO()), Asks) as workers:
        for batch in range(3):
            found = outcomes_of(workers, batch, proposals(4), lambda epoch, values: values)
            assert {number: outcome.error for number, outcome in found} == {
                number: f"stop [{number}], the data" for number in range(4)
            }


def test_workers_learn_which_trials_to_stop_and_see_the_data(ray):
    config = SearchConfig.model_validate({**CONFIG.model_dump(), "stopper": "median"})
    found, _ = trained(Asks, 4, config, lambda epoch, values: [number for number in values if number > 1])
    assert {number: outcome.error for number, outcome in found.items()} == {
        0: "stop [], the data",
        1: "stop [], the data",
        2: "stop [2], the data",
        3: "stop [3], the data",
    }


def test_workers_that_all_fail_end_the_search(ray):
    class NeverReady(Stub):
        def prepare(self, config, data, mailbox):
            raise ValueError("no room")

    with pytest.raises(ValueError, match=r"workers must finish their trials, 6 failed in a row, the last: .*no room"):
        trained(NeverReady)


def test_without_a_worker_the_search_ends(ray, monkeypatch):
    monkeypatch.setattr(cluster, "START", 1.0)

    class Slow(Stub):
        def prepare(self, config, data, mailbox):
            time.sleep(60)

    with pytest.raises(ValueError, match=r"workers must be ready within 1 s, none of 2 is"):
        trained(Slow)


def test_without_ray_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"several workers need Ray: pip install 'kerasnn\[ray\]'"):
        Cluster(CONFIG, "the data", GROUP, print)


TINY = {
    "run": {
        "network": {"hidden": [6]},
        "training": {"epochs": 3},
        "report": {"progress": "silent", "tensorboard": False},
    },
    "space": {"optimizer.learning_rate": {"min": 1e-3, "max": 1e-1, "sampling": "log"}},
    "trials": 6,
    "trials_at_once": 3,
}


def assert_found_what_one_process_finds(folder, alone, count=6):
    entries = [read_journal(each / "journal.jsonl") for each in (folder, alone)]
    proposed = [[entry for entry in each if "proposal" in entry] for each in entries]
    assert proposed[0] == proposed[1]
    assert sorted(entry["result"] for entry in entries[0] if "result" in entry) == list(range(count))
    found, expected = ({trial.number: trial.score for trial in read_search(each).trials} for each in (folder, alone))
    assert found == pytest.approx(expected, rel=1e-4)
    assert [path.name for path in (folder / "models").iterdir()] == [path.name for path in (alone / "models").iterdir()]


def test_a_search_finds_what_one_process_finds(ray, tmp_path):
    search(SearchConfig.model_validate(TINY), tmp_path / "alone")
    search(SearchConfig.model_validate({**TINY, "workers": 2}), tmp_path / "workers")
    assert_found_what_one_process_finds(tmp_path / "workers", tmp_path / "alone")


X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
FIT = {"epochs": 4, "batch_size": 16, "validation_split": 0.25, "progress": "silent", "tensorboard": False}


def build(hp):
    layer = keras.layers.Dense(hp.Choice("units", [4, 8]), "tanh")
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dropout(0.1), keras.layers.Dense(2, "softmax")])
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"trials": 6, "trials_at_once": 3, "seeds_per_trial": 2},
        {"trials": 9, "oracle": "hyperband", "callbacks": [keras.callbacks.EarlyStopping("loss", patience=1)]},
    ],
    ids=["random", "hyperband"],
)
def test_a_search_over_what_a_function_builds_finds_what_one_process_finds(ray, tmp_path, options):
    options = {**FIT, **options}
    alone = search(build, X, Y, search_dir=tmp_path / "alone", **options)
    found = search(build, X, Y, search_dir=tmp_path / "workers", workers=2, **options)
    assert_found_what_one_process_finds(tmp_path / "workers", tmp_path / "alone", options["trials"])
    models = zip(found.best_models(), alone.best_models(), strict=True)
    for first, second in models:
        np.testing.assert_allclose(first.predict(X, verbose=0), second.predict(X, verbose=0), rtol=1e-3, atol=1e-5)
    # The number of workers may change, and what is in the journal is not trained again.
    assert search(build, X, Y, search_dir=tmp_path / "workers", **options).trials == found.trials


def test_a_fault_of_the_whole_search_ends_it_at_once(ray, tmp_path):
    with pytest.raises(ValueError, match="objective must be one of loss, accuracy, val_loss, val_accuracy; received"):
        search(build, X, Y, search_dir=tmp_path / "search", workers=2, **{**FIT, "objective": "val_auc"})


def test_what_workers_cannot_get_is_refused_before_anything_is_written(tmp_path):
    lock = threading.Lock()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    arguments = {"workers": 2, "search_dir": tmp_path / "search", "progress": "silent", "validation_data": (X, Y)}
    rule = "must be what cloudpickle can send to workers, received"

    def locked(hp):
        with lock:
            return build(hp)

    with pytest.raises(ValueError, match=f"build {rule} locked: TypeError: cannot pickle '_thread.lock' object"):
        search(locked, X, Y, **arguments)
    with pytest.raises(ValueError, match=f"x {rule} _BatchDataset: "):
        search(build, data, **arguments)
    assert not (tmp_path / "search").exists()


@pytest.mark.skipif(not ALL, reason="trains long; set KERASNN_ALL_TESTS=1")
@pytest.mark.parametrize(
    ("what", "victim", "number"),
    [
        ("config", "ray::Worker", signal.SIGKILL),
        ("config", "ray::Worker", signal.SIGSTOP),
        ("config", "raylet/raylet", signal.SIGKILL),
        ("config", "gcs_server", signal.SIGKILL),
        ("config", "scripts/search.py", signal.SIGKILL),
        ("build", "ray::Worker", signal.SIGKILL),
        ("build", "test_cluster.py", signal.SIGKILL),
    ],
)
def test_a_search_goes_on_after_the_death_or_stop_of(tmp_path, monkeypatch, what, victim, number):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    described = {**TINY, "run": {**TINY["run"], "training": {"epochs": 40}}}
    (tmp_path / "config.json").write_text(json.dumps({**described, "workers": 2}))
    command = [sys.executable, ROOT / "scripts" / "search.py", "--config", tmp_path / "config.json"]
    command += ["--search_dir", tmp_path / "killed"]
    if what == "build":
        command = [sys.executable, __file__, tmp_path / "killed"]
    begun = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "killed" / "journal.jsonl"
    end = time.monotonic() + 180
    while not (journal.exists() and b'"proposal"' in journal.read_bytes()):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(12)
    mine = descendants(begun.pid)
    for pid in [pid for pid in mine if victim in command_line(pid)][:1]:
        os.kill(pid, number)
    _, errors = begun.communicate(timeout=300)
    # A raylet waits a minute for a dead head process.
    end = time.monotonic() + 120
    while any("ray" in command_line(pid) for pid in mine):
        assert time.monotonic() < end, "Ray's processes outlive the search"
        time.sleep(0.1)
    if victim == "ray::Worker":
        assert begun.returncode == 0, errors
    else:
        assert subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0
    if what == "build":
        search_long(tmp_path / "alone")
    else:
        search(SearchConfig.model_validate(described), tmp_path / "alone")
    assert_found_what_one_process_finds(tmp_path / "killed", tmp_path / "alone")


def search_long(folder, **options):
    """A search over what a function builds that takes long enough to be killed."""
    options |= {**FIT, "epochs": 4000, "trials": 6, "trials_at_once": 3}
    search(build, X, Y, search_dir=folder, **options)


if __name__ == "__main__":
    search_long(Path(sys.argv[1]), workers=2)

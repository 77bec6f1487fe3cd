"""A chief hands trials to workers; no death of either hangs the other, and no result is lost or taken twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from kerasnn.search import chief, worker
from kerasnn.search.chief import Chief
from kerasnn.search.config import SearchConfig
from kerasnn.search.run_search import search
from kerasnn.search.trial import Outcome, Proposal
from kerasnn.search.wire import Client, content, message, outcome_from_json, outcome_to_json

ROOT = Path(__file__).resolve().parents[2]
CONFIG = SearchConfig.model_validate({"workers": 2, "run": {"report": {"progress": "silent"}}})
WIDE = {"network.hidden": [9]}


def proposals(count, values=None):
    return [Proposal(number, values or {}, 3) for number in range(count)]


class Search:
    """A chief whose workers the test plays."""

    def __init__(self, chief, proposals, to_beat=None):
        self.chief, self.said = chief, []
        self.outcomes, self.error = [], None
        self._arguments = (0, proposals, lambda epoch, values: {n for n in values if values[n] > 1}, lambda: to_beat)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.outcomes.extend(self.chief.train(*self._arguments))
        except ValueError as error:
            self.error = error

    def client(self, name):
        return Client(self.chief.address, name)

    def result(self):
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.outcomes


def share_of(client):
    """A share's name and the numbers in it, once there is one."""
    for _ in range(200):
        trial = client.create_trial(client.tuner_id)
        if trial.status == "RUNNING":
            return trial.trial_id, [each["number"] for each in content(trial.hyperparameters)["proposals"]]
        time.sleep(0.02)
    raise AssertionError("no share")


def answer(client, share, numbers):
    outcomes = [Outcome(number, "completed", ({"val_loss": [1.0]},), 0.1) for number in numbers]
    client.end_trial(message(share, "STOPPED", [outcome_to_json(each, False) for each in outcomes]))


@pytest.fixture
def played(monkeypatch, tmp_path):
    """A chief that starts no processes."""
    monkeypatch.setattr(chief, "FAREWELL", 0.0)
    monkeypatch.setattr(Chief, "_start", lambda self, slot: None)
    said = []
    with Chief(CONFIG, "0", tmp_path, said.append) as found:
        found.said = said
        yield found


def test_outcomes_survive_the_wire():
    weights = ([np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([0.1])], None)
    outcome = Outcome(
        3, "stopped", ({"loss": [0.1, float("nan")]}, {"loss": [1 / 3]}), 0.25, alone="why", states=(1,), ended=(True,)
    )
    outcome = type(outcome)(**{**vars(outcome), "weights": weights})
    found = outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome, True))))
    assert (found.number, found.status, found.seconds, found.alone, found.ended) == (3, "stopped", 0.25, "why", (True,))
    assert repr(found.histories) == repr(outcome.histories)
    assert found.states == ()
    assert found.weights[1] is None
    for ours, theirs in zip(found.weights[0], weights[0], strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert outcome_from_json(outcome_to_json(outcome, False)).weights == ()


def test_trials_of_one_program_are_shared_evenly_and_answered_once(played):
    run = Search(played, [*proposals(4), *[Proposal(number, WIDE, 3) for number in (4, 5)]])
    one, two = run.client("one"), run.client("two")
    first, second = share_of(one), share_of(two)
    assert first[1] == [0, 1, 2]
    # Not with those of another width.
    assert second[1] == [3]
    assert share_of(one) == first
    stop = one.update_trial(first[0], {"0": 0.5, "1": 1.5}, 1)
    assert (stop.status, content(stop.hyperparameters)) == ("RUNNING", [1])
    answer(one, first[0], [0, 2])
    answer(one, first[0], [0])
    answer(one, first[0], [1])
    assert share_of(one)[1] == [4, 5]
    assert run.client("three").create_trial("three").status == "IDLE"
    answer(one, share_of(one)[0], [4, 5])
    answer(two, second[0], [3])
    assert [[outcome.number for outcome in each] for each in run.result()] == [[0, 2], [1], [4, 5], [3]]


def test_a_silent_workers_trials_are_tried_again_then_alone_then_fail(played, monkeypatch):
    monkeypatch.setattr(chief, "GONE_AFTER", 0.3)
    run = Search(played, proposals(2))
    name, numbers = share_of(run.client("a"))
    other, rest = share_of(run.client("fine"))
    answer(run.client("fine"), other, rest)
    assert (numbers, rest) == ([0], [1])
    for worker_name in ("b", "c"):
        time.sleep(0.6)
        assert share_of(run.client(worker_name))[1] == [0]
    # What the first one still has to say comes too late.
    assert run.client("a").update_trial(name, {"0": 0.5}, 2).status == "STOPPED"
    answer(run.client("a"), name, [0])
    last = {outcome.number: outcome for each in run.result() for outcome in each}[0]
    assert last.status == "failed"
    assert last.error == "each of 3 workers that trained it died, the last one was not heard of for 0.3 s"
    assert "worker a was not heard of for 0.3 s; 1 trials are tried again" in played.said


def test_a_worker_sends_the_weights_that_may_be_kept():
    config = CONFIG.model_copy(update={"keep_best": 2})
    outcomes = [Outcome(n, "completed", ({"val_loss": [value]},), 0.1) for n, value in enumerate((0.4, 0.1, 0.3, 0.2))]
    outcomes.append(Outcome(9, "failed", (), 0.1, error="why"))
    assert worker._worth_keeping(outcomes, config, None) == {1, 3}
    assert worker._worth_keeping(outcomes, config, 0.15) == {1}
    assert worker._worth_keeping(outcomes, config.model_copy(update={"keep_best": 0}), None) == set()


def test_an_address_in_use_is_refused_in_one_line(played, tmp_path):
    taken = CONFIG.model_copy(update={"listen": played.address})
    with pytest.raises(ValueError, match=f"listen must be an address of this machine that is free, .*{played.address}"):
        Chief(taken, "0", tmp_path, print)


@pytest.mark.parametrize("listen", ["7000", ":7000", "here:", "here:70000"])
def test_an_address_has_a_host_and_a_port(listen):
    with pytest.raises(ValueError, match="listen must be host:port"):
        SearchConfig(listen=listen)


TINY = {
    "run": {
        "network": {"hidden": [6]},
        "training": {"epochs": 30},
        "report": {"progress": "lines", "tensorboard": False},
    },
    "space": {"optimizer.learning_rate": {"min": 1e-3, "max": 1e-1, "sampling": "log"}},
    "trials": 6,
    "trials_at_once": 3,
}

JOIN = """import sys; from kerasnn.cli import main; from kerasnn.search import worker; worker.GONE_AFTER = 3.0
sys.exit(main(["search", "--join", sys.argv[1]]))"""


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in found.read_text().split()] if found.exists() else []


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


def test_deaths_of_workers_and_chief_cost_nothing_but_time(tmp_path):
    config = SearchConfig.model_validate({**TINY, "workers": 2})
    folder = tmp_path / "killed"
    (tmp_path / "config.json").write_text(config.to_json())
    command = [sys.executable, ROOT / "scripts" / "search.py", "--config", tmp_path / "config.json"]
    command += ["--search_dir", folder]
    journal = folder / "journal.jsonl"
    out = (tmp_path / "out").open("w")

    def done():
        return journal.read_text().count('"result"') if journal.exists() else 0

    begun = subprocess.Popen(command, stdout=out, stderr=out)
    joined = None
    try:
        until(lambda: len(children(begun.pid)) == 2, 120)
        victim = children(begun.pid)[0]
        # A worker dies, most likely with trials in flight; then the chief does.
        until(lambda: "proposal" in (journal.read_text() if journal.exists() else ""), 60)
        time.sleep(3)
        os.kill(victim, signal.SIGKILL)
        joined = subprocess.Popen([sys.executable, "-c", JOIN, folder], stdout=out, stderr=out, cwd=ROOT)
        until(lambda: done() >= 3, 240)
        workers = children(begun.pid)
        begun.send_signal(signal.SIGKILL)
        begun.wait()
        answered = done()
        # The stated bounds: a call's deadline for the chief's own workers, and GONE_AFTER, here 3 s, more for others.
        until(lambda: not any(alive(pid) for pid in workers), 30)
        assert joined.wait(60) == 1
    finally:
        for process in (begun, *([] if joined is None else [joined])):
            process.kill()
            process.wait()
        out.close()
    output = (tmp_path / "out").read_text()
    assert f"worker 0-0 ended with exit code -{signal.SIGKILL:d}" in output
    assert f"{joined.pid} exits: the chief at " in output
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].startswith(f"{answered}/6 trials") or answered == 6
    results = [json.loads(line)["result"] for line in journal.read_text().splitlines() if '"result"' in line]
    assert sorted(results) == list(range(6))
    alone = search(SearchConfig.model_validate(TINY), tmp_path / "alone")
    assert [
        json.loads(line)
        for line in (tmp_path / "alone" / "journal.jsonl").read_text().splitlines()
        if "proposal" in line
    ] == [json.loads(line) for line in journal.read_text().splitlines() if '"proposal"' in line]
    shown = {line.split(",")[0]: line.split(",")[2] for line in (folder / "trials.csv").read_text().splitlines()[1:]}
    for trial in alone.trials:
        assert float(shown[str(trial.number)]) == pytest.approx(trial.score, rel=1e-4)
    assert [path.name for path in (folder / "models").iterdir()] == [f"{alone.best.number:04d}.keras"]

"""The benchmark runs every peer as asked; its figures are for people, and no test looks at a time."""

import json

import pytest

from benchmarks.speed import accuracy_times, zoo_times
from benchmarks.speed.command_line import benchmark
from benchmarks.speed.epoch_times import compare, missing, table
from benchmarks.speed.peers import PEERS
from benchmarks.speed.search_times import SMALL, SearchWorkload, jax_vmap
from benchmarks.speed.workloads import WORKLOADS, Workload

TINY = Workload("tiny", "digits", 32, hidden=(4,), epochs=2, examples=70)


def test_peers_take_turns_in_their_own_processes():
    found = compare(TINY, ["keras", "kerasnn-functional", "numpy-floor"], repeats=2)
    assert [len(figures["epochs"]) for figures in found.values()] == [4, 4, 4]
    assert found["keras"]["times_faster"] == 1
    assert all(figures["peak_bytes"] > 2**20 and figures["first_epoch_seconds"] > 0 for figures in found.values())
    assert [line.split()[0] for line in table(TINY, found).splitlines()] == ["tiny", "peer", *found]


def test_what_a_peer_raises_is_told_with_its_name():
    with pytest.raises(RuntimeError, match=r"peer numpy-floor: 'x'"):
        compare(Broken("broken", "digits", 32), ["numpy-floor"], repeats=1)


class Broken(Workload):
    def load(self):
        return {}


def test_figures_go_to_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(WORKLOADS, "tiny", TINY)
    file = tmp_path / "figures.json"
    arguments = ["--workloads", "tiny", "--peers", "numpy-floor", "--repeats", "1", "--json", str(file)]
    assert benchmark(arguments) == 0
    figures = json.loads(file.read_text())
    assert figures["workloads"]["tiny"]["numpy-floor"]["epoch_seconds"] > 0
    assert figures["versions"]["keras"].startswith("3.")
    assert "numpy-floor" in capsys.readouterr().out


@pytest.mark.parametrize("peer", PEERS)
def test_peers_name_what_they_need(peer):
    assert missing(peer) in (None, "torch", "jax")


def test_usage_errors(capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark(["--repeats", "0"])
    assert caught.value.code == 2
    assert "--repeats must be at least 1, received 0" in capsys.readouterr().err


@pytest.mark.skipif(missing("jax-scan") is not None, reason="needs JAX")
def test_jax_trains_the_members_of_a_search(tmp_path):
    workload = SearchWorkload("small", "digits", trials=3, epochs=2, space=SMALL)
    assert jax_vmap(workload, 3, tmp_path) > 0


def test_a_network_is_trained_until_its_accuracy_is_reached(monkeypatch):
    monkeypatch.setattr(accuracy_times, "ACCURACY", 0.3)
    monkeypatch.setattr(accuracy_times, "WORKLOAD", Workload("tiny", "digits", 32))
    arrays = accuracy_times.WORKLOAD.load()
    for train in (accuracy_times.plain_keras, accuracy_times.kerasnn):
        seconds, epochs = train(arrays, 0)
        assert seconds > 0
        assert 1 <= epochs < accuracy_times.EPOCHS
    found = {"keras": {"seconds": [3.0, 1.0], "epochs": [2, 4]}}
    assert accuracy_times.accuracy_table(found).splitlines()[-1].split() == ["keras", "2.0", "1.0", "3.0", "3"]
    monkeypatch.setattr(accuracy_times, "ACCURACY", 1.1)
    monkeypatch.setattr(accuracy_times, "EPOCHS", 1)
    with pytest.raises(RuntimeError, match=r"the accuracy must reach 1\.1 in 1 epochs, received 0"):
        accuracy_times.plain_keras(arrays, 0)


def test_a_model_of_the_zoo_is_timed_in_all_programs():
    found = zoo_times.compare(["lora"], repeats=1)
    figures = found["lora"]
    assert figures["times_faster"] == [figures["keras"] / figures[name] for name in ("few", "many")]
    assert len(figures["first_epoch_seconds"]) == 3
    assert [line.split()[0] for line in zoo_times.table(found).splitlines()] == ["model", "lora", "median"]

"""A run in MLflow. A stand-in with the functions that are called takes its place."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from kerasnn.config.run import RunConfig
from kerasnn.runs.train import train
from kerasnn.search.config import SearchConfig

QUIET = {"progress": "silent", "tensorboard": False, "health": False, "graph": False}


class Server:
    """Runs by id: parameters, and metrics with their steps."""

    def __init__(self):
        self.runs, self.tags, self.uri = {}, {}, None

    def set_tracking_uri(self, uri):
        self.uri = uri

    def search_runs(self, filter_string, output_format, max_results):
        found = [run for run, tags in self.tags.items() if tags["kerasnn.folder"] in filter_string]
        return [SimpleNamespace(info=SimpleNamespace(run_id=run)) for run in found]

    @contextmanager
    def start_run(self, run_id, run_name, tags):
        self.active = run_id or f"{run_name} {len(self.runs)}"
        self.runs.setdefault(self.active, ({}, []))
        self.tags[self.active] = tags
        yield

    def log_params(self, values):
        assert len(values) <= 100
        assert not self.runs[self.active][0].keys() & values.keys()
        self.runs[self.active][0].update(values)

    def log_metrics(self, values, step):
        self.runs[self.active][1].append((step, values))


def config(epochs):
    report = QUIET | {"mlflow": "sqlite:///x.db"}
    return RunConfig(network={"hidden": [4]}, training={"epochs": epochs, "compiled": "off"}, report=report)


def test_a_run_that_goes_on_stays_one_run(tmp_path, monkeypatch):
    server = Server()
    monkeypatch.setitem(sys.modules, "mlflow", server)
    train(config(1), tmp_path / "it's")
    result = train(config(2), tmp_path / "it's")
    assert server.uri == "sqlite:///x.db"
    [(parameters, metrics)] = server.runs.values()
    assert (parameters["network.hidden"], parameters["training.epochs"]) == ("[4]", "1")
    assert [step for step, _ in metrics] == [1, 1, 2, 2]
    assert metrics[2][1]["loss"] == result.history["loss"][1]
    assert metrics[3][1] == {f"test_{name}": value for name, value in result.metrics.items()}


def test_without_mlflow_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r"^report.mlflow needs MLflow: pip install 'kerasnn\[mlflow\]'$"):
        train(config(1), tmp_path / "run")


def test_a_search_refuses_it():
    with pytest.raises(ValueError, match="has no effect on a search"):
        SearchConfig(run={"report": {"mlflow": "sqlite:///x.db"}})

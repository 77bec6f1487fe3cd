"""A search that is killed at any moment goes on with the proposals and results of one that never was.

Two kills of the search of each of keras-tuner's oracles, whose trials are answered by a formula; with
KERASNN_ALL_TESTS=1 fifty of every oracle's, and as many with trials that train a config's network, and a model that a
function builds. A population always trains. KERASNN_KILLS takes another number.
"""

import json
import multiprocessing
import os
import random
import time

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from kerasnn.search.config import SearchConfig

ALL = "KERASNN_ALL_TESTS" in os.environ
KILLS = int(os.environ.get("KERASNN_KILLS", 50 if ALL else 2))
SPACE = {
    "optimizer.learning_rate": {"min": 1e-3, "max": 1e-1, "sampling": "log"},
    "network.kernel_initializer": {"choices": ["he_normal", "glorot_uniform", "orthogonal"]},
}
RUN = {
    "network": {"hidden": [4]},
    "optimizer": {"name": "sgd"},
    "training": {"epochs": 4, "batch_size": 256},
    "report": {"progress": "silent", "tensorboard": True},
}
TRIALS = {"random": 12, "grid": 12, "bayesian": 7, "hyperband": 10}
if ALL:
    TRIALS |= {"tpe": 12, "cmaes": 12, "nsga2": 12, "pbt": 16}


def config_of(oracle):
    described = {"name": "bayesian", "initial_points": 3} if oracle == "bayesian" else oracle
    settings = {"run": RUN, "space": SPACE, "oracle": described, "trials": TRIALS[oracle]}
    settings["trials_at_once"] = 20 if oracle == "hyperband" else 4
    if oracle in ("cmaes", "pbt"):
        settings["space"] = {key: SPACE[key] for key in list(SPACE)[:1]} | {
            "regularization.l2": {"min": 0.1, "max": 1.0}
        }
    if oracle == "pbt":
        settings |= {"oracle": {"name": "pbt", "members": 4, "interval": 1}, "trials_at_once": None}
    return SearchConfig.model_validate(settings)


class Answers:
    """In place of training, in pairs; it takes its time, so that kills hit it too."""

    def __init__(self, config, data):
        self.config = config

    def train(self, batch, proposals, on_epoch):
        for at in range(0, len(proposals), 2):
            time.sleep(0.1)
            yield [self.outcome(proposal) for proposal in proposals[at : at + 2]]

    def outcome(self, proposal):
        from kerasnn.search.trial import Outcome

        rate = self.config.run_with(proposal.values).optimizer.learning_rate
        return Outcome(
            proposal.number,
            "completed",
            ({"val_loss": [1 / (1 + rate) + 1 / (2 + epoch) for epoch in range(4)]},),
            0.1,
            weights=([np.zeros((64, 4)), np.zeros(4), np.zeros((4, 10)), np.zeros(10)],),
        )


def build(hp):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(4, "relu", kernel_regularizer=keras.regularizers.L2(hp.Float("l2", 0.1, 1.0))),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    return model


def run(oracle, folder, trials):
    from kerasnn.search import run_search, search

    config = config_of(oracle)
    if trials == "build":
        digits = load_digits()
        arguments = ("oracle", "trials", "trials_at_once")
        search(
            build,
            digits.data / 16,
            digits.target,
            search_dir=folder,
            validation_split=0.25,
            **{"epochs": 4, "batch_size": 256, "progress": "silent"},
            **{name: getattr(config, name) for name in arguments},
        )
        return
    if trials == "formula":
        run_search.Trainer = Answers
    run_search.search(config, folder)


def records(folder, kind):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    # A line's checksum covers the seconds of the lines before it.
    return [{**record, "checksum": None} for record in map(json.loads, lines) if kind in record]


def results(folder):
    """What was found, by trial; but for the time that it took."""
    timeless = [{**record, "seconds": None} for record in records(folder, "result")]
    return {record["result"]: record for record in timeless}


@pytest.fixture(scope="module")
def processes():
    """Processes that have TensorFlow imported, and not started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kerasnn.search.run_search", "sklearn.datasets"])
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


LONG = pytest.mark.skipif(not ALL, reason="trains long; set KERASNN_ALL_TESTS=1")


@pytest.mark.parametrize("trials", ["formula", pytest.param("config", marks=LONG), pytest.param("build", marks=LONG)])
@pytest.mark.parametrize("oracle", TRIALS)
def test_killed_searches_propose_what_whole_ones_do(oracle, trials, processes, tmp_path):
    def start(name):
        process = processes.Process(target=run, args=(oracle, tmp_path / name, trials))
        process.start()
        return process

    begin = time.monotonic()
    whole = start("whole")
    whole.join(300)
    assert whole.exitcode == 0
    seconds = time.monotonic() - begin
    draw, kills, searches = random.Random(oracle), 0, 0
    while kills < KILLS:
        # Several searches, as one would be at its end before long.
        searches += 1
        name, ended = f"killed-{searches}", False
        while not ended:
            process = start(name)
            process.join(draw.uniform(0.0, seconds) if kills < KILLS else 300)
            ended = process.exitcode is not None
            if ended:
                assert process.exitcode == 0
            else:
                process.kill()
                process.join()
                kills += 1
        assert records(tmp_path / name, "proposal") == records(tmp_path / "whole", "proposal")
        found, expected = results(tmp_path / name), results(tmp_path / "whole")
        assert sorted(found) == list(range(TRIALS[oracle]))
        for number, result in found.items():
            if oracle == "hyperband":
                # What continues a trial of which the state is lost trains from the start, among others.
                assert result["curve"] == pytest.approx(expected[number]["curve"], rel=1e-5)
            else:
                assert result == expected[number]
        [model] = (tmp_path / name / "models").iterdir()
        assert model.name == next((tmp_path / "whole" / "models").iterdir()).name
        best = "best_values.json" if trials == "build" else "best_config.json"
        for file in ("config.json", *([] if oracle == "pbt" else [best])):
            assert (tmp_path / name / file).read_text() == (tmp_path / "whole" / file).read_text()
    print(f"{trials}, {oracle}: {kills} kills in {searches} searches, whole in {seconds:.1f} s")

"""Trainings and a search to kill, and hashes of all that they end with."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

from benchmarks.chaos.child_process import Report
from kerasnn import tuners
from kerasnn.callbacks.best_model import BestModel
from kerasnn.callbacks.early_stopping import early_stopping
from kerasnn.callbacks.history import HistoryFile
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.checkpoint.training_state import TrainingState
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data, from_arrays
from kerasnn.engine.fit import fit
from kerasnn.models.from_config import compiled_network
from kerasnn.runs.train import train
from kerasnn.search.config import SearchConfig
from kerasnn.search.model_search import search_models
from kerasnn.search.result import SearchResult
from kerasnn.search.run_search import search
from kerasnn.study.config import StudyConfig
from kerasnn.study.run_study import study
from kerasnn.tensorboard.callback import TensorBoard
from tests.zoo.models import ZOO

FEATURES: dict[str, dict[str, Any]] = {
    "dropout": {"regularization.dropout": 0.3},
    "batch norm": {"regularization.batch_norm": True},
    "early stopping": {
        "training.epochs": 30,
        "training.early_stopping": {"patience": 4, "min_delta": 0.02},
        "regularization.dropout": 0.1,
    },
    "plateau": {"training.plateau": {"patience": 1, "factor": 0.5, "min_delta": 0.05}, "regularization.dropout": 0.1},
    "one-cycle": {"schedule": {"name": "one_cycle"}, "regularization.dropout": 0.1},
    "best checkpoint": {"training.monitor": "val_accuracy", "optimizer.learning_rate": 0.05},
}
MODELS = ("convolutional", "lstm", "gan", "vae", "two_outputs", "moving_average", "accumulation", "transformer")
"""Models of `tests/zoo`."""
ORACLES = ("random", "grid", "bayesian", "hyperband")
SEARCHES = (
    *(f"search, {oracle}" for oracle in ORACLES),
    *(f"build, {oracle}" for oracle in (*ORACLES, "tpe")),
    *(f"tuner, {oracle}" for oracle in ORACLES),
    "study",
)
"""Searches of runs, over a function's models, by the tuners; a study."""
EXAMPLES = 400
RUN = {"training": {"epochs": 3, "batch_size": 128}, "report": {"progress": "silent", "tensorboard": False}}
"""What searches and studies train."""
Hashes = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A training to kill.

    Args:
        data: "arrays" (a whole run of `train`), "tf.data" (`model.fit` with callbacks) or "zoo" (a model of the tests).
        feature: what has to be restored, one of `FEATURES`, or the model of the zoo.
        mode: how steps run: "plain", "compiled" or on "2 devices", which are logical CPUs.
    """

    data: str
    feature: str
    mode: str

    def __str__(self) -> str:
        return f"{self.data}, {self.feature}, {self.mode}"


CASES = [
    Case(data, feature, mode)
    for mode in ("plain", "compiled", "2 devices")
    for data in ("arrays", "tf.data")
    for feature in FEATURES
] + [Case("zoo", name, mode) for mode in ("plain", "compiled") for name in MODELS]


class _ReportBegin(keras.callbacks.Callback):
    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Report that training begins."""
        self.report()


def run_case(case: Case, folder: Path, report: Report) -> Hashes:
    """Train a case to its end, from the state in its folder if there is one.

    Args:
        case: the training.
        folder: its run folder.
        report: called when training begins.

    Returns:
        Hashes of weights, optimizer, history, best model and events.
    """
    if case.mode == "2 devices":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    if case.data == "zoo":
        return _train_model(case, folder, report)
    config = replace_at(
        RunConfig(),
        {
            "data.name": "arrays", "network.hidden": [12], "training.epochs": 12, "optimizer.learning_rate": 0.01,
            "report.progress": "silent", "report.graph": False, "report.images_every": 0, "report.histograms_every": 1,
            "report.health": False, "data.test_share": 0,
            "training.compiled": "off" if case.mode == "plain" else "on",
            "devices.strategy": "mirrored" if case.mode == "2 devices" else "one_device", **FEATURES[case.feature],
        },
    )  # fmt: skip
    generator = np.random.default_rng(0)
    x = generator.normal(size=(EXAMPLES, 16))
    labels = (x[:, :10] + generator.normal(size=(EXAMPLES, 10))).argmax(axis=1)
    data = from_arrays(x, labels, config=config.data)
    if case.data == "arrays":
        result = train(config, folder, data, callbacks=[_ReportBegin(report)])
        whole, history = result.model, result.history
    else:
        whole, history = _train_dataset(config, data, folder, case.mode, report)
    best = keras.saving.load_model(folder / "best.keras")
    return {
        "weights": _hash(variable.numpy() for variable in whole.variables),
        "optimizer": _hash(variable.numpy() for variable in whole.optimizer.variables),
        "history": _hash([json.dumps(history), (folder / "history.csv").read_text()]),
        "best model": _hash(best.get_weights()),
        "events": _hash(events(folder)),
    }


def _train_model(case: Case, folder: Path, report: Report) -> Hashes:
    model, x, y, options = ZOO[case.feature]()
    folder.mkdir(exist_ok=True)
    callbacks = [HistoryFile(folder / "history.csv"), _ReportBegin(report)]
    saved = TrainingState(folder / "state")
    with saved.on_signals():
        history = (model.fit if case.mode == "plain" else partial(fit, model))(
            x,
            y,
            **{"epochs": 60, "batch_size": 16, "shuffle": False, "verbose": 0, **options},
            **saved.resume(model, callbacks),
        )
    newest = saved.files.newest()
    assert newest is not None
    return {
        "weights": _hash(variable.numpy() for variable in model.variables),
        "state": _hash(array for group in newest["variables"].values() for array in group),
        "history": _hash([json.dumps(history.history), (folder / "history.csv").read_text()]),
    }


def _train_dataset(config: RunConfig, data: Data, folder: Path, mode: str, report: Report) -> tuple[keras.Model, Any]:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]) if mode == "2 devices" else None
    with nullcontext() if strategy is None else strategy.scope():
        model = compiled_network(replace_at(config, {"seed": 1, "devices.jit_compile": mode == "compiled"}), data)
    folder.mkdir(exist_ok=True)
    rate = LearningRate(config.schedule, config.optimizer.learning_rate, config.training.plateau)
    callbacks = [rate, BestModel(folder / "best.keras", config.monitor), HistoryFile(folder / "history.csv")]
    board = TensorBoard(folder, graph=False, images_every=0, histograms_every=1, learning_rate=rate)
    callbacks += [board, _ReportBegin(report)]
    if config.training.early_stopping is not None:
        callbacks.append(early_stopping(config.training.early_stopping))
    saved = TrainingState(folder / "state")
    dataset = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train)).shuffle(EXAMPLES, seed=7).batch(32)
    with saved.on_signals():
        history = (model.fit if strategy is None else partial(fit, model))(
            epochs=config.training.epochs,
            verbose=0,
            validation_data=(data.x_validation, data.y_validation),
            **saved.resume(model, callbacks, dataset),
        )
    return model, history.history


def run_search(name: str, folder: Path) -> Hashes:
    """Search or study to the end, from the journal in the folder if there is one.

    Args:
        name: one of `SEARCHES`.
        folder: its folder.

    Returns:
        Trials and scores, to five digits; of a study its table.
    """
    kind, _, oracle = name.partition(", ")
    if kind == "build":
        return _search_models(oracle, folder)
    if kind == "tuner":
        return _tune(oracle, folder)
    if name == "study":
        factors = {"network.hidden": [[4], [6]], "network.kernel_initializer": ["he_normal", "glorot_uniform"]}
        result = study(StudyConfig.model_validate({"run": RUN, "factors": factors, "seeds": 3}), folder)
        return {"table": result.table()}
    return _found(search(config_of_search(oracle), folder))


def config_of_search(oracle: str, **settings: Any) -> SearchConfig:
    """A search of eight small runs, with further settings."""
    space = {
        "optimizer.learning_rate": {"choices": [1e-3, 1e-2, 1e-1]},
        "regularization.dropout": {"choices": [0.0, 0.1]},
        "network.hidden": {"choices": [[4], [6]]},
    }
    config = {"space": space, "trials": 8, "trials_at_once": 2, "run": RUN, "oracle": oracle, **settings}
    return SearchConfig.model_validate(config)


def _found(found: SearchResult) -> Hashes:
    trials = sorted(found.trials, key=lambda trial: trial.number)
    return {
        "trials": json.dumps([[trial.number, trial.values, trial.status, f"{trial.score:.5g}"] for trial in trials]),
        "best": json.dumps(found.best.values),
    }


def _build(hp: keras_tuner.HyperParameters) -> keras.Model:
    layers = [keras.layers.Dense(hp.Choice("units", [4, 6]), "tanh"), keras.layers.Dropout(hp.Float("dropout", 0, 0.5))]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2, "softmax")])
    rate = hp.Float("learning_rate", 1e-3, 1e-1, step=10, sampling="log")
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    return model


def _examples() -> dict[str, Any]:
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    return {"x": x, "y": (x[:, 0] > 0).astype("int32"), "batch_size": 16, "validation_split": 0.25}


def _search_models(oracle: str, folder: Path) -> Hashes:
    """A search over a function's models, in which callbacks stop some."""
    stopping = keras.callbacks.EarlyStopping("loss", min_delta=0.01, patience=1)
    described = {"name": oracle, "initial_points": 3} if oracle == "bayesian" else oracle
    settings: dict[str, Any] = {"oracle": described, "trials": 8, "trials_at_once": 8 if oracle == "hyperband" else 3}
    settings |= {"progress": "silent", "tensorboard": False, **_examples()}
    return _found(search_models(_build, epochs=3, callbacks=[stopping], search_dir=folder, **settings))


def _tune(oracle: str, folder: Path) -> Hashes:
    """A program for keras-tuner."""
    shared: dict[str, Any] = {"seed": 4, "directory": folder.parent, "project_name": folder.name}
    kinds = {"random": "RandomSearch", "grid": "GridSearch", "bayesian": "BayesianOptimization"}
    if oracle == "hyperband":
        tuner = tuners.Hyperband(_build, "val_loss", max_epochs=4, factor=2, **shared)
    else:
        tuner = getattr(tuners, kinds[oracle])(_build, "val_loss", max_trials=8, trials_at_once=3, **shared)
    tuner.search(**_examples(), epochs=3, verbose=0)
    trials = tuner.oracle.trials.values()
    return {
        "trials": json.dumps(
            [[trial.trial_id, trial.hyperparameters.values, trial.status, f"{trial.score:.5g}"] for trial in trials]
        )
    }


def events(folder: Path) -> list[str]:
    """Every event of a run in order: part, step, tag and, of scalars and histograms, the value."""
    found = []
    for part in ("train", "validation"):
        for path in sorted((folder / part).glob("events.out.tfevents.*")):
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = Event.FromString(record)
                for value in event.summary.value:
                    content = value.tensor.tensor_content.hex() if value.HasField("tensor") else value.simple_value
                    found.append(f"{part} {event.step} {value.tag} {content}")
    return found


def _hash(parts: Iterable[Any]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()

"""Every callback on every model of the zoo: none changes a bit of the training.

`KERASNN_ALL_TESTS=1` runs all models; without it every third model runs.
"""

import io
import json
import os

import keras
import numpy as np
import pytest

from kerasnn.callbacks.best_model import BestModel
from kerasnn.callbacks.divergence import StopOnDivergence
from kerasnn.callbacks.health import Health
from kerasnn.callbacks.history import HistoryFile
from kerasnn.callbacks.layer_probe import Probe
from kerasnn.callbacks.progress import Progress
from kerasnn.tensorboard.callback import TensorBoard
from tests.zoo.models import BATCH, ZOO

NAMES = list(ZOO) if os.environ.get("KERASNN_ALL_TESTS") == "1" else list(ZOO)[1::3]
MONITORED = {"gan": "g_loss", "own_train_step": "total"}


def trained(name, further=lambda probe: []):
    """Weights and logs as bytes and text, and the probe."""
    model, x, y, options = ZOO[name]()
    settings = {"batch_size": BATCH, "epochs": 3, "shuffle": False, "verbose": 0} | dict(options)
    size = settings["batch_size"]
    probe = Probe(tuple(keras.tree.map_structure(lambda values: None if values is None else values[:size], (x, y))))
    settings["callbacks"] = [*settings.get("callbacks", ()), *further(probe)]
    history = model.fit(x, y, **settings).history
    logs = json.dumps(history, default=lambda value: np.asarray(value).tolist())
    return [logs, *map(bytes, model.get_weights())], model, probe


@pytest.mark.filterwarnings("ignore:The model does not have a `build")
@pytest.mark.parametrize("name", NAMES)
def test_callbacks_change_no_bit(tmp_path, name):
    def callbacks(probe):
        return [
            BestModel(tmp_path / "best.keras", MONITORED.get(name, "loss"), mode="min"),
            StopOnDivergence(),
            HistoryFile(tmp_path / "history.csv"),
            Health(probe),
            TensorBoard(tmp_path, probe=probe),
            Progress("lines", stream=io.StringIO()),
        ]

    watched, model, probe = trained(name, callbacks)
    assert watched == trained(name)[0]
    measured = probe.measure(model)
    assert set(measured.weights) <= set(measured.activations)
    assert (tmp_path / "best.keras").exists()

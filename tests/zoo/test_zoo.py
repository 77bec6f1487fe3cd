"""Every model of the zoo trains by kerasnn as by plain Keras, and takes every callback.

After three epochs weights agree to 1e-5 and logs to 1e-4, in mixed precision to 2e-2. Every third model runs;
`KERASNN_ALL_TESTS=1` runs all, each with every callback alone.
"""

import os

import keras
import numpy as np
import pytest

import kerasnn
from kerasnn.engine import compilation
from tests.zoo.models import BATCH, ZOO

ALL = bool(os.environ.get("KERASNN_ALL_TESTS"))
NAMES = list(ZOO) if ALL else list(ZOO)[::3]
TOLERANCE = {"mixed_bfloat16": 2e-2, "mixed_float16": 2e-3}
CALLBACKS = {
    "BestModel": lambda folder, case: kerasnn.BestModel(folder / "best.keras", monitor_of(case), mode="min"),
    "Health": lambda _, case: kerasnn.Health(first_batch(case)),
    "HistoryFile": lambda folder, _: kerasnn.HistoryFile(folder / "history.csv"),
    "LearningRate": lambda *_: kerasnn.LearningRate("cosine"),
    "Progress": lambda *_: kerasnn.Progress("silent"),
    "StopOnDivergence": lambda *_: kerasnn.StopOnDivergence(),
    "TensorBoard": lambda folder, _: kerasnn.TensorBoard(folder),
    "EarlyStopping": lambda _, case: keras.callbacks.EarlyStopping(monitor_of(case), mode="min"),
}
OWN_SCHEDULE = ("clipping", "gan")
"""Models whose optimizer has a schedule of its own, or that have several optimizers: a second owner is refused."""


def monitor_of(case):
    """A loss that the model logs: steps of its own may not call it "loss"."""
    names = case.model.metrics_names
    return "loss" if "loss" in names else names[0]


def first_batch(case):
    """As many examples as a stateful layer was built for."""
    size = case.options.get("batch_size", BATCH)
    return keras.tree.map_structure(lambda array: array[:size], (case.x,) if case.y is None else (case.x, case.y))


def trained(name, fit, epochs=3, **further):
    model, x, y, options = ZOO[name]()
    settings = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0} | dict(options) | further
    history = fit(model, x, y, **settings)
    return model, history.history


@pytest.mark.parametrize("few", [0, 2000], ids=["as many steps", "as few steps"])
@pytest.mark.parametrize("name", NAMES)
def test_trains_as_plain_keras(name, few, caplog, monkeypatch):
    monkeypatch.setattr(compilation, "FEW", few)
    tolerance = TOLERANCE.get(name, 1e-5)
    plain, expected = trained(name, keras.Model.fit)
    ours, logs = trained(name, kerasnn.fit)
    for theirs, mine in zip(plain.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=tolerance, rtol=tolerance)
    assert expected.keys() == logs.keys()
    for log, values in expected.items():
        np.testing.assert_allclose(logs[log], values, rtol=max(1e-4, tolerance), atol=tolerance, err_msg=log)
    assert not caplog.records, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("name", NAMES if ALL else ["dense", "vae"])
def test_takes_every_callback(name, callback, tmp_path):
    if callback == "LearningRate" and name in OWN_SCHEDULE:
        pytest.skip("the optimizer's learning rate has an owner")
    case = ZOO[name]()
    model, logs = trained(name, kerasnn.fit, callbacks=[CALLBACKS[callback](tmp_path, case)])
    assert all(np.isfinite(np.asarray(weight, np.float32)).all() for weight in model.get_weights())
    assert len(next(iter(logs.values()))) == (3 if callback != "EarlyStopping" else len(next(iter(logs.values()))))

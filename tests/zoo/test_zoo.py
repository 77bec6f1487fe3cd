"""Every model of the zoo trains by kerasnn as by plain Keras.

Weights agree to 1e-5 and logs to 1e-4 after three epochs; mixed precision to 2e-3. `KERASNN_ALL_TESTS=1` runs all
models over several inputs, and all callbacks on each; without it every third model runs.
"""

import os

import keras
import numpy as np
import pytest

import kerasnn
from tests.zoo.models import BATCH, ZOO

ALL = bool(os.environ.get("KERASNN_ALL_TESTS"))
NAMES = list(ZOO) if ALL else list(ZOO)[::3]
TOLERANCE = {"mixed_bfloat16": 2e-2, "mixed_float16": 2e-3}


def trained(name, fit, epochs=3, **further):
    model, x, y, options = ZOO[name]()
    settings = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0} | dict(options) | further
    history = fit(model, x, y, **settings)
    return model, history.history


def assert_equal(name, plain, ours):
    tolerance = TOLERANCE.get(name, 1e-5)
    for theirs, mine in zip(plain[0].get_weights(), ours[0].get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=tolerance, rtol=tolerance)
    assert plain[1].keys() == ours[1].keys()
    for log, values in plain[1].items():
        np.testing.assert_allclose(ours[1][log], values, rtol=max(1e-4, tolerance), atol=tolerance, err_msg=log)


@pytest.mark.parametrize("name", NAMES)
def test_trains_as_plain_keras(name, caplog):
    plain = trained(name, keras.Model.fit)
    ours = trained(name, kerasnn.fit)
    assert_equal(name, plain, ours)
    assert not caplog.records, [record.getMessage() for record in caplog.records]

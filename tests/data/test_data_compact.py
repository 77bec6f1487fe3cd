"""The compact form of a table's rows: small, and expanded to the same features everywhere."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from kerasnn.config.sections import NetworkConfig
from kerasnn.data.compact import Kept, Layout, pack
from kerasnn.data.loading import from_arrays
from kerasnn.data.table_features import TableFeatures
from kerasnn.models.building import build_model, with_preprocessing

LAYOUT = Layout((Kept("values", 2), Kept("code", 5), Kept("bits", 11)))


def test_layer_equals_numpy_in_every_precision() -> None:
    random = np.random.default_rng(0)
    bits = random.random((50, 11)) > 0.5
    codes = random.integers(-1, 5, 50)
    rows = np.column_stack([random.integers(-8, 8, (50, 2)) / 4, codes, pack(bits)]).astype(np.float32)
    expected = np.column_stack([rows[:, :2], codes[:, None] == np.arange(5), bits]).astype(np.float32)
    np.testing.assert_array_equal(LAYOUT.expand(rows), expected)
    for dtype in ("float32", "bfloat16", "float16"):
        layer = TableFeatures(LAYOUT.columns, dtype=dtype)
        for jit_compile in (True, False):
            found = tf.function(layer, jit_compile=jit_compile)(tf.cast(rows, dtype))
            assert found.dtype == dtype
            np.testing.assert_array_equal(tf.cast(found, "float32"), expected)
    assert TableFeatures.from_config(layer.get_config()).layout == LAYOUT


def test_categories_and_words_take_few_numbers() -> None:
    words = np.random.default_rng(0).choice([f"word{number}" for number in range(40)], (300, 6))
    frame = pd.DataFrame({"note": [" ".join(row) for row in words], "town": [f"town {row % 60}" for row in range(300)]})
    data = from_arrays(frame, np.arange(300) % 2, task="binary")
    assert data.layout is not None
    assert (data.layout.features, data.input_shape) == (100, (6,))
    assert data.features(data.x_train).shape == (len(data.x_train), 100)
    np.testing.assert_array_equal(
        data.features(data.prepare(frame[:9])), data.preparation(data.preparation.raw(frame[:9]))
    )


@pytest.mark.parametrize("style", ["sequential", "functional", "subclassed"])
def test_network_equals_the_saved_model(style: str) -> None:
    frame = pd.DataFrame({"town": ["Ulm", "Bern", None] * 20, "size": np.arange(60.0)})
    data = from_arrays(frame, np.arange(60) % 2, task="binary")
    network = build_model(NetworkConfig(hidden=(4,)), data.input_shape, 1, style, task="binary", layout=data.layout)
    assert network.count_params() == (4 + 1) * 4 + 5
    model = with_preprocessing(network, data.preprocessing(), data.raw_shape)
    kept = data.prepare(frame)
    np.testing.assert_array_equal(model.predict(frame, verbose=0), network.predict(kept, verbose=0))
    assert not any(isinstance(layer, TableFeatures) for layer in model.network.layers)
    keras.backend.clear_session()

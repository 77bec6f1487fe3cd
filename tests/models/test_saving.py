"""The same model leaves the same bytes, which Keras reads."""

import json
import zipfile

import keras
import numpy as np

from kerasnn.models.saving import save_model


def shared(addresses):
    """A model that uses one layer and one initializer twice; objects in between move them in memory."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    addresses.append([object() for _ in range(1000)])
    initializer = keras.initializers.HeNormal(seed=1)
    dense = keras.layers.Dense(3, kernel_initializer=initializer)
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(1, kernel_initializer=initializer)(dense(dense(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    addresses.append(initializer)
    return model


def test_a_model_file_has_the_same_bytes(tmp_path):
    kept = []
    for name in "ab":
        save_model(shared(kept), tmp_path / f"{name}.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(archive.read("metadata.json")) == {"keras_version": keras.__version__}
        assert '"shared_object_id": 1}' in archive.read("config.json").decode()
    model = keras.saving.load_model(tmp_path / "a.keras")
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(model(x), shared(kept)(x))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.keras", "b.keras"]

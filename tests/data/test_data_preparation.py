"""Scaling and shaping: the statistics, and that Keras layers do what numpy did, also from a file."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from kerasnn.config.sections import DataConfig
from kerasnn.data.loading import from_arrays, load_data

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (60, 6, 5), np.uint8)
COLOURED = RANDOM.integers(0, 256, (60, 6, 5, 3), np.uint8)
TABLE = RANDOM.normal(size=(60, 5)) * [1, 1e-9, 1e6, 0, 3] + [0, 5e-9, 2e3, 0.1, 1990]
LABELS = np.arange(60) % 3


def make(x: np.ndarray, scaling: str, flatten: bool = True, **fields: object):
    return from_arrays(x, LABELS, config=DataConfig(name="arrays", scaling=scaling, flatten=flatten, **fields))


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("scaling", ["none", "unit", "standardize"])
@pytest.mark.parametrize(
    "x", [BYTES, COLOURED, BYTES / 7.0, TABLE, TABLE > 0], ids=["grey", "rgb", "float", "table", "bool"]
)
def test_layers_equal_numpy_and_reload(tmp_path: Path, x: np.ndarray, scaling: str, flatten: bool) -> None:
    data = make(x, scaling, flatten)
    raw = x[:7] if x.dtype == np.uint8 else x[:7].astype(np.float32)
    prepared = data.prepare(raw)
    assert (prepared.shape, prepared.dtype) == ((7, *data.input_shape), np.float32)
    model = keras.Sequential([keras.Input(data.raw_shape), *data.preprocessing(), keras.layers.Identity()])
    model.save(tmp_path / "model.keras")
    for network in (model, keras.models.load_model(tmp_path / "model.keras")):
        outputs = keras.ops.convert_to_numpy(network(raw))
        np.testing.assert_allclose(outputs, prepared, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(network.predict(raw, batch_size=3, verbose=0), prepared, rtol=1e-6, atol=1e-6)


def test_layers_keep_float32_in_mixed_precision() -> None:
    data = make(TABLE, "standardize")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input(data.raw_shape), *data.preprocessing()])
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(model(TABLE.astype(np.float32)), data.prepare(TABLE), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "flatten", "shape"),
    [
        (BYTES, True, (30,)),
        (BYTES, False, (6, 5, 1)),
        (COLOURED, True, (90,)),
        (COLOURED, False, (6, 5, 3)),
        (TABLE, True, (5,)),
        (TABLE, False, (5,)),
    ],
)
def test_shapes(x: np.ndarray, flatten: bool, shape: tuple[int, ...]) -> None:
    data = make(x, "unit", flatten)
    assert data.input_shape == data.x_train.shape[1:] == data.x_test.shape[1:] == shape
    assert data.raw_shape == x.shape[1:]
    assert data.image_shape == (None if x is TABLE else x.shape[1:])


def test_nothing_to_do_is_no_layer() -> None:
    assert make(TABLE, "none").preprocessing() == []
    assert [type(layer).__name__ for layer in make(BYTES, "unit").preprocessing()] == ["Rescaling", "Flatten"]


def test_unit_of_bytes_and_digits_is_the_full_scale() -> None:
    data = make(BYTES // 2, "unit")
    np.testing.assert_allclose(data.prepare(BYTES), BYTES.reshape(60, 30) / 255, atol=1e-7)
    digits = load_data(DataConfig())
    np.testing.assert_array_equal(digits.prepare(np.full((1, 8, 8), 16)), np.ones((1, 64)))


def test_unit_of_a_table_is_the_training_part_per_column() -> None:
    data = make(TABLE, "unit")
    varying = [0, 1, 2, 4]
    np.testing.assert_allclose(data.x_train[:, varying].min(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train[:, varying].max(axis=0), 1, atol=1e-6)
    assert (data.x_train[:, 3] == 0).all()


def test_standardize_is_the_training_part_per_column() -> None:
    data = make(TABLE, "standardize")
    np.testing.assert_allclose(data.x_train.mean(axis=0, dtype=float), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std(axis=0, dtype=float), [1, 1, 1, 0, 1], rtol=1e-5)
    np.testing.assert_allclose(data.prepare(TABLE + np.array([0, 0, 0, 2, 0]))[:, 3], 2, rtol=1e-6)


def test_standardize_of_images_is_over_all_pixels_or_per_channel() -> None:
    x = BYTES.copy()
    x[:, 0, 0] = 9
    data = make(x, "standardize")
    assert data.preparation.center.shape == ()
    assert data.x_train.mean(dtype=float) == pytest.approx(0, abs=1e-6)
    assert data.x_train.std(dtype=float) == pytest.approx(1, abs=1e-6)
    coloured = make(COLOURED // [1, 2, 3], "standardize", flatten=False)
    np.testing.assert_allclose(coloured.x_train.mean(axis=(0, 1, 2), dtype=float), 0, atol=1e-6)
    np.testing.assert_allclose(coloured.x_train.std(axis=(0, 1, 2), dtype=float), 1, atol=1e-6)


@pytest.mark.parametrize("scaling", ["unit", "standardize"])
def test_statistics_ignore_the_other_parts(scaling: str) -> None:
    config = DataConfig(name="arrays", scaling=scaling)
    alone = from_arrays(TABLE, LABELS, TABLE, LABELS, TABLE, LABELS, config=config)
    other = from_arrays(TABLE, LABELS, TABLE * 100, LABELS, TABLE - 50, LABELS, config=config)
    np.testing.assert_array_equal(alone.x_train, other.x_train)
    assert not np.array_equal(alone.x_test, other.x_test)
    split = make(TABLE, scaling)
    raw = split.x_train / split.preparation.factor + split.preparation.center
    expected = raw.min(axis=0) if scaling == "unit" else raw.mean(axis=0)
    np.testing.assert_allclose(split.preparation.center, expected, rtol=1e-4)


def test_values_that_differ_beyond_float32_are_constant() -> None:
    x = np.stack([1.7e9 + np.arange(60) / 60, np.arange(60)], axis=1)
    for scaling in ("unit", "standardize"):
        assert (make(x, scaling).prepare(x + 256)[:, 0] == 256).all()


@pytest.mark.parametrize(
    ("x", "error", "line"),
    [
        (BYTES[0], ValueError, "x must have the shape (examples, 6, 5); received (6, 5)"),
        (BYTES.reshape(60, 30), ValueError, "x must have the shape (examples, 6, 5); received (60, 30)"),
        (BYTES[:0], ValueError, "x must hold at least one example and one feature; received the shape (0, 6, 5)"),
        (
            np.full((1, 6, 5), np.nan),
            ValueError,
            "x must be finite and at most 1e+38 in absolute value; x[0, 0, 0] is nan (30 such",
        ),
        (BYTES.astype(str), TypeError, "x must be an array of numbers; received dtype <U3 (first value "),
    ],
)
def test_refused_raw_examples(x: np.ndarray, error: type[Exception], line: str) -> None:
    with pytest.raises(error, match="^" + re.escape(line)):
        make(BYTES, "unit").prepare(x)

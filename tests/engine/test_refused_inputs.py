"""What would train to garbage, or not at all, is refused in one line before the first step."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasnn
from kerasnn.config.monitor import Plateau
from kerasnn.search.config import SearchConfig
from kerasnn.search.run_search import search

X = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
Y = np.arange(24) % 3


def network(loss="sparse_categorical_crossentropy", activation="softmax", units=3, rate=0.01, first=(), shape=(4,)):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), *first, keras.layers.Dense(units, activation)])
    model.compile(keras.optimizers.SGD(rate), loss)
    return model


def at(array, index, value):
    changed = np.array(array, dtype=float)
    changed[index] = value
    return changed


def endless():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()


LOGITS = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
PIXELS = np.arange(24 * 16, dtype=np.uint8).reshape(24, 4, 4)

FIT = {
    # features
    "NaN feature": ({"x": at(X, (3, 1), np.nan)}, {}, r"x must be finite .*; x\[3, 1\] is nan"),
    "infinite feature": ({"x": at(X, (3, 1), -np.inf)}, {}, r"x\[3, 1\] is -inf"),
    "feature beyond float32": ({"x": at(X, (0, 0), 1e39)}, {}, r"x\[0, 0\] is 1e\+39"),
    "text features": ({"x": np.full((24, 4), "a")}, {}, "x must hold numbers; received dtype <U1|x is of type"),
    "complex features": ({"x": X.astype(complex)}, {}, "x must hold numbers; received dtype complex128"),
    "no examples": ({"x": X[:0], "y": Y[:0]}, {}, r"x must hold at least one example; received the shape \(0, 4\)"),
    "no features": ({"x": X[:, :0]}, {}, r"received the shape \(24, 0\)"),
    "a single value": ({"x": np.float32(1), "y": Y}, {}, "along the first axis"),
    "unequal lengths": ({"y": Y[:20]}, {}, "examples must be equally many; received 24 of x and 20 of y"),
    "bytes of pixels": ({"x": PIXELS, "shape": (4, 4)}, {"first": [keras.layers.Flatten()]}, "x must be scaled"),
    "floats of pixels": ({"x": PIXELS.reshape(24, 16).astype("float32")}, {"shape": (16,)}, "x must be scaled"),
    # labels
    "label beyond the classes": ({"y": Y + 1}, {}, "labels must be 0 to 2 for 3 classes; received 3"),
    "negative label": ({"y": Y - 1}, {}, "labels must be 0 to 2 for 3 classes; received -1"),
    "broken label": ({"y": Y + 0.5}, {}, "labels must be whole numbers for a sparse loss; received 0.5"),
    "NaN label": ({"y": at(Y, 5, np.nan)}, {}, r"y\[5\] is nan"),
    "one-hot for a sparse loss": ({"y": np.eye(4)[Y]}, {"units": 1, "activation": "sigmoid"}, "labels must be 0 to 0"),
    "labels for a one-hot loss": ({}, {"loss": "categorical_crossentropy"}, r"y must have the output's shape"),
    "a row where a value is due": (
        {"y": X},
        {"loss": "mse", "activation": None, "units": 1},
        r"output's shape \(examples, 1\), received \(examples, 4\)",
    ),
    "a value where a row is due": ({"y": X[:, 0]}, {"loss": "mse", "activation": None}, r"received \(examples\)"),
    "infinite target": ({"y": at(X, (0, 0), np.inf)}, {"loss": "mse", "activation": None, "units": 4}, r"y\[0, 0\]"),
    # weights
    "NaN sample weight": ({"sample_weight": at(np.ones(24), 0, np.nan)}, {}, r"sample_weight\[0\] is nan"),
    "all weights 0": ({"sample_weight": np.zeros(24)}, {}, "sample weights must not all be 0"),
    "too few sample weights": ({"sample_weight": np.ones(5)}, {}, "received 24 of x and 5 of sample_weight"),
    "negative class weight": ({"class_weight": {0: 1, 1: -1, 2: 1}}, {}, "received -1 for class 1"),
    "NaN class weight": ({"class_weight": {0: 1, 1: math.nan, 2: 1}}, {}, "received nan for class 1"),
    "class weights 0": ({"class_weight": {0: 0, 1: 0, 2: 0}}, {}, "must not be 0 for every class"),
    "class weights in a list": ({"class_weight": [1, 2, 3]}, {}, "class_weight must map each class"),
    # counts
    "batch_size 0": ({"batch_size": 0}, {}, "batch_size must be at least 1; received 0"),
    "batch_size -1": ({"batch_size": -1}, {}, "batch_size must be at least 1; received -1"),
    "broken batch_size": ({"batch_size": 2.5}, {}, "batch_size must be a whole number; received 2.5"),
    "batch_size True": ({"batch_size": True}, {}, "batch_size must be a whole number; received True"),
    "negative epochs": ({"epochs": -1}, {}, "epochs must be 0 or above; received -1"),
    "broken epochs": ({"epochs": 1.5}, {}, "epochs must be a whole number; received 1.5"),
    "negative initial_epoch": ({"initial_epoch": -2}, {}, "initial_epoch must be 0 or above; received -2"),
    "negative seed": ({"seed": -1}, {}, "seed must be 0 or above; received -1"),
    "no steps": ({"steps_per_epoch": 0}, {}, "steps_per_epoch must be at least 1; received 0"),
    "validation_split 1": (
        {"validation_split": 1.0},
        {},
        "validation_split must be at least 0 and below 1; received 1",
    ),
    "validation_split -0.1": ({"validation_split": -0.1}, {}, "below 1; received -0.1"),
    # validation part
    "NaN in validation": ({"validation_data": (at(X, (0, 0), np.nan), Y)}, {}, "validation x must be finite"),
    "labels of validation": ({"validation_data": (X, Y + 1)}, {}, "validation labels must be 0 to 2"),
    "lengths of validation": ({"validation_data": (X, Y[:4])}, {}, "24 of validation x and 4 of validation y"),
    # datasets
    "endless dataset": ({"x": endless(), "y": None}, {}, "steps_per_epoch must be given for a dataset that repeats"),
    "empty dataset": ({"x": endless().take(0), "y": None}, {}, "x must hold at least one batch"),
    "endless validation": ({"validation_data": endless()}, {}, "validation_steps must be given for a dataset"),
    # the model
    "negative rate": ({}, {"rate": -0.1}, "learning rate must be finite and not negative; received -0.1"),
    "NaN rate": ({}, {"rate": math.nan}, "learning rate must be finite and not negative; received nan"),
    "infinite rate": ({}, {"rate": math.inf}, "learning rate must be finite and not negative; received inf"),
    "logits into a loss on probabilities": ({}, {"activation": None}, "needs probabilities, received a linear output"),
    "probabilities into a loss on logits": ({}, LOGITS, "needs a linear output, received softmax"),
    "logits into binary crossentropy": (
        {"y": Y % 2},
        {"loss": "binary_crossentropy", "activation": None, "units": 1},
        "end with sigmoid, or give the loss from_logits=True",
    ),
    "softmax over one unit": ({"y": Y * 0}, {"units": 1}, "softmax over a single unit is always 1"),
}


@pytest.mark.parametrize("case", FIT)
def test_fit_refuses(case):
    changes, built, message = FIT[case]
    changes = dict(changes)
    model = network(**{"shape": changes.pop("shape", (4,))} | built)
    before = [weight.copy() for weight in model.get_weights()]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        kerasnn.fit(model, **{"x": X, "y": Y, "verbose": 0} | changes)
    assert "\n" not in str(error.value)
    assert all(map(np.array_equal, before, model.get_weights()))


EVALUATE = {
    "NaN feature": ({"x": at(X, (3, 1), np.nan)}, r"x\[3, 1\] is nan"),
    "label beyond the classes": ({"y": Y + 1}, "labels must be 0 to 2 for 3 classes; received 3"),
    "batch_size 0": ({"batch_size": 0}, "batch_size must be at least 1; received 0"),
    "endless dataset": ({"x": endless(), "y": None}, "steps must be given for a dataset"),
}


@pytest.mark.parametrize("case", EVALUATE)
def test_evaluate_refuses(case):
    changes, message = EVALUATE[case]
    with pytest.raises(ValueError, match=message) as error:
        kerasnn.evaluate(network(), **{"x": X, "y": Y, "verbose": 0} | changes)
    assert "\n" not in str(error.value)


ARRAYS = {
    "NaN": ((at(X, (3, 1), np.nan), Y), r"x_train\[3, 1\] is nan"),
    "a column of text": ((np.full((24, 4), "a"), Y), "x_train must be an array of numbers"),
    "one class": ((X, Y * 0), "must hold at least two classes"),
    "a class left out": ((X, Y * 2), "without gaps; 1 is missing"),
    "ragged rows": (([[1.0], [1.0, 2.0]], [0, 1]), "rows of different lengths"),
    "masked values": ((np.ma.masked_greater(X, 1), Y), "masked values"),
    "lengths": ((X, Y[:3]), "x_train has 24 examples and y_train has 3"),
    "soft labels": ((X, np.eye(2)[Y % 2] * 0.4 + 0.3), "soft labels are not supported"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_refuse(case):
    arrays, message = ARRAYS[case]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        kerasnn.from_arrays(*arrays)
    assert "\n" not in str(error.value)


RUN = {
    "raw pixels": ({"data.scaling": "none"}, "data.scaling none leaves x_train as it is, but x_train must be scaled"),
    "class weights of other classes": ({"training.class_weight": {0: 1.0}}, "must give a weight to each class"),
    "a task that the data is not for": ({"task": "binary"}, "data must be for the run's task 'binary'"),
}


@pytest.mark.parametrize("case", RUN)
def test_train_refuses(tmp_path, case):
    changes, message = RUN[case]
    arrays = kerasnn.DataConfig(name="arrays", scaling=changes.get("data.scaling", "unit"))
    data = kerasnn.from_arrays(PIXELS, Y, config=arrays)
    run = kerasnn.replace_at(kerasnn.RunConfig(data=arrays), changes)
    with pytest.raises(ValueError, match=message) as error:
        kerasnn.train(run, tmp_path / "run", data)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


SEARCHES = {
    "no such key": ({"optimizer.rate": {"choices": [1]}}, "space must name keys of a run|rate"),
    "value out of range": ({"optimizer.learning_rate": {"choices": [-1.0, 0.1]}}, "learning_rate must be"),
    "bounds the wrong way": ({"optimizer.learning_rate": {"min": 1.0, "max": 0.1}}, "min"),
    "log from 0": ({"optimizer.learning_rate": {"min": 0.0, "max": 0.1, "sampling": "log"}}, "log"),
    "nothing to choose": ({"optimizer.learning_rate": {"choices": []}}, "choices"),
    "no such activation": ({"network.activation": {"choices": ["relo", "tanh"]}}, "relo"),
}


@pytest.mark.parametrize("case", SEARCHES)
def test_search_refuses(tmp_path, case):
    space, message = SEARCHES[case]
    with pytest.raises(ValueError, match=message) as error:
        search(SearchConfig(space=space), tmp_path / "search")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "search").exists()


def test_the_table_is_long_enough():
    assert len(list(itertools.chain(FIT, EVALUATE, ARRAYS, RUN, SEARCHES))) >= 60


@pytest.mark.parametrize("first", [[keras.layers.Rescaling(1 / 255)], [keras.layers.Embedding(256, 2)]])
def test_pixels_are_fine_where_the_network_scales_them(first):
    model = network(first=[*first, keras.layers.Flatten()], shape=(16,))
    history = kerasnn.fit(model, PIXELS.reshape(24, 16), Y, verbose=0)
    assert np.isfinite(history.history["loss"][0])


@pytest.mark.parametrize(
    ("y", "built"),
    [
        (X[:, :1], {"loss": "mse", "activation": None, "units": 1}),
        (X[:, 0], {"loss": "mse", "activation": None, "units": 1}),
        (Y.astype(np.float32), {}),
        (Y[:, None], {}),
        (np.eye(3)[Y], {"loss": "categorical_crossentropy"}),
        (np.eye(3)[Y], {"loss": keras.losses.CategoricalCrossentropy(from_logits=True), "activation": None}),
        (Y, LOGITS | {"activation": None}),
        (Y, {"rate": 0.0}),
    ],
)
def test_what_keras_trains_well_is_accepted(y, built):
    assert np.isfinite(kerasnn.fit(network(**built), X, y, verbose=0).history["loss"][0])


class LogsAScore(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["val_score"] = 1.0


FOLLOW_VALIDATION = {
    "EarlyStopping": lambda folder: keras.callbacks.EarlyStopping(),
    "ReduceLROnPlateau": lambda folder: keras.callbacks.ReduceLROnPlateau("val_accuracy"),
    "ModelCheckpoint": lambda folder: keras.callbacks.ModelCheckpoint(folder / "m.keras", save_best_only=True),
    "BestModel": lambda folder: kerasnn.BestModel(folder / "m.keras"),
    "LearningRate": lambda folder: kerasnn.LearningRate(plateau=Plateau()),
}


@pytest.mark.parametrize("kind", FOLLOW_VALIDATION)
@pytest.mark.parametrize("compiled", ["on", "off"])
def test_validation_metrics_need_validation_data(tmp_path, kind, compiled):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["accuracy"])
    x, y = np.ones((4, 2)), np.ones(4)
    with pytest.raises(
        ValueError, match=rf"^{kind} follows 'val_\w+', which needs validation_data or validation_split$"
    ):
        kerasnn.fit(model, x, y, verbose=0, compiled=compiled, callbacks=[FOLLOW_VALIDATION[kind](tmp_path)])
    kerasnn.fit(model, x, y, verbose=0, validation_split=0.5, callbacks=[FOLLOW_VALIDATION[kind](tmp_path)])


def test_a_callback_may_log_the_metric_that_another_follows(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    further = [
        keras.callbacks.EarlyStopping("val_score", mode="max"),
        keras.callbacks.ModelCheckpoint(tmp_path / "m.keras"),
    ]
    kerasnn.fit(model, np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[LogsAScore(), *further])

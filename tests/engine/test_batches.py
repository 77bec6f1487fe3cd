"""Batches of tf.data, PyDataset and generators train in blocks with the numbers, calls and warnings of plain Keras."""

import itertools
import threading
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import kerasnn
from kerasnn.attributes import kept_with
from kerasnn.engine import chunks
from kerasnn.engine.chunks import PythonBatches

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(75, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0.5)
WEIGHTS = RNG.uniform(size=75).astype("float32")
BATCH = 8


def network(steps_per_execution=1):
    keras.utils.set_random_seed(1)
    layers = [L.Dense(8, "relu"), L.Dropout(0.3), L.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(
        "adam",
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )
    return model


class Table(keras.utils.PyDataset):
    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows], WEIGHTS[rows]

    def on_epoch_begin(self):
        self.calls.append("begin")

    def on_epoch_end(self):
        self.calls.append("end")


def of_sizes(*sizes):
    for first, size in enumerate(sizes):
        yield X[first : first + size], Y[first : first + size]


def generated(count=None):
    for index in itertools.count() if count is None else range(count):
        first = index * BATCH % 64
        yield X[first : first + BATCH], Y[first : first + BATCH]


def rows(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays or (X, Y))


def filtered():
    return rows().filter(lambda x, y: x[2] > 0).batch(BATCH)


INPUTS = {
    "ragged last batch": lambda: {"x": rows().batch(BATCH)},
    "static size": lambda: {"x": rows().batch(BATCH, drop_remainder=True).map(lambda x, y: (x * 2, y)).prefetch(1)},
    "shuffled": lambda: {"x": rows().shuffle(75, seed=3).batch(BATCH), "initial_epoch": 1},
    "shuffled anew": lambda: {"x": rows().shuffle(75, seed=3).batch(BATCH), "epochs": 4},
    "shuffled anew, steps": lambda: {
        "x": rows().shuffle(75, seed=3).batch(BATCH).repeat(),
        "steps_per_epoch": 7,
        "epochs": 4,
        "validation_data": rows().shuffle(75, seed=4).batch(BATCH),
    },
    "validated by tf.data": lambda: {"x": rows().batch(BATCH), "validation_data": rows().take(30).batch(7)},
    "validated by arrays": lambda: {"x": rows().batch(BATCH), "validation_data": (X[:30], Y[:30])},
    "arrays validated by tf.data": lambda: {
        "x": X[:40],
        "y": Y[:40],
        "batch_size": 8,
        "validation_data": rows().batch(7),
    },
    "repeated": lambda: {
        "x": rows().batch(BATCH).repeat(),
        "steps_per_epoch": 4,
        "validation_data": rows().batch(BATCH).repeat(),
        "validation_steps": 3,
        "validation_freq": 2,
    },
    "steps across the end": lambda: {"x": rows().shuffle(75, seed=3).batch(BATCH), "steps_per_epoch": 4, "epochs": 4},
    "sample weights": lambda: {"x": rows(X, Y, WEIGHTS).batch(BATCH)},
    "class weights": lambda: {"x": rows().batch(BATCH), "class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
    "unknown length": lambda: {"x": filtered(), "validation_data": filtered()},
    "unknown length, steps": lambda: {"x": filtered(), "steps_per_epoch": 3, "epochs": 4},
    "PyDataset": lambda: {"x": Table(), "validation_data": Table()},
    "PyDataset with workers": lambda: {"x": Table(workers=2)},
    "generators": lambda: {
        "x": generated(),
        "steps_per_epoch": 4,
        "validation_data": generated(),
        "validation_steps": 2,
    },
    "generator of many sizes": lambda: {"x": of_sizes(8, 8, 5, 8, 12, 3, 7, 40, 8, 5), "steps_per_epoch": 5},
    "generator that ends": lambda: {"x": generated(10), "steps_per_epoch": 4},
}
BY_BATCH = ("ragged last batch", "steps across the end", "unknown length", "PyDataset", "generators")


class Recorder(keras.callbacks.Callback):
    """Calls and logs by epoch, which leaves blocks whole."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append((epoch, dict(self.params)))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append((epoch, dict(logs)))


class BatchRecorder(Recorder):
    """Every call of a batch, too."""

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append((batch, dict(logs)))

    def on_test_batch_end(self, batch, logs=None):
        self.calls.append((batch, dict(logs)))


def trained(fit, data, recorder, steps_per_execution=1):
    model, options = network(steps_per_execution), data()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, **{"epochs": 2, "shuffle": False, "verbose": 0, "callbacks": [recorder]} | options)
    return {
        "weights": model.get_weights(),
        "updates": int(model.optimizer.iterations.numpy()),
        "calls": recorder.calls,
        "warnings": [str(warning.message) for warning in caught],
        "data": getattr(options["x"], "calls", None),
    }


@pytest.mark.parametrize(
    ("name", "recorder", "steps"),
    [(name, Recorder, 1) for name in INPUTS]
    + [(name, BatchRecorder, 1) for name in BY_BATCH]
    + [(name, BatchRecorder, 4) for name in ("ragged last batch", "unknown length")],
)
def test_numbers_and_calls_are_those_of_plain_keras(name, recorder, steps, caplog):
    plain, ours = (trained(fit, INPUTS[name], recorder(), steps) for fit in (keras.Model.fit, kerasnn.fit))
    for theirs, mine in zip(plain.pop("weights"), ours.pop("weights"), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    for theirs, mine in zip(plain.pop("calls"), ours.pop("calls"), strict=True):
        np.testing.assert_equal(np.shape(mine), np.shape(theirs))
        keras.tree.assert_same_structure(theirs, mine)
        for value, expected in zip(keras.tree.flatten(mine), keras.tree.flatten(theirs), strict=True):
            assert value == (pytest.approx(expected, rel=1e-5) if isinstance(expected, float) else expected)
    assert ours == plain
    assert "plain Keras" not in caplog.text


def test_batches_run_in_blocks(monkeypatch):
    """A callback of kerasnn, which needs no single batches, is called once for the first eight of ten short steps, once
    for the ninth, and once for the last, which has another size."""
    monkeypatch.setattr(chunks, "SECONDS", 60.0)
    ends = []

    class Blocks(kerasnn.Progress):
        def on_train_batch_end(self, batch, logs=None):
            ends.append(batch)

    Blocks.__module__ = "kerasnn.tests"
    kerasnn.fit(network(), rows().batch(BATCH), shuffle=False, verbose=0, callbacks=[Blocks("silent")], compiled="on")
    assert ends == [7, 8, 9]


def test_ragged_and_sparse_batches():
    keras.utils.set_random_seed(1)
    lines = tf.ragged.constant([[1, 2, 3], [4], [5, 6], [7, 8, 9, 1]] * 4)
    results = []
    for fit in (keras.Model.fit, kerasnn.fit):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((None,), dtype="int32", ragged=True)
        embedded = L.Embedding(10, 4)(inputs)
        model = keras.Model(inputs, L.Dense(1)(L.Lambda(lambda x: tf.reduce_mean(x, axis=1))(embedded)))
        model.compile("sgd", "mse")
        dataset = tf.data.Dataset.from_tensor_slices((lines, np.ones(16, "float32"))).batch(3)
        results.append(fit(model, dataset, epochs=2, shuffle=False, verbose=0).history["loss"])
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_sequences_of_many_lengths_trace_once():
    dataset = tf.data.Dataset.from_generator(
        lambda: ((np.ones((4, length, 2)), np.ones(4)) for length in range(2, 9)),
        output_signature=(tf.TensorSpec((None, None, 2)), tf.TensorSpec((None,))),
    )
    model = keras.Sequential([keras.Input((None, 2)), L.GRU(2), L.Dense(1)])
    model.compile("sgd", "mse")
    kerasnn.fit(model, dataset, steps_per_epoch=7, shuffle=False, verbose=0, compiled="on")
    assert kept_with(model)["train_step on batches"].traces == 1


def test_the_input_s_error_reaches_the_user_after_the_steps_before_it():
    class Broken(Table):
        def __getitem__(self, index):
            if index == 5:
                raise ZeroDivisionError("no such row")
            return super().__getitem__(index)

    weights = []
    # Plain Keras's error is tf.data's, which has the input's name in its text.
    for fit, error in ((keras.Model.fit, tf.errors.OpError), (kerasnn.fit, ZeroDivisionError)):
        model = network()
        with pytest.raises(error, match="no such row"):
            fit(model, Broken(), shuffle=False, verbose=0)
        weights.append(model.get_weights())
    assert int(model.optimizer.iterations.numpy()) == 5
    for theirs, mine in zip(*weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_no_thread_reads_on_when_training_has_ended():
    class Endless(Table):
        """More batches than an epoch takes."""

        def __len__(self):
            return 10_000

        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index % 3)

    read = []
    kerasnn.fit(network(), Endless(), steps_per_epoch=2, epochs=2, shuffle=False, verbose=0)
    count = len(read)
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]
    assert len(read) == count


def test_whoever_takes_a_chunk_is_not_bound_to_its_device():
    found = PythonBatches(of_sizes(8, 8), steps=2).chunks()
    next(found)
    assert context.context().device_name in (None, "")
    found.close()


def test_workers_of_a_dataset_without_end_rest_between_epochs():
    class Endless(Table):
        num_batches = None

        def __getitem__(self, index):
            time.sleep(0.015)
            return super().__getitem__(index % 10)

    class Waits(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            time.sleep(0.1)

    history = kerasnn.fit(
        network(), Endless(workers=2), steps_per_epoch=3, epochs=4, shuffle=False, verbose=0, callbacks=[Waits()]
    )
    assert len(history.epoch) == 4


def test_a_generator_is_read_as_far_as_it_is_needed():
    """Keras reads ahead by as much as tf.data sees fit."""
    generator = generated()
    kerasnn.fit(network(), generator, steps_per_epoch=5, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(next(generator)[0], X[16:24])


def programs(model):
    return {name for name, program in kept_with(model).items() if getattr(program, "traces", 0)}


def test_an_error_of_tf_data_comes_after_the_steps_before_it():
    def checked(x, y, index):
        with tf.control_dependencies([tf.debugging.assert_less(index, np.int64(5), "no such row")]):
            return tf.identity(x), y

    weights = []
    for fit in (keras.Model.fit, kerasnn.fit):
        model, batches = network(), rows(X, Y).batch(BATCH)
        dataset = tf.data.Dataset.zip((batches, tf.data.Dataset.range(10)))
        with pytest.raises(tf.errors.InvalidArgumentError, match="no such row"):
            fit(model, dataset.map(lambda batch, index: checked(*batch, index)), shuffle=False, verbose=0)
        weights.append(model.get_weights())
    assert programs(model) == {"train_step"}
    assert int(model.optimizer.iterations.numpy()) == 5
    for theirs, mine in zip(*weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [None, 5])
def test_what_a_callback_changes_between_epochs_is_read_in_the_next(steps):
    as_written = tf.data.Options()
    # Else tf.data reads ahead by itself, in plain Keras too.
    as_written.experimental_optimization.inject_prefetch = False

    class Grows(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            scale.assign(epoch + 1.0)

    losses = []
    for fit in (keras.Model.fit, kerasnn.fit):
        scale = tf.Variable(0.0)
        dataset = rows().batch(BATCH).map(lambda x, y, scale=scale: (x * scale, y)).with_options(as_written)
        model = network()
        options = {"callbacks": [Grows()], "epochs": 3, "steps_per_epoch": steps, "shuffle": False, "verbose": 0}
        losses.append(fit(model, dataset.repeat() if steps else dataset, **options).history["loss"])
    assert programs(model) == {"train_step"}
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_learning_rates_of_every_update():
    logs = []
    for data in ({"x": X[:72], "y": Y[:72], "batch_size": BATCH}, {"x": rows().take(72).batch(BATCH)}):
        model = network()
        rate = kerasnn.LearningRate({"name": "one_cycle"})
        kerasnn.fit(model, **data, epochs=2, shuffle=False, verbose=0, callbacks=[rate], compiled="on")
        logs.append(model.get_weights())
    for theirs, mine in zip(*logs, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:`shuffle=True` was passed")
def test_batches_of_static_size_and_unknown_number_are_not_counted_twice():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    y = x[:, :1] * 2 + np.arange(40, dtype="float32")[:, None]

    def batches():
        yield from zip(np.split(x, 5), np.split(y, 5), strict=True)

    def model():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        return model

    signature = (tf.TensorSpec((8, 4)), tf.TensorSpec((8, 1)))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    expected = model().evaluate(x, y, verbose=0)
    # Keras 3.15 counts a sixth batch, of eight examples without a loss.
    assert model().evaluate(dataset, verbose=0) == pytest.approx(expected * 5 / 6)
    assert kerasnn.evaluate(model(), dataset, verbose=0) == pytest.approx(expected)
    history = kerasnn.fit(model(), dataset, verbose=0, validation_data=dataset).history
    assert [*history["loss"], *history["val_loss"]] == pytest.approx([expected] * 2)


class TwoSizes(keras.Model):
    """A contrastive step: twice as many examples as labels."""

    def __init__(self):
        super().__init__()
        self.network = keras.Sequential([keras.Input((6,)), L.Dense(8, "relu"), L.Dense(3, "softmax")])

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            views = self.network(x)
            loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, views[: tf.shape(y)[0]]))
            loss += keras.ops.var(views)
        gradients = tape.gradient(loss, self.network.trainable_variables)
        self.optimizer.apply(gradients, self.network.trainable_variables)
        return {"loss": loss}


of = tf.data.Dataset.from_tensor_slices


def twice(x, y):
    return tf.concat([x, 2 * x], 0), y


def twice_now_and_then():
    for first in range(0, 70, 7):
        part = slice(first, first + 7)
        yield (X[part], Y[part]) if first < 28 else (np.concatenate([X[part], X[part]]), Y[part])


OF_TWO_SIZES = {
    "zip": lambda: tf.data.Dataset.zip((of(X).batch(16), of(Y).batch(5))).repeat(),
    "map": lambda: rows().batch(BATCH).map(twice).repeat(),
    "dataset of a generator": lambda: tf.data.Dataset.from_generator(
        twice_now_and_then, output_signature=(tf.TensorSpec((None, 6)), tf.TensorSpec((None,), tf.int32))
    ).repeat(),
    "generator": lambda: (batch for _ in range(9) for batch in twice_now_and_then()),
}


@pytest.mark.parametrize("name", OF_TWO_SIZES)
def test_arrays_of_a_batch_may_have_different_lengths(name, caplog):
    losses, weights = [], []
    for fit in (keras.Model.fit, kerasnn.fit):
        keras.utils.set_random_seed(1)
        model = TwoSizes()
        model.compile("adam")
        options = {"epochs": 3, "steps_per_epoch": 5, "shuffle": False, "verbose": 0}
        losses.append(fit(model, OF_TWO_SIZES[name](), **options).history["loss"])
        weights.append(model.network.get_weights())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for theirs, mine in zip(*weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert "plain Keras" not in caplog.text

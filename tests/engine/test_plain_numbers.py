"""Never a number that silently differs from plain Keras: faults that were found by use, each with its right value."""

import random
import threading

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

import kerasnn
from kerasnn.attributes import kept_with

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0.5)
IDS = RNG.integers(0, 10, (64, 4)).astype("int32")


def classifier(*layers, inputs=(6,), dtype=None, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input(inputs, dtype=dtype), *layers, L.Dense(3, "softmax")])
    model.compile(**{"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]} | options)
    return model


def both(build, x, y, epochs=3, **options):
    """Weights and history from plain Keras and from kerasnn, examples in order."""
    results = []
    for fit in (keras.Model.fit, kerasnn.fit):
        model = build()
        history = fit(model, x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)
        results.append((model.get_weights(), history.history))
    return results


def assert_same(plain, ours, tolerance=2e-6):
    for theirs, mine in zip(plain[0], ours[0], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=tolerance)
    assert plain[1].keys() == ours[1].keys()
    for name, values in plain[1].items():
        np.testing.assert_allclose(ours[1][name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def falls_back(caplog):
    return [record.getMessage() for record in caplog.records if "plain Keras runs" in record.getMessage()]


# The model's own loop (A1, B3)


class OwnFunction(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(1)

    def call(self, x):
        return self.dense(x)

    def make_train_function(self, force=False):
        @tf.function
        def one(iterator):
            return self.train_step(next(iterator))

        self.train_function = one
        return one


def test_own_train_function_trains_on_every_batch(caplog):
    """Traced once with our iterator, it would train on the first batch for ever."""

    def build():
        keras.utils.set_random_seed(0)
        model = OwnFunction()
        model.compile(keras.optimizers.SGD(0.0), "mse")
        return model

    x = np.arange(64, dtype="float32")[:, None]
    plain, ours = both(build, x, x * 2)
    assert_same(plain, ours)
    assert falls_back(caplog) == [
        "plain Keras runs instead of compiled epochs: the model overrides make_train_function"
    ]


def test_own_fit_gets_what_it_was_given():
    class Doubling(keras.Sequential):
        def fit(self, x, y, callbacks=(), **options):
            return super().fit(x * 2, y, callbacks=[*callbacks, keras.callbacks.LambdaCallback()], **options)

    def build():
        keras.utils.set_random_seed(0)
        model = Doubling([keras.Input((6,)), L.Dense(1)])
        model.compile("sgd", "mse")
        return model

    results = []
    for fit in (lambda model, *data, **options: model.fit(*data, **options), kerasnn.fit):
        model = build()
        history = fit(model, X, Y, epochs=2, shuffle=False, verbose=0, callbacks=[])
        results.append((model.get_weights(), history.history))
    assert_same(*results)


# Callbacks at every batch (A2, A15)


class WarmUp(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = 0.001 * (batch + 1)

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])


def test_callback_that_sets_the_rate_at_each_batch(caplog):
    plain, ours = WarmUp(), WarmUp()
    results = []
    for fit, callback in ((keras.Model.fit, plain), (kerasnn.fit, ours)):
        model = classifier()
        history = fit(model, X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
        results.append((model.get_weights(), history.history))
    assert_same(*results)
    assert len(ours.losses) == 32
    np.testing.assert_allclose(ours.losses, plain.losses, rtol=1e-5)
    assert "blocks are single steps: WarmUp acts at every batch" in caplog.text


def test_stop_training_at_a_step_stops_there():
    class Stop(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            self.model.stop_training = self.steps == 5

    stop = Stop()
    kerasnn.fit(classifier(), X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[stop])
    assert stop.steps == 5


def test_checkpoints_every_few_steps(tmp_path):
    callback = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{batch}.weights.h5"), save_freq=4, save_weights_only=True
    )
    kerasnn.fit(classifier(), X, Y, batch_size=4, epochs=1, verbose=0, callbacks=[callback])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{batch}.weights.h5" for batch in sorted([4, 8, 12, 16], key=str)
    ]


def test_tensorboard_by_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = keras.callbacks.TensorBoard(str(tmp_path), update_freq=5)
    kerasnn.fit(classifier(), X, Y, batch_size=4, epochs=1, verbose=0, validation_data=(X, Y), callbacks=[board])
    events = EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    assert "batch_loss" in events.Tags()["tensors"]


def test_summaries_of_layers_are_written(tmp_path, caplog):
    """Traced before TensorBoard opens its writer, they would be left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Summary(L.Layer):
        def call(self, x):
            tf.summary.scalar("mean", tf.reduce_mean(x))
            return x

    board = keras.callbacks.TensorBoard(str(tmp_path), update_freq=1)
    kerasnn.fit(classifier(Summary()), X, Y, batch_size=32, epochs=1, verbose=0, callbacks=[board])
    assert "writes tf.summary values" in falls_back(caplog)[0]
    events = EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    assert any(tag.endswith("mean") for tag in events.Tags()["tensors"])


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.EarlyStopping("loss"),
        keras.callbacks.ReduceLROnPlateau("loss"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        kerasnn.StopOnDivergence(),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_indifferent_callbacks_keep_whole_blocks(callback, caplog):
    kerasnn.fit(classifier(), X, Y, batch_size=4, epochs=1, verbose=0, callbacks=[callback], compiled="on")
    assert "single steps" not in caplog.text


@pytest.mark.parametrize("added", ["appended", "in a new list"])
def test_libraries_that_add_a_callback_to_fit(added, monkeypatch):
    """As MLflow's autolog does."""
    keras_fit, seen = keras.Model.fit, []

    def logging_fit(self, *arguments, **options):
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs["loss"]))
        if added == "appended":
            options["callbacks"].append(callback)
        else:
            options["callbacks"] = [*options["callbacks"], callback]
        return keras_fit(self, *arguments, **options)

    plain, expected = classifier(), []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: expected.append(logs["loss"]))
    keras_fit(plain, X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[note])
    monkeypatch.setattr(keras.Model, "fit", logging_fit)
    ours = classifier()
    kerasnn.fit(ours, X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, compiled="on")
    assert seen == pytest.approx(expected, rel=1e-5)
    for theirs, mine in zip(plain.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)


# What compile was given (A3, A14)


@pytest.mark.parametrize(("jit_compile", "xla"), [(False, False), (True, True), ("auto", True)])
def test_jit_compile_is_obeyed(jit_compile, xla):
    model = classifier(jit_compile=jit_compile)
    kerasnn.fit(model, X, Y, epochs=1, verbose=0, compiled="on")
    assert kept_with(model)["train_step" if xla else "train_step without XLA"].xla is xla


@pytest.mark.parametrize("renew", ["compile", "make_train_function"])
def test_frozen_layers_stay_frozen(renew):
    model = classifier(L.Dense(4, name="first"))
    kerasnn.fit(model, X, Y, epochs=1, verbose=0, compiled="on")
    first = model.get_layer("first")
    first.trainable = False
    if renew == "compile":
        model.compile("adam", "sparse_categorical_crossentropy")
    else:
        model.make_train_function(force=True)
    before = first.get_weights()
    kerasnn.fit(model, X, Y, epochs=1, verbose=0, compiled="on")
    np.testing.assert_array_equal(first.get_weights()[0], before[0])


# Orders (A4)


def test_repeated_fits_see_other_orders_that_the_global_seed_repeats():
    def losses(seed, repeats=3):
        found, model = [], classifier(optimizer=keras.optimizers.SGD(1.0))
        start = model.get_weights()
        keras.utils.set_random_seed(seed)
        for _ in range(repeats):
            model.set_weights(start)
            found += kerasnn.fit(model, X, Y, batch_size=4, verbose=0, compiled="on").history["loss"]
        return found

    assert losses(3) == losses(3)
    first, second, third = losses(3)
    assert len({first, second, third, losses(4)[0]}) == 4


# Out of range (A5, A6, C3)


def embedding(**options):
    return classifier(L.Embedding(10, 4), L.Flatten(), inputs=(4,), dtype="int32", **options)


@pytest.mark.parametrize("wrong", [10, 99, -11])
@pytest.mark.parametrize("call", ["fit", "evaluate"])
@pytest.mark.parametrize("source", ["arrays", "dataset"])
@pytest.mark.parametrize("few", [0, 2000], indirect=True)
def test_ids_outside_of_an_embedding_are_refused(call, wrong, source, few):
    ids = IDS.copy()
    ids[50, 2] = wrong
    data, options = (ids, Y), {"batch_size": 16}
    if source == "dataset":
        data, options = (tf.data.Dataset.from_tensor_slices(data).batch(16),), {}
    if call == "fit":
        options["shuffle"] = False
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"rows must be 0 to 9; received -?\d+ in .*embedding\w*$"):
        getattr(kerasnn, call)(embedding(), *data, verbose=0, compiled="on", **options)


def test_assertions_of_layers_are_kept():
    """XLA would leave them out."""

    class Positive(L.Layer):
        def call(self, x):
            with tf.control_dependencies([tf.debugging.assert_positive(x, message="not positive")]):
                return tf.identity(x)

        def compute_output_shape(self, shape):
            return shape

    model = classifier(Positive())
    kerasnn.fit(model, np.abs(X), Y, epochs=1, verbose=0, compiled="on")
    with pytest.raises(tf.errors.InvalidArgumentError, match="not positive"):
        kerasnn.fit(model, X, Y, epochs=1, verbose=0, compiled="on")


def test_ids_within_an_embedding_are_trained():
    assert_same(*both(embedding, IDS, Y))


def two_headed():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    outputs = {name: L.Dense(3, "softmax", name=name)(inputs) for name in ("a", "b")}
    model = keras.Model(inputs, outputs)
    model.compile("adam", dict.fromkeys("ab", "sparse_categorical_crossentropy"))
    return model


@pytest.mark.parametrize("few", [0, 2000], indirect=True)
@pytest.mark.parametrize("checks", ["error", "off"])
def test_labels_outside_of_a_named_loss_are_refused(checks):
    y = {"a": Y, "b": Y + 1}
    kind = ValueError if checks == "error" else tf.errors.InvalidArgumentError
    with pytest.raises(kind, match=r"labels must be 0 to 2(.*); received 3"):
        kerasnn.fit(two_headed(), X, y, epochs=1, verbose=0, compiled="on", checks=checks)


@pytest.mark.parametrize("ignored", [-1, 255])
def test_ignored_classes_are_trained(ignored):
    labels = Y.copy()
    labels[::5] = ignored
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=ignored)
    assert_same(*both(lambda: classifier(loss=loss, metrics=[]), X, labels))


def test_binary_labels_of_1_and_2_are_refused():
    model = keras.Sequential([keras.Input((6,)), L.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy")
    with pytest.raises(ValueError, match="labels must be 0 and 1, or between, for binary_crossentropy; received 2"):
        kerasnn.fit(model, X, (Y > 0) + 1, verbose=0)


def test_text_keys_of_class_weights_are_refused():
    with pytest.raises(ValueError, match="class_weight must have class numbers as keys; received '0'"):
        kerasnn.fit(classifier(), X, Y, class_weight={"0": 1.0, "1": 2.0, "2": 1.0}, verbose=0)


# Refused though plain Keras trains rightly (C)


def test_negative_sample_weights_are_trained():
    weights = RNG.normal(size=64).astype("float32")
    assert_same(*both(classifier, X, Y, sample_weight=weights))


def test_masking_losses_may_have_nan_targets():
    def masked(y_true, y_pred):
        known = tf.math.is_finite(y_true)
        return tf.reduce_mean(tf.where(known, y_true - y_pred, 0) ** 2, axis=-1)

    def build():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), L.Dense(1)])
        model.compile("adam", masked)
        return model

    y = X[:, :1].copy()
    y[::7] = np.nan
    assert_same(*both(build, X, y))


def test_a_trained_model_is_measured_on_pixels_and_weights_of_0():
    x = RNG.integers(0, 256, (64, 6)).astype("float32")
    x[0, :2] = 0, 255
    model = classifier()
    expected = model.evaluate(x, Y, sample_weight=np.zeros(64), verbose=0)
    np.testing.assert_allclose(
        kerasnn.evaluate(model, x, Y, sample_weight=np.zeros(64), verbose=0), expected, rtol=1e-5
    )
    kerasnn.fit(model, X, Y, validation_data=(x, Y, np.zeros(64)), verbose=0)


def test_checks_can_be_switched_off(caplog):
    x = X.copy()
    x[3, 1] = np.inf
    with pytest.raises(ValueError, match=r"x\[3, 1\] is inf"):
        kerasnn.fit(classifier(), x, Y, verbose=0)
    kerasnn.fit(classifier(), x, Y, verbose=0, checks="warn")
    assert "x[3, 1] is inf" in caplog.text
    caplog.clear()
    kerasnn.fit(classifier(), x, Y, verbose=0, checks="off")
    assert not caplog.records
    with pytest.raises(ValueError, match="checks must be one of error, warn, off; received 'no'"):
        kerasnn.fit(classifier(), X, Y, verbose=0, checks="no")


def test_evaluate_returns_what_keras_returns():
    model = classifier()
    loss, accuracy = kerasnn.evaluate(model, X, Y, verbose=0)
    assert [loss, accuracy] == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)
    assert kerasnn.evaluate(model, X, Y, verbose=0, return_dict=True).keys() == {"loss", "accuracy"}
    model.compile(loss="sparse_categorical_crossentropy")
    assert kerasnn.evaluate(model, X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)


def test_steps_that_an_execution_does_not_divide_are_keras_s_own(caplog):
    plain, ours = both(lambda: classifier(steps_per_execution=2), X, Y, epochs=2, steps_per_epoch=3)
    assert_same(plain, ours)
    assert "not a multiple" in falls_back(caplog)[0]


def test_off_without_a_seed_is_plain_keras():
    results = []
    for fit, options in ((keras.Model.fit, {}), (kerasnn.fit, {"compiled": "off"})):
        model = classifier()
        keras.utils.set_random_seed(7)
        history = fit(model, X, Y, batch_size=4, epochs=2, verbose=0, **options)
        results.append((model.get_weights(), history.history))
    for theirs, mine in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(mine, theirs)


# Random numbers (A7)


class Noise(L.Layer):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw
        self.generator = keras.random.SeedGenerator(3)

    def call(self, x):
        return x + tf.cast(self.draw(self.generator), x.dtype)


DRAWS = {
    "normal": lambda seed: keras.random.normal((6,), seed=seed),
    "uniform": lambda seed: keras.random.uniform((6,), seed=seed),
    "truncated_normal": lambda seed: keras.random.truncated_normal((6,), seed=seed),
    "randint": lambda seed: keras.random.randint((6,), 0, 5, seed=seed),
    "shuffle": lambda seed: keras.random.shuffle(tf.range(6), seed=seed),
    "gamma": lambda seed: keras.random.gamma((6,), 2.0, seed=seed),
    "beta": lambda seed: keras.random.beta((6,), 2.0, 3.0, seed=seed),
    "binomial": lambda seed: keras.random.binomial((6,), 5.0, 0.3, seed=seed),
    "categorical": lambda seed: keras.random.categorical(tf.zeros((6, 4)), 1, seed=seed)[:, 0],
    "normal float64": lambda seed: keras.random.normal((6,), dtype="float64", seed=seed),
    "uniform float64": lambda seed: keras.random.uniform((6,), dtype="float64", seed=seed),
    "normal float16": lambda seed: keras.random.normal((6,), dtype="float16", seed=seed),
    "normal bfloat16": lambda seed: keras.random.normal((6,), dtype="bfloat16", seed=seed),
    "tf.random.stateless_normal": lambda seed: tf.random.stateless_normal((6,), seed.next()),
    "tf.random.stateless_truncated_normal": lambda seed: tf.random.stateless_truncated_normal((6,), seed.next()),
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_are_those_of_plain_keras(name):
    assert_same(*both(lambda: classifier(Noise(DRAWS[name])), X, Y))


@pytest.mark.parametrize(
    "draw",
    [lambda _: tf.random.normal((6,)), lambda _: tf.random.uniform((6,), seed=3)],
    ids=["normal", "seeded uniform"],
)
def test_generators_of_kernels_fall_back(draw, caplog):
    assert_same(*both(lambda: classifier(Noise(draw)), X, Y))
    assert "(tf.random) draws other numbers in each graph" in falls_back(caplog)[0]


@pytest.mark.parametrize("jit_compile", [True, False])
def test_generators_of_kernels_fall_back_whatever_compile_was_given(jit_compile, caplog):
    model = classifier(Noise(lambda _: tf.random.normal((6,))), jit_compile=jit_compile)
    kerasnn.fit(model, X, Y, epochs=1, verbose=0)
    assert "(tf.random) draws other numbers in each graph" in falls_back(caplog)[0]


def test_generators_with_a_state_of_their_own():
    class Own(L.Layer):
        def __init__(self):
            super().__init__()
            self.generator = tf.random.Generator.from_seed(1)

        def call(self, x):
            return x + self.generator.normal((6,)) + self.generator.truncated_normal((6,))

    assert_same(*both(lambda: classifier(Own()), X, Y))


# Threads (A11)


def test_two_threads_train_as_each_would_alone():
    def build(depth):
        keras.utils.set_random_seed(depth)
        hidden = [layer for number in range(depth) for layer in (L.Dense(16, "relu"), L.Dropout(0.3, seed=number))]
        return classifier(*hidden)

    def run(model):
        kerasnn.fit(model, X, Y, batch_size=16, epochs=2, verbose=0, seed=0, compiled="on")

    alone = [build(depth) for depth in (2, 10)]
    for model in alone:
        run(model)
    together = [build(depth) for depth in (2, 10)]
    threads = [threading.Thread(target=run, args=(model,)) for model in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        for expected, value in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(value, expected)


# Programs without XLA


class NoXla(L.Layer):
    supports_jit = False

    def call(self, x):
        return tf.numpy_function(lambda values: values * 2, [x], tf.float32)

    def compute_output_shape(self, shape):
        return shape


def test_what_xla_cannot_take_runs_in_blocks_without_it():
    class Double(NoXla):
        def call(self, x):
            return tf.ensure_shape(super().call(x), x.shape)

    def build():
        return classifier(Double())

    model = build()
    kerasnn.fit(model, X, Y, verbose=0, compiled="on", shuffle=False)
    assert not kept_with(model)["train_step"].xla
    assert_same(*both(build, X, Y))


class Switched(L.Layer):
    """One of two functions, by the batch's sum: a process would end where XLA compiles it."""

    def call(self, x):
        index = keras.ops.cast(keras.ops.sum(x) > 0, "int32")
        return keras.ops.switch(index, [keras.ops.sin, keras.ops.tanh], x)


class Centred(L.Layer):
    @tf.function
    def call(self, x):
        return x - tf.reduce_mean(x, 0)


class Mapped(L.Layer):
    def call(self, x):
        return keras.ops.vectorized_map(lambda row: row * row, x)


@pytest.mark.parametrize(
    ("layer", "examples", "xla"),
    [(Switched, 64, False), (Centred, 60, False), (Mapped, 60, False), (Centred, 64, True), (Mapped, 64, True)],
)
def test_what_xla_would_fail_on_or_compile_anew_for_every_block_runs_without_it(layer, examples, xla):
    """The gradient of an inner function that needs the batch size, where it is unknown, makes XLA compile every block
    with the block's position and all weights as constants. Sixty examples have a shorter last batch."""

    def build():
        return classifier(L.Dense(6, use_bias=False, kernel_initializer=keras.initializers.GlorotUniform(3)), layer())

    model = build()
    kerasnn.fit(model, X[:examples], Y[:examples], batch_size=16, verbose=0, compiled="on", shuffle=False)
    assert kept_with(model)["train_step"].xla is xla
    assert_same(*both(build, X[:examples], Y[:examples]))


class Directions(L.Layer):
    def __init__(self, name):
        super().__init__()
        self.of = {"eigh": lambda c: keras.ops.eigh(c)[1], "svd": lambda c: keras.ops.svd(c)[0]}[name]

    def call(self, x):
        return x @ self.of(keras.ops.transpose(x) @ x)


@pytest.mark.parametrize("name", ["eigh", "svd"])
def test_vectors_that_are_defined_up_to_their_sign_have_that_of_plain_keras(name):
    assert_same(*both(lambda: classifier(Directions(name)), X, Y))


def test_a_program_leaves_xla_where_a_later_call_has_a_shorter_last_batch():
    model = classifier(L.Dense(6), Centred())
    for examples, xla in ((64, True), (60, False), (64, False)):
        kerasnn.fit(model, X[:examples], Y[:examples], batch_size=16, verbose=0, compiled="on", shuffle=False)
        assert kept_with(model)["train_step"].xla is xla


class Sets(keras.callbacks.Callback):
    """Changes something at one moment."""

    def __init__(self, moment, change):
        super().__init__()
        setattr(self, moment, lambda *given, **_: change(self.model, given[0] or 0 if given else 0))


class Scales(L.Layer):
    factor = 1.0

    def call(self, x):
        return x * self.factor


CHANGES = {
    "momentum": lambda model, _: setattr(model.optimizer, "momentum", 0.2),
    "clipping": lambda model, _: setattr(model.optimizer, "clipnorm", 0.01),
    "frozen": lambda model, _: setattr(model.layers[1], "trainable", False),
    "dropout": lambda model, epoch: setattr(model.layers[0], "rate", 0.8 - 0.1 * epoch),
    "own attribute": lambda model, epoch: setattr(model.layers[2], "factor", 3.0 + epoch),
    "penalty": lambda model, _: setattr(model.layers[1].kernel_regularizer, "l2", 0.5),
    "a counter": lambda model, epoch: setattr(model, "counter", epoch),
}


@pytest.mark.parametrize("moment", ["on_train_begin", "on_epoch_begin"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_callbacks_set_before_the_first_step_counts(name, moment):
    """Plain Keras traces the first step when it comes, and has what was set before as constants."""

    def build():
        keras.utils.set_random_seed(1)
        layers = L.Dropout(0.1, seed=1), L.Dense(8, kernel_regularizer=keras.regularizers.L2(0.01)), Scales()
        return classifier(*layers, optimizer=keras.optimizers.SGD(0.1, momentum=0.9))

    results = []
    for fit in (keras.Model.fit, kerasnn.fit):
        model = build()
        options = {"batch_size": 16, "epochs": 2, "validation_data": (X, Y)}
        history = fit(model, X, Y, shuffle=False, verbose=0, callbacks=[Sets(moment, CHANGES[name])], **options)
        results.append((model.get_weights(), history.history))
    assert_same(*results)


def test_what_callbacks_set_before_the_first_batch_of_a_dataset_counts():
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    results = []
    for fit in (keras.Model.fit, kerasnn.fit):
        model = classifier(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
        callbacks = [Sets("on_epoch_begin", CHANGES["momentum"])]
        history = fit(model, batches, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        results.append((model.get_weights(), history.history))
    assert_same(*results)


def test_schedule_free_adamw_begins_from_the_weights():
    """Plain Keras does so only if it is built before; its loss and weights then are the right ones."""

    def build(built=True):
        keras.utils.set_random_seed(1)
        model = classifier(L.Dense(8, "relu"), optimizer=keras.optimizers.ScheduleFreeAdamW())
        if built:
            model.optimizer.build(model.trainable_variables)
        return model

    plain, ours = both(build, X, Y)
    assert_same(plain, ours)
    model = build(built=False)
    kerasnn.fit(model, X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    assert_same(plain, (model.get_weights(), model.history.history))


def test_layers_that_draw_python_s_numbers_while_they_are_traced():
    """Keras's AugMix chooses its operations so; the loop is traced anew where its operations are against XLA."""

    class Scaled(L.Layer):
        def call(self, x):
            return x * random.random() * np.random.uniform(0.5, 1)

    def build():
        model = classifier(L.RandomRotation(0.1, seed=1), Scaled(), L.Flatten(), inputs=(4, 4, 3))
        random.seed(1)
        return model

    assert_same(*both(build, RNG.normal(size=(64, 4, 4, 3)).astype("float32"), Y))


def test_listed_targets_are_blamed_by_their_name():
    with pytest.raises(ValueError, match=r"^y must be of arrays as x is; received list$"):
        kerasnn.fit(classifier(), X, Y.tolist(), verbose=0)


# Inputs (B1, B2, A13)


def table_of_strings():
    keras.utils.set_random_seed(1)
    colour, size = keras.Input((1,), dtype="string", name="colour"), keras.Input((1,), name="size")
    hidden = L.concatenate([L.StringLookup(vocabulary=["red", "blue"], output_mode="one_hot")(colour), size])
    model = keras.Model({"colour": colour, "size": size}, L.Dense(3, "softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


COLOURS = {"colour": tf.constant(np.where(X[:, :1] > 0, "red", "blue")), "size": X[:, 1:2]}
FRAME = pd.DataFrame(X, columns=list("abcdef"))
INPUTS = {
    "data frame": (classifier, FRAME, pd.Series(Y), {}),
    "frame of several types": (classifier, FRAME.assign(a=np.arange(64)), pd.Series(Y), {}),
    "frame, split": (classifier, FRAME, pd.Series(Y), {"validation_split": 0.2}),
    "frame, validated": (classifier, FRAME, pd.Series(Y), {"validation_data": (FRAME, pd.Series(Y))}),
    "scipy sparse": (classifier, scipy.sparse.csr_matrix(X), Y, {}),
    "sparse tensor": (classifier, tf.sparse.from_dense(X), Y, {}),
    "strings": (table_of_strings, COLOURS, Y, {}),
    "tensors": (classifier, tf.constant(X), tf.constant(Y), {}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_keras_takes(name):
    build, x, y, options = INPUTS[name]
    assert_same(*both(build, x, y, **options))
    model = build()
    assert kerasnn.evaluate(model, x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)


def test_data_frames_meet_the_checks_of_arrays():
    with pytest.raises(ValueError, match=r"x\[3, 1\] is nan"):
        kerasnn.fit(classifier(), FRAME.assign(b=FRAME.b.where(FRAME.index != 3)), pd.Series(Y), verbose=0)
    with pytest.raises(ValueError, match="labels must be 0 to 2 for 3 classes; received 9"):
        kerasnn.fit(classifier(), FRAME, pd.Series(Y).replace(2, 9), verbose=0)


class SumOfGiven(L.Layer):
    def call(self, inputs):
        return sum(x for x in inputs if x is not None)


@pytest.mark.parametrize("given", [(0,), (1,), (0, 1)])
def test_optional_inputs_may_be_missing(given):
    def build():
        keras.utils.set_random_seed(1)
        inputs = [keras.Input((6,), optional=True) for _ in range(2)]
        model = keras.Model(inputs, L.Dense(1)(SumOfGiven()(inputs)))
        model.compile("adam", "mse")
        return model

    assert_same(*both(build, [X if number in given else None for number in range(2)], Y.astype("float32")))


def test_a_required_input_that_is_missing_is_refused_as_keras_does():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(1)(inputs))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="not optional"):
        kerasnn.fit(model, [None], Y, verbose=0)

"""Models that override `fit` or `evaluate`, as KerasHub's do: Keras's own method, which theirs calls, is compiled."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasnn
from kerasnn.attributes import kept_with
from kerasnn.engine.steps import NotCompilableError

X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Prepared(keras.Sequential):
    """Prepares what it is given, as a task of KerasHub's."""

    def fit(self, x=None, y=None, batch_size=None, validation_data=None, **options):
        held_out = validation_data and (validation_data[0] * 2, validation_data[1])
        return super().fit(x=x * 2, y=y, batch_size=batch_size, validation_data=held_out, **options)

    def evaluate(self, x=None, y=None, **options):
        if options.get("_use_cached_eval_dataset"):
            return super().evaluate(x=x, y=y, **options)
        return super().evaluate(x * 2, y, **options)


class Brief(keras.Sequential):
    """Takes few of `fit`'s arguments, by names of its own, and trains in two parts."""

    def fit(self, features, target, epochs):
        super().fit(features, target, epochs=1, shuffle=False, verbose=0)
        return super().fit(features, target, epochs=epochs, shuffle=False, verbose=0)


class Named(keras.Sequential):
    """Takes its data by a name of its own only, and asks what Keras's method takes, as BayesFlow's do."""

    def fit(self, *, dataset, **options):
        known = inspect.signature(super().fit).parameters
        return super().fit(x=dataset, **{name: value for name, value in options.items() if name in known})

    def evaluate(self, *, dataset, **options):
        return super().evaluate(x=dataset, **options)


class Taught(keras.Sequential):
    """Trains another model first."""

    def fit(self, x, y, **options):
        teacher = made(keras.Sequential)
        teacher.fit(x, y, verbose=0, shuffle=False)
        self.taught = teacher.get_weights()
        return super().fit(x, teacher.predict(x, verbose=0), **options)


class Alone(keras.Sequential):
    """Calls nothing of Keras's."""

    def fit(self, x, y, **options):
        return [self.train_on_batch(x, y)]


def made(kind):
    keras.utils.set_random_seed(3)
    model = kind([keras.Input((6,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    return model


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (
            Prepared,
            {"shuffle": False, "verbose": 0, "epochs": 3, "batch_size": 16, "validation_data": (X[:10], Y[:10])},
        ),
        (Brief, {"epochs": 2}),
        (Taught, {"shuffle": False, "verbose": 0, "epochs": 2}),
    ],
)
def test_own_fit_trains_in_blocks_with_the_numbers_of_plain_keras(kind, options):
    plain, ours = made(kind), made(kind)
    expected = plain.fit(X, Y, **options).history
    found = kerasnn.fit(ours, X, Y, compiled="on", **options).history
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-8)
    for one, other in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert kept_with(ours)["train_step"].traces
    assert not any(name.startswith("_kerasnn_own") for name in vars(ours))
    if kind is Taught:
        for one, other in zip(ours.taught, plain.taught, strict=True):
            np.testing.assert_array_equal(one, other)


def test_own_evaluate_runs_in_blocks():
    model = made(Prepared)
    expected = model.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(kerasnn.evaluate(model, X, Y, verbose=0, compiled="on"), expected, rtol=1e-6)
    assert kept_with(model)["test_step"].traces


def test_own_methods_take_arguments_of_their_own():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    plain, ours = made(Named), made(Named)
    expected = plain.fit(dataset=dataset, epochs=2, verbose=0, shuffle=False, other=1).history
    found = kerasnn.fit(ours, dataset=dataset, epochs=2, verbose=0, shuffle=False, other=1, compiled="on").history
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
    measured = kerasnn.evaluate(ours, dataset=dataset, verbose=0, compiled="on")
    np.testing.assert_allclose(measured, plain.evaluate(dataset=dataset, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("method", [kerasnn.fit, kerasnn.evaluate])
def test_an_argument_that_nobody_takes_is_refused(method):
    name = method.__name__
    rule = rf"an argument of {name} must be one of model, x, .*; received 'batchsize' \(did you mean 'batch_size'\?\)"
    with pytest.raises(TypeError, match=rule):
        method(made(keras.Sequential), X, Y, batchsize=3)


def test_own_fit_that_never_calls_keras_is_named(caplog):
    kerasnn.fit(made(Alone), X, Y)
    reason = "the model's own fit does not call that of keras.Model"
    assert [record.getMessage() for record in caplog.records] == [
        f"plain Keras runs instead of compiled epochs: {reason}"
    ]
    with pytest.raises(NotCompilableError, match=reason):
        kerasnn.fit(made(Alone), X, Y, compiled="on")


def test_own_fit_runs_as_plain_keras_where_that_is_asked_for():
    plain, ours = made(Prepared), made(Prepared)
    options = {"shuffle": False, "verbose": 0, "epochs": 2}
    expected = plain.fit(X, Y, **options).history
    assert kerasnn.fit(ours, X, Y, compiled="off", **options).history == expected
    assert not kept_with(ours)


def test_own_fit_meets_the_checks_of_what_it_hands_on():
    class Wrong(keras.Sequential):
        def fit(self, x, y, **options):
            return super().fit(x, y * np.nan, **options)

    with pytest.raises(ValueError, match="y must be finite"):
        kerasnn.fit(made(Wrong), X, Y, verbose=0)


def test_models_with_a_fit_of_their_own_train_one_by_one():
    models = [made(Prepared) for _ in range(2)]
    alone = made(Prepared)
    kerasnn.fit(alone, X, Y, seed=4, verbose=0)
    histories = kerasnn.fit_fused(models, X, Y, seed=4, verbose=0)
    assert [history.history for history in histories] == [alone.history.history] * 2


def test_an_own_method_that_calls_ours_is_refused():
    """Ours would call it again, and what it does to its data would be done twice."""

    class CallsOurs(keras.Sequential):
        def fit(self, x, y, **options):
            return kerasnn.fit(self, x / 2, y, **options)

    model = CallsOurs([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"a model's own fit must call super\(\)\.fit, it called kerasnn\.fit"):
        model.fit(X, Y, verbose=0)

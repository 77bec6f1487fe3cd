"""Models that train together on batches of tf.data end as each would on the dataset by `kerasnn.fit`."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasnn
from kerasnn.fused import streams

ALL = "KERASNN_ALL_TESTS" in os.environ
RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
WEIGHTS = RNG.uniform(0.5, 2, size=90).astype("float32")
SLICES = tf.data.Dataset.from_tensor_slices((X, Y))


def dataset_of(kind):
    # A shuffled dataset's order depends on the global seed, too.
    tf.random.set_seed(5)
    return DATASETS[kind]()


def generated():
    def batches():
        for at in range(0, 90, 20):
            yield X[at : at + 20], Y[at : at + 20]

    return tf.data.Dataset.from_generator(
        batches, output_signature=(tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int32))
    )


DATASETS = {
    "whole batches": lambda: SLICES.batch(16, drop_remainder=True),
    "a shorter last one": lambda: SLICES.batch(20),
    "shuffled": lambda: SLICES.shuffle(90, seed=3).batch(16),
    "weighted": lambda: tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(20),
    "shorter ones in between": lambda: SLICES.batch(20).concatenate(SLICES.batch(20)),
}


def build(rate, seed):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(6, "tanh"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_a_single_model_meets_the_order_that_it_meets_alone():
    options = {"epochs": 3, "verbose": 0, "shuffle": False, "seed": 1}
    [fused] = kerasnn.fit_fused([build(0.03, 2)], dataset_of("shuffled"), **options)
    alone = kerasnn.fit(build(0.03, 2), dataset_of("shuffled"), **options)
    np.testing.assert_allclose(fused.history["loss"], alone.history["loss"], rtol=1e-4)


@pytest.mark.parametrize("kind", DATASETS if ALL else ["a shorter last one", "shuffled"])
def test_ends_as_each_model_by_itself(kind, caplog, monkeypatch):
    monkeypatch.setattr(streams, "LONGEST", 3)
    options = {"epochs": 2, "verbose": 0, "shuffle": False, "validation_data": SLICES.take(30).batch(16), "seed": 1}
    settings = [(0.01, 1), (0.03, 2), (0.1, 3)]

    def callbacks():
        return [kerasnn.LearningRate("cosine")]

    together = [build(*each) for each in settings]
    histories = kerasnn.fit_fused(together, dataset_of(kind), callbacks=[callbacks() for _ in settings], **options)
    assert not caplog.records, [record.getMessage() for record in caplog.records]
    for fused, history, each in zip(together, histories, settings, strict=True):
        alone = build(*each)
        expected = kerasnn.fit(alone, dataset_of(kind), callbacks=callbacks(), **options).history
        assert history.history.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(history.history[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
        for mine, theirs in zip(fused.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    ("dataset", "options"), [(generated, {}), (lambda: SLICES.batch(20), {"class_weight": {0: 1.0, 1: 2.0}})]
)
def test_what_cannot_be_fused_trains_alone_and_says_so(dataset, options, caplog):
    kerasnn.fit_fused([build(0.01, seed) for seed in range(2)], dataset(), verbose=0, shuffle=False, **options)
    assert any(
        "2 of 2 models train alone: the examples are not dense numbers, or a dataset of" in record.getMessage()
        for record in caplog.records
    )


def test_datasets_that_do_not_fit_are_refused():
    models = [build(0.01, seed) for seed in range(2)]
    with pytest.raises(ValueError, match="a dataset must end for models that train together"):
        kerasnn.fit_fused(models, SLICES.batch(20).repeat(), verbose=0)
    with pytest.raises(ValueError, match=r"first batch must be its largest .* received 10 and 20 examples"):
        kerasnn.fit_fused(models, SLICES.take(10).batch(10).concatenate(SLICES.batch(20)), verbose=0)


def test_an_epoch_is_a_line(capsys):
    models = [build(0.01, 1), build(0.1, 1)]
    histories = kerasnn.fit_fused(models, X, Y, epochs=2, seed=1)
    low, high = sorted(history.history["loss"][1] for history in histories)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("Epoch 2/2 - 2 models - loss: ")
    assert f"loss: {low:.4g} to {high:.4g}" in lines[1]

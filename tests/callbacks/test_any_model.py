"""Callbacks on models that are not a stack of layers with one optimizer and scalar metrics."""

import csv
import io
import logging
from functools import partial

import keras
import ml_dtypes
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import kerasnn
from kerasnn.callbacks.best_model import BestModel
from kerasnn.callbacks.divergence import DivergenceError, StopOnDivergence, is_finite, rows_are_finite
from kerasnn.callbacks.health import Health
from kerasnn.callbacks.history import HistoryFile
from kerasnn.callbacks.layer_probe import Probe
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.callbacks.progress import Progress
from kerasnn.data.checks import check_examples
from kerasnn.tensorboard.callback import TensorBoard
from tests.zoo.models import VAE, ZOO

layers, ops = keras.layers, keras.ops
rng = np.random.default_rng(0)
X = rng.uniform(size=(32, 8)).astype("float32")
Y = (X[:, :1] > 0.5).astype("float32")


def two_rates():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, "relu", name="hidden"), layers.Dense(1, name="out")])
    rates = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
    rates["hidden/.*"] = keras.optimizers.Adam(0.01)
    model.compile(keras.optimizers.MultiOptimizer(rates), "mse")
    return model


def vectors():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3, "softmax", name="out")])
    model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score(average=None)])
    return model


VECTORS = (X, np.eye(3)[np.arange(32) % 3])


@pytest.mark.parametrize("targets", [(), (None,)])
def test_a_probe_without_targets_measures_every_part(targets):
    model, x, *_ = ZOO["vae"]()
    measured = Probe((x[:8], *targets)).measure(model)
    assert set(measured.weights) == set(measured.activations)
    outputs = [*model.encoder.layers[-3:-1], model.decoder.layers[-1]]
    assert {name for name, each in measured.activations.items() if each.is_output} == {each.name for each in outputs}
    assert all(each.gradient > 0 and each.update > 0 for each in measured.weights.values())


def test_layers_of_one_name_are_told_apart():
    inputs = outputs = keras.Input((8,))
    for units, scale in ((8, 1.0), (1, 2.0)):
        dense = layers.Dense(units, name="dense", kernel_initializer=keras.initializers.Constant(scale))
        part = keras.Input((8,))
        outputs = keras.Model(part, dense(part))(outputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    measured = Probe((X, Y)).measure(model)
    assert set(measured.activations) == {"dense", "dense_1"}
    assert [measured.weights[name].weight for name in ("dense", "dense_1")] == pytest.approx([8, 2 * 8**0.5])
    assert [tag for tag, _ in measured.samples()][2:] == [
        f"gradients/{name}/{weight}" for name in ("dense", "dense_1") for weight in ("kernel", "bias")
    ]


def test_several_optimizers_are_measured_and_undone():
    model, x, *_ = ZOO["gan"]()
    model.fit(x, verbose=0)
    before = [bytes(weight) for weight in model.get_weights()]
    probe = Probe((x[:8],))
    first = probe.measure(model)
    assert len(first.weights) == 3
    assert all(each.update > 0 for each in first.weights.values())
    assert [bytes(weight) for weight in model.get_weights()] == before
    assert probe.measure(model) is first
    model.fit(x, verbose=0)
    assert probe.measure(model) is not first


class Given(VAE):
    """A model that is made of models, which Keras cannot serialize without a `get_config`."""

    def __init__(self, other):
        keras.Model.__init__(self)
        self.encoder, self.decoder, self.tracker = other.encoder, other.decoder, other.tracker


def given():
    model = Given(ZOO["vae"]().model)
    model.compile("adam")
    return model


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_best_model_keeps_the_weights_of_a_model_that_keras_cannot_serialize(tmp_path, caplog):
    best, model = BestModel(tmp_path / "best.keras", "loss"), given()
    with caplog.at_level(logging.WARNING, "kerasnn"):
        history = model.fit(ZOO["vae"]().x, epochs=3, verbose=0, callbacks=[best]).history["loss"]
    assert best.path == tmp_path / "best.weights.h5"
    assert best.summary() == {"epoch": 3, "monitor": "loss", "value": min(history)}
    (line,) = caplog.messages
    assert line.startswith(f"{best.path} is saved instead of the model, because Keras cannot serialize Given: ")
    assert [path.name for path in tmp_path.iterdir()] == ["best.weights.h5"]
    again = given()
    again.built = True
    again.load_weights(best.path)
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rates_that_are_not_one_number_are_not_shown(tmp_path):
    lines = io.StringIO()
    gan, x, *_ = ZOO["gan"]()
    for model, data in ((two_rates(), (X, Y)), (gan, (x,))):
        model.fit(*data, verbose=0, callbacks=[Progress("lines", stream=lines), TensorBoard(tmp_path)])
    assert "learning rate" not in lines.getvalue()
    assert "learning_rate" not in EventAccumulator(str(tmp_path / "train")).Reload().Tags()["scalars"]
    with pytest.raises(ValueError, match=r"learning_rate must be a number .*, received several in MultiOptimizer"):
        two_rates().fit(X, Y, verbose=0, callbacks=[LearningRate()])
    line = r"LearningRate needs a model with one optimizer, .* received one that also has d_optimizer, g_optimizer$"
    with pytest.raises(ValueError, match=line):
        gan.fit(x, verbose=0, callbacks=[LearningRate(learning_rate=0.1)])


class Phase(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["phase"] = f"phase {epoch}"


def test_vectors_have_a_column_an_entry_and_text_stays_text(tmp_path):
    lines, table = io.StringIO(), HistoryFile(tmp_path / "history.csv")
    callbacks = [Phase(), table, Progress("lines", stream=lines), TensorBoard(tmp_path), StopOnDivergence()]
    history = vectors().fit(*VECTORS, epochs=2, verbose=0, validation_data=VECTORS, callbacks=callbacks).history
    rows = list(csv.DictReader(table.path.read_text().splitlines()))
    for position in range(3):
        scores = [float(scores[position]) for scores in history["val_f1_score"]]
        assert [float(row[f"val_f1_score_{position}"]) for row in rows] == scores
        events = EventAccumulator(str(tmp_path / "validation")).Reload().Scalars(f"epoch_f1_score_{position}")
        assert [event.value for event in events] == scores
    assert [row["phase"] for row in rows] == ["phase 0", "phase 1"]
    assert "phase phase 1" in lines.getvalue()
    state = {name: column if isinstance(column, list) else column.copy() for name, column in table.get_state().items()}
    written = table.path.read_text()
    again = HistoryFile(table.path)
    again.set_state(state)
    assert (again.rows, table.path.read_text()) == (table.rows, written)


@pytest.mark.parametrize("swap_on_epoch", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("fit", ["keras", "kerasnn"])
def test_best_model_is_the_one_that_was_evaluated(tmp_path, fit, first, swap_on_epoch):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, "relu"), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
    best, swap = BestModel(tmp_path / "best.keras"), keras.callbacks.SwapEMAWeights(swap_on_epoch)
    train = model.fit if fit == "keras" else partial(kerasnn.fit, model)
    train(
        X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0, validation_data=(X, Y),
        callbacks=[best, swap] if first else [swap, best],
    )  # fmt: skip
    value = keras.saving.load_model(best.path).evaluate(X, Y, verbose=0)
    assert value == pytest.approx(best.summary()["value"], rel=1e-6)


def two_outputs(rate=0.01):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    hidden = layers.Dense(6, "relu", name="hidden")(inputs)
    heads = {"a": layers.Dense(1, "sigmoid", name="a")(hidden), "b": layers.Dense(3, "softmax", name="b")(hidden)}
    model = keras.Model(inputs, heads)
    losses = {"a": "binary_crossentropy", "b": "sparse_categorical_crossentropy"}
    model.compile(keras.optimizers.SGD(rate), losses, metrics={"a": ["auc"], "b": ["accuracy"]})
    return model


@pytest.mark.parametrize("fit", ["keras", "kerasnn"])
def test_nan_in_one_of_several_outputs_is_named_by_its_layer(fit):
    class Poison(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = self.model.get_layer("b").kernel
            kernel.assign(np.full(kernel.shape, np.nan))

    model = two_outputs()
    train = model.fit if fit == "keras" else partial(kerasnn.fit, model)
    with pytest.raises(DivergenceError, match="in epoch 1; layer 'b' has non-finite weights"):
        train(X, {"a": Y, "b": np.arange(32) % 3}, verbose=0, callbacks=[Poison(), StopOnDivergence()])


class Loop(layers.Layer):
    """Calls its inner layer in a loop, whose tensors nobody outside can read."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Dense(8, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return ops.fori_loop(0, 2, lambda _, y: self.inner(y), x)


def sequence_model(*middle):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 8)), *middle, layers.GlobalAveragePooling1D(), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


class Attention(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.norm = layers.LayerNormalization(name="norm")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.norm.build(shape)

    def call(self, x):
        return self.norm(x + self.attention(x, x))


SEQUENCES = rng.normal(size=(32, 6, 8)).astype("float32")


@pytest.mark.parametrize(
    ("middle", "names"),
    [
        (lambda: [layers.LSTM(4, return_sequences=True, name="lstm")], {"lstm/lstm_cell"}),
        (lambda: [layers.GRU(4, return_sequences=True, name="gru")], {"gru/gru_cell"}),
        (lambda: [layers.TimeDistributed(layers.Dense(4, "relu", name="dense"), name="each")], {"each/dense"}),
        (
            lambda: [layers.Bidirectional(layers.LSTM(4, return_sequences=True, name="lstm"), name="both")],
            {"both/forward_lstm/lstm_cell", "both/backward_lstm/lstm_cell"},
        ),
        (
            lambda: [Attention(name="block")],
            {*(f"block/attention/{name}" for name in ("query", "key", "value", "attention_output")),
             "block/norm"},
        ),
    ],
    ids=["lstm", "gru", "time distributed", "bidirectional", "attention"],
)  # fmt: skip
def test_health_sees_recurrent_attention_and_normalization_layers(caplog, middle, names):
    model = sequence_model(*middle())
    health = Health((SEQUENCES, Y))
    model.fit(SEQUENCES, Y, epochs=3, verbose=0, callbacks=[health])
    # TensorFlow says how often the tests before this one have traced.
    assert [message for message in caplog.messages if "triggered tf.function retracing" not in message] == []
    measured = Probe((SEQUENCES, Y)).measure(model)
    assert names <= set(measured.activations)
    assert set(measured.weights) == set(measured.activations)
    assert all(np.isfinite(each.std) and each.gradient > 0 for each in measured.activations.values())


def test_dead_units_of_a_recurrent_layer_raise_an_alarm():
    model = sequence_model(layers.SimpleRNN(4, "relu", return_sequences=True, name="rnn", bias_initializer=NEGATIVE))
    health = Health((SEQUENCES, Y))
    model.fit(SEQUENCES, Y, verbose=0, callbacks=[health])
    assert health.alarms[0].message.startswith("layer rnn/simple_rnn_cell: 100% of units dead before training; scale")


NEGATIVE = keras.initializers.Constant(-100.0)


def test_layers_that_health_does_not_see_are_named(caplog):
    model = sequence_model(Loop(name="loop"))
    model.fit(SEQUENCES, Y, epochs=2, verbose=0, callbacks=[Health((SEQUENCES, Y))])
    assert caplog.messages == ["Health does not see the outputs of these layers: loop/inner"]


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.float16])
def test_nan_is_found_in_every_floating_point_type(dtype):
    values = np.array([[1, 2], [3, np.nan]]).astype(dtype)
    assert not is_finite(values)
    assert rows_are_finite(values).tolist() == [True, False]
    assert is_finite(values[:1])


def test_integers_of_four_bits_are_finite():
    assert is_finite(np.array([1, 2]).astype(ml_dtypes.int4))


def test_nan_in_bfloat16_stops_training_and_is_refused_as_an_example():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, "relu", dtype="bfloat16", name="hidden")])
    model.compile("sgd", "mse")

    class Poison(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("hidden").bias.assign([0, 0, np.nan, 0])

    with pytest.raises(DivergenceError, match=r"weights must stay finite, .* in epoch 1; layer '.*hidden' has non-f"):
        model.fit(X, np.zeros((32, 4)), verbose=0, callbacks=[Poison(), StopOnDivergence()])
    x = X.astype(ml_dtypes.bfloat16)
    check_examples(x, Y, "binary")
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"^x_train must be finite .*; x_train\[3, 2\] is nan$"):
        check_examples(x, Y, "binary")

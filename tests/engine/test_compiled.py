"""Compiled epochs give plain Keras's weights, logs and callbacks, and say where they cannot run."""

import gc
import logging
import weakref
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasnn.attributes import kept_with
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.engine import compilation
from kerasnn.engine.batches import BatchProgram
from kerasnn.engine.compilation import blocks_of
from kerasnn.engine.examples import ResidentExamples, Steps
from kerasnn.engine.fit import NotCompilableError, evaluate, fit
from kerasnn.engine.order import epoch_order
from kerasnn.engine.steps import Program

EXAMPLES, FEATURES, CLASSES, BATCH = 70, 6, 3, 16  # 4 whole batches and one of 6
STEPS = 5

rng = np.random.default_rng(0)
X = rng.normal(size=(EXAMPLES, FEATURES)).astype("float32")
Y = rng.integers(0, CLASSES, EXAMPLES)
WEIGHTS = rng.uniform(0.2, 2, EXAMPLES).astype("float32")
IMAGES = rng.normal(size=(EXAMPLES, 6, 6, 1)).astype("float32")


def dense(units: int, seed: int, **options: Any) -> keras.layers.Dense:
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed), **options)


def sequential(*middle: keras.layers.Layer, shape: tuple[int, ...] = (FEATURES,), **options: Any) -> keras.Model:
    first = [] if middle and isinstance(middle[0], keras.layers.Conv2D) else [dense(8, 1, activation="relu")]
    model = keras.Sequential([keras.Input(shape), *first, *middle, dense(CLASSES, 2)])
    return compiled(model, **options)


def compiled(model: keras.Model, **options: Any) -> keras.Model:
    model.compile(
        **{
            "optimizer": keras.optimizers.Adam(0.01),
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": ["accuracy"],
        }
        | options
    )
    return model


class Subclassed(keras.Model):
    """Unbuilt until it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = dense(8, 1, activation="tanh")
        self.dropout = keras.layers.Dropout(0.3, seed=5)
        self.head = dense(CLASSES, 2)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.head(self.dropout(self.hidden(inputs), training=training))


class OwnStep(keras.Model):
    """A train_step that reports more than its metrics."""

    def train_step(self, data: Any) -> dict[str, Any]:
        logs = super().train_step(data)
        return logs | {"first": tf.reduce_mean(data[0])}


def two_inputs() -> keras.Model:
    a, b = keras.Input((FEATURES,), name="a"), keras.Input((6, 6, 1), name="b")
    joined = keras.layers.Concatenate()([dense(4, 1, activation="relu")(a), keras.layers.Flatten()(b)])
    model = keras.Model(
        {"a": a, "b": b}, {"one": dense(CLASSES, 2, name="one")(joined), "two": dense(1, 3, name="two")(joined)}
    )
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        {"one": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "two": "mse"},
        loss_weights={"one": 1.0, "two": 0.3},
        metrics={"one": ["accuracy"], "two": ["mae"]},
    )
    return model


def runs(
    build: Any, *data: Any, callbacks: Any = lambda: [], **options: Any
) -> list[tuple[keras.Model, dict[str, Any]]]:
    """The same training compiled and plain."""
    both = []
    for mode in ("on", "off"):
        model = build()
        options = {"batch_size": BATCH, "epochs": 3, "verbose": 0, "seed": 3} | options
        both.append((model, fit(model, *data, compiled=mode, callbacks=callbacks(), **options).history))
    return both


def assert_same(build: Any, *data: Any, tolerance: float = 2e-5, **options: Any) -> None:
    (model, history), (plain, plain_history) = runs(build, *data, **options)
    assert history.keys() == plain_history.keys()
    for name, values in plain_history.items():
        np.testing.assert_allclose(history[name], values, rtol=tolerance, atol=tolerance, err_msg=name)
    assert len(model.variables) == len(plain.variables)
    for variable, other in zip(model.variables, plain.variables, strict=True):
        np.testing.assert_allclose(
            variable.numpy(), other.numpy(), rtol=tolerance, atol=tolerance, err_msg=variable.path
        )
    for variable, other in zip(model.optimizer.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_allclose(
            variable.numpy(), other.numpy(), rtol=tolerance, atol=tolerance, err_msg=variable.path
        )


FEATURE_MODELS = {
    "plain": lambda: sequential(),
    "dropout": lambda: sequential(keras.layers.Dropout(0.4, seed=7)),
    "noise": lambda: sequential(keras.layers.GaussianNoise(0.3, seed=7)),
    "batch norm": lambda: sequential(keras.layers.BatchNormalization()),
    "L1 and L2": lambda: sequential(dense(5, 4, kernel_regularizer=keras.regularizers.L1L2(1e-3, 1e-2))),
    "constraint": lambda: sequential(dense(5, 4, kernel_constraint=keras.constraints.MaxNorm(0.5))),
    "clipping": lambda: sequential(optimizer=keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1)),
    "EMA": lambda: sequential(optimizer=keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3)),
    "accumulation": lambda: sequential(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)),
    "decay": lambda: sequential(optimizer=keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.05, 20))),
    "metrics": lambda: sequential(
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)], weighted_metrics=["accuracy"]
    ),
    "convolution": lambda: sequential(
        keras.layers.Conv2D(2, 3, kernel_initializer=keras.initializers.GlorotUniform(9)),
        keras.layers.Flatten(),
        shape=(6, 6, 1),
    ),
    "subclassed": lambda: compiled(Subclassed()),
}


@pytest.mark.parametrize("name", FEATURE_MODELS)
def test_same_numbers_as_plain_keras(name: str) -> None:
    x = IMAGES if name == "convolution" else X
    assert_same(FEATURE_MODELS[name], x, Y)


@pytest.mark.parametrize(
    "options",
    [
        {"sample_weight": WEIGHTS},
        {"class_weight": {0: 0.5, 1: 2.0, 2: 1.0}},
        {"validation_split": 0.3},
        {"validation_data": (X[:20], Y[:20], WEIGHTS[:20]), "validation_freq": 2, "validation_batch_size": 7},
        {"shuffle": False},
        {"initial_epoch": 1},
        {"steps_per_epoch": 2, "epochs": 2, "validation_data": (X[:40], Y[:40]), "validation_steps": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_same_numbers_for_the_arguments_of_fit(options: dict[str, Any]) -> None:
    assert_same(lambda: sequential(weighted_metrics=["accuracy"]), X, Y, **options)


def test_same_numbers_with_several_inputs_and_outputs() -> None:
    assert_same(
        two_inputs, {"a": X, "b": IMAGES}, {"one": Y, "two": X[:, :1]}, sample_weight={"one": WEIGHTS, "two": WEIGHTS}
    )


def test_same_numbers_without_targets() -> None:
    class Autoencoder(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = dense(FEATURES, 1)

        def call(self, inputs: Any) -> Any:
            outputs = self.head(inputs)
            self.add_loss(keras.ops.mean(keras.ops.square(outputs - inputs)))
            return outputs

    def build() -> keras.Model:
        model = Autoencoder()
        model.compile("sgd")
        return model

    assert_same(build, X)


def test_same_numbers_and_logs_with_a_step_of_the_users_own() -> None:
    def build() -> keras.Model:
        inputs = keras.Input((FEATURES,))
        return compiled(OwnStep(inputs, dense(CLASSES, 1)(inputs)))

    assert_same(build, X, Y)


@pytest.mark.parametrize("schedule", ["one_cycle", "exponential", {"name": "cosine", "per": "update"}])
def test_rates_and_momenta_change_at_every_update(schedule: Any) -> None:
    assert_same(
        lambda: sequential(optimizer=keras.optimizers.SGD(0.1, momentum=0.9)),
        X,
        Y,
        callbacks=lambda: [LearningRate(schedule, 0.05)],
    )


def test_data_too_large_is_streamed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kerasnn.engine.examples.CHUNK_BYTES", 2 * BATCH * (FEATURES * 4 + 8))  # two batches
    with caplog.at_level(logging.INFO, "kerasnn"):
        assert_same(
            lambda: sequential(keras.layers.Dropout(0.4, seed=7)), X, Y, memory_share=1e-12, validation_split=0.3
        )
    assert [record.message.split(":")[0] for record in caplog.records] == ["the data is streamed"]


def test_evaluate_gives_the_numbers_of_keras() -> None:
    model = sequential(keras.layers.BatchNormalization(), weighted_metrics=["accuracy"])
    options = {"batch_size": BATCH, "sample_weight": WEIGHTS, "verbose": 0, "return_dict": True}
    measured = evaluate(model, X, Y, **options, compiled="on")
    expected = model.evaluate(X, Y, **options)
    assert measured == pytest.approx(expected, rel=1e-5)
    assert measured.keys() == {"loss", "accuracy", "weighted_accuracy"} or len(measured) == 3


class Recorder(keras.callbacks.Callback):
    """Notes every hook with its number and the names of its logs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        for name in (
            "train_batch_begin",
            "train_batch_end",
            "test_batch_begin",
            "test_batch_end",
            "epoch_begin",
            "epoch_end",
        ):
            setattr(self, f"on_{name}", lambda number, logs=None, name=name: self.note(name, number, logs))
        for name in ("train_begin", "train_end", "test_begin", "test_end"):
            setattr(self, f"on_{name}", lambda logs=None, name=name: self.note(name, None, logs))

    def note(self, name: str, number: int | None, logs: dict[str, Any] | None) -> None:
        self.calls.append((name, number, sorted(logs or {})))

    def numbers(self, name: str) -> list[int]:
        return [number for each, number, _ in self.calls if each == name]


def test_hooks_fire_once_a_block_as_keras_promises() -> None:
    recorder = Recorder()
    fit(sequential(), X, Y, BATCH, 1, 0, [recorder], validation_data=(X[:40], Y[:40]), compiled="on", steps_per_block=2)
    logs = ["accuracy", "loss"]
    assert recorder.calls == [
        ("train_begin", None, []),
        ("epoch_begin", 0, []),
        ("train_batch_begin", 0, []),
        ("train_batch_end", 1, logs),
        ("train_batch_begin", 2, []),
        ("train_batch_end", 3, logs),
        ("train_batch_begin", 4, []),
        ("train_batch_end", 4, logs),
        ("test_begin", None, []),
        ("test_batch_begin", 0, []),
        ("test_batch_end", 1, logs),
        ("test_batch_begin", 2, []),
        ("test_batch_end", 2, logs),
        ("test_end", None, logs),
        ("epoch_end", 0, [*logs, "val_accuracy", "val_loss"]),
        ("train_end", None, [*logs, "val_accuracy", "val_loss"]),
    ]


def test_block_length_follows_the_models_steps_per_execution() -> None:
    recorder = Recorder()
    model = sequential(steps_per_execution=3)
    fit(model, X, Y, BATCH, 1, 0, [recorder], compiled="on")
    assert recorder.numbers("train_batch_end") == [2, 5]  # Keras counts the last block as whole
    assert model.steps_per_execution == 3


def test_batch_logs_are_the_running_metrics_of_plain_keras() -> None:
    def losses(mode: str) -> list[float]:
        seen: list[float] = []
        note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs["loss"]))
        fit(sequential(), X, Y, BATCH, 1, 0, [note], compiled=mode, seed=0)
        return seen

    plain = losses("off")
    assert len(plain) == STEPS
    assert losses("on") == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
def test_stop_training_ends_at_the_blocks_end(hook: str) -> None:
    class Stop(keras.callbacks.Callback):
        pass

    def stop(self: Any, batch: int, logs: Any = None) -> None:
        self.model.stop_training = batch >= 2

    setattr(Stop, hook, stop)
    recorder = Recorder()
    model = sequential()
    fit(model, X, Y, BATCH, 3, 0, [Stop(), recorder], compiled="on", steps_per_block=2)
    # Keras, too, runs the step that it has begun.
    last = 2 if hook == "on_train_batch_begin" else 3
    assert recorder.numbers("train_batch_end") == [1, last]
    assert recorder.numbers("epoch_end") == [0]
    assert int(model.optimizer.iterations.numpy()) == last + 1


def test_blocks_grow_to_a_quarter_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, run = [], Program.__call__

    def counting(self: Program, steps: Steps, *arguments: Any, **options: Any) -> Any:
        counts.append(steps.batches)
        return run(self, steps, *arguments, **options)

    monkeypatch.setattr(Program, "__call__", counting)
    x, y = np.tile(X, (20, 1)), np.tile(Y, 20)
    fit(sequential(), x, y, 2, 2, 0, compiled="on")
    blocks = [count for count in counts if count]
    assert blocks[0] == 8
    assert len(blocks) < 20
    assert sum(blocks) == 2 * 700


class Remembering(keras.layers.Layer):
    """Keeps what its calls are given, as many layers of users do."""

    def __init__(self) -> None:
        super().__init__()
        self.training, self.calls = None, 0

    def call(self, x: Any, training: bool | None = None) -> Any:
        self.training = training
        self.calls += 1
        return x


@pytest.mark.parametrize("on_dataset", [False, True])
def test_attributes_that_calls_set_ask_for_no_new_trace(on_dataset: bool) -> None:
    model = keras.Sequential([keras.Input((4,)), Remembering(), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensor_slices((np.ones((8, 4)), np.ones((8, 1)))).batch(4)
    given = (data, None) if on_dataset else (np.ones((8, 4)), np.ones((8, 1)))
    held_out = data if on_dataset else given
    fit(model, *given, 4, 2, 0, validation_data=held_out, shuffle=False, compiled="on", steps_per_block=1)
    kept = kept_with(model)
    programs = [each for each in kept.values() if isinstance(each, Program | BatchProgram) and each.traces]
    assert [program.traces for program in programs] == [1, 1]


def test_nothing_is_traced_again_in_later_epochs_or_fits() -> None:
    model = sequential()
    fit(model, X, Y, BATCH, 4, 0, validation_split=0.3, compiled="on")
    kept = kept_with(model)
    programs = [kept["train_step"], kept["test_step"]]
    assert [program.traces for program in programs] == [2, 2]  # a whole and a short batch each
    fit(model, X, Y, BATCH, 2, 0, validation_split=0.3, compiled="on")
    fit(model, X + 1, Y, BATCH, 1, 0, validation_split=0.3, compiled="on", seed=1, steps_per_block=1)
    assert [program.traces for program in programs] == [2, 2]
    compiled(model, optimizer="sgd")
    fit(model, X, Y, BATCH, 1, 0, compiled="on")
    assert kept_with(model)["train_step"] is not programs[0]
    assert int(model.optimizer.iterations.numpy()) == STEPS


def test_xla_compiles_once_for_blocks_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where a position became a constant of the program, each block would take a compilation of a second or so.
    model = sequential()
    fit(model, X, Y, BATCH, 1, 0, compiled="on")
    program = kept_with(model)["train_step"]
    concrete = [traced for run in program._runs.values() for traced in run._list_all_concrete_functions()]
    assert len(concrete) == 2
    x, y = np.tile(X, (4, 1)), np.tile(Y, 4)
    import time

    fit(model, x, y, BATCH, 1, 0, compiled="on", steps_per_block=1)
    start = time.perf_counter()
    fit(model, x, y, BATCH, 1, 0, compiled="on", steps_per_block=2)
    fit(model, x, y, BATCH, 1, 0, compiled="on", steps_per_block=5)
    assert time.perf_counter() - start < 2


def test_the_model_is_plain_keras_afterwards() -> None:
    model = sequential(keras.layers.Dropout(0.2, seed=1))
    model.fit(X, Y, verbose=0)
    functions = model.train_function, model.test_function, model.steps_per_execution
    fit(model, X, Y, BATCH, 1, 0, validation_split=0.3, compiled="on")
    assert (model.train_function, model.test_function, model.steps_per_execution) == functions
    before = model.get_weights()[0]
    model.fit(X, Y, verbose=0, validation_split=0.3)
    assert not np.array_equal(before, model.get_weights()[0])
    assert model.predict(X, verbose=0).shape == (EXAMPLES, CLASSES)
    assert model.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(
        evaluate(model, X, Y, verbose=0, return_dict=True), rel=1e-5
    )


def test_functions_come_back_after_an_error() -> None:
    def fail(batch: int, logs: Any) -> None:
        raise RuntimeError("stop")

    model = sequential()
    with pytest.raises(RuntimeError, match="stop"):
        fit(model, X, Y, BATCH, 1, 0, [keras.callbacks.LambdaCallback(on_train_batch_end=fail)], compiled="on")
    assert model.train_function is None
    assert model.steps_per_execution == 1


def test_a_model_is_freed_with_its_programs() -> None:
    model = sequential()
    fit(model, X, Y, BATCH, 1, 0, compiled="on")
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_tensorflow_keeps_no_graph_of_a_freed_model() -> None:
    """Traced with all_reduce, every graph would stay in TensorFlow's registry of gradients."""
    before = {id(graph) for graph in gc.get_objects() if isinstance(graph, tf.Graph)}
    model = sequential()
    fit(model, X, Y, BATCH, 1, 0)
    fit(model, tf.data.Dataset.from_tensor_slices((X, Y)).batch(16), verbose=0, shuffle=False)
    del model
    keras.backend.clear_session()
    gc.collect()
    left = [graph for graph in gc.get_objects() if isinstance(graph, tf.Graph) and id(graph) not in before]
    assert [graph for graph in left if getattr(graph, "outer_graph", None)] == []


def test_many_batch_sizes_bring_no_warning_of_tensorflow(caplog: pytest.LogCaptureFixture) -> None:
    model = sequential()
    for batch_size in range(20, 28):
        fit(model, X, Y, batch_size, 1, 0)
    assert [record.getMessage() for record in caplog.records if "retracing" in record.getMessage()] == []


def test_a_saved_model_holds_nothing_of_ours(tmp_path: Any) -> None:
    model = sequential()
    fit(model, X, Y, BATCH, 1, 0, compiled="on")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


@keras.saving.register_keras_serializable(package="kerasnn_tests")
class PythonLayer(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        outputs = tf.py_function(lambda values: values * 2, [inputs], tf.float32)
        return tf.ensure_shape(outputs, inputs.shape)


class NoXlaLayer(keras.layers.Layer):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.supports_jit = False

    def call(self, inputs: Any) -> Any:
        return inputs


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return X[index * BATCH : (index + 1) * BATCH], Y[index * BATCH : (index + 1) * BATCH]


@pytest.mark.parametrize(
    ("build", "data", "reason"),
    [
        (lambda: sequential(run_eagerly=True), (X, Y), "the model runs eagerly"),
        (lambda: sequential(run_eagerly=True), (Batches(),), "the model runs eagerly"),
    ],
    ids=["eager", "eager, PyDataset"],
)
def test_where_it_cannot_compile_plain_keras_runs_and_says_why(
    build: Any, data: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NotCompilableError, match=reason) as error:
        fit(build(), *data, verbose=0, compiled="on", shuffle=False)
    assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING, "kerasnn"):
        history = fit(build(), *data, verbose=0, shuffle=False)
    assert len(history.history["loss"]) == 1
    (record,) = (record for record in caplog.records if record.name == "kerasnn")
    assert record.message.startswith("plain Keras runs instead of compiled epochs: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; received 0"),
        ({"steps_per_block": -1}, "steps_per_block must be at least 1; received -1"),
        ({"epochs": -1}, "epochs must be 0 or above; received -1"),
        ({"compiled": "yes"}, "compiled must be one of auto, on, off; received 'yes'"),
        ({"memory_share": 0}, "memory_share must be above 0 and at most 1; received 0"),
        ({"sample_weight": np.zeros(EXAMPLES)}, "sample weights must not all be 0"),
        ({"y": Y + 1}, "labels must be 0 to 2 for 3 classes; received 3"),
        ({"y": Y - 1}, "labels must be 0 to 2 for 3 classes; received -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(sequential(), X, **{"y": Y, "verbose": 0} | options)


def test_validation_labels_are_checked_too() -> None:
    with pytest.raises(ValueError, match="labels must be 0 to 2 for 3 classes; received 5"):
        fit(sequential(), X, Y, verbose=0, validation_data=(X, Y + 3))
    with pytest.raises(ValueError, match="labels must be 0 to 2 for 3 classes; received 5"):
        evaluate(sequential(), X, Y + 3, verbose=0)


def test_an_uncompiled_model_is_refused() -> None:
    with pytest.raises(ValueError, match="the model must be compiled first"):
        fit(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), X[:, :2], Y)


def test_orders_visit_every_example_once_and_differ() -> None:
    orders = [epoch_order(1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
        assert (order != np.arange(1000)).mean() > 0.9
    for order, other in pairwise(orders):
        assert (order != other).mean() > 0.9
    np.testing.assert_array_equal(epoch_order(1000, 1, 2), orders[-1])
    with pytest.raises(ValueError, match="seed and epoch must be at least 0; received -1 and 0"):
        epoch_order(3, -1, 0)


@pytest.mark.parametrize("options", [{"seed": 0}, {"shuffle": False}], ids=["seed", "in order"])
def test_global_random_state_is_left_alone(options: dict[str, Any]) -> None:
    np.random.seed(5)
    before = np.random.get_state()
    fit(sequential(), X, Y, BATCH, 1, 0, compiled="on", **options)
    after = np.random.get_state()
    np.testing.assert_array_equal(after[1], before[1])
    assert after[2] == before[2]


@pytest.mark.parametrize(("jit_compile", "xla"), [("auto", [False, False, True]), (True, [True, True, True])])
def test_few_steps_of_evaluation_are_not_worth_xla(monkeypatch: pytest.MonkeyPatch, jit_compile: Any, xla: Any) -> None:
    monkeypatch.setattr(compilation, "FEW", 2 * STEPS)
    used = []
    monkeypatch.setattr(Program, "prepare", lambda self, steps, rates: used.append(self.xla))
    model = sequential(jit_compile=jit_compile)
    for _ in range(3):
        blocks_of(model, "test_step", ResidentExamples(X, Y, batch_size=BATCH), None)
    assert used[::2] == used[1::2] == xla


@pytest.mark.parametrize("data", [lambda: (X, Y), lambda: (tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH),)])
@pytest.mark.parametrize(
    ("jit_compile", "epochs", "xla"),
    [("auto", 2, {False}), ("auto", 3, {True}), (True, 2, {True}), (False, 3, {False})],
)
def test_few_steps_of_training_are_not_worth_xla(
    monkeypatch: pytest.MonkeyPatch, data: Any, jit_compile: Any, epochs: int, xla: Any
) -> None:
    monkeypatch.setattr(compilation, "FEW", 2 * STEPS)
    used = []
    prepare = Program.prepare
    monkeypatch.setattr(Program, "prepare", lambda self, *given: [used.append(self.xla), prepare(self, *given)])
    # A graph reads tf.data itself.
    graph = BatchProgram.prepare
    monkeypatch.setattr(BatchProgram, "prepare", lambda self, *given: [used.append(False), graph(self, *given)])
    model = sequential(jit_compile=jit_compile)
    options: dict[str, Any] = {"verbose": 0, "compiled": "on", "validation_data": data(), "shuffle": False}
    if len(data()) == 2:
        options["batch_size"] = BATCH
    fit(model, *data(), epochs=epochs, **options)
    assert set(used) == xla
    # A training that goes on counts the epochs before it.
    used.clear()
    fit(model, *data(), epochs=epochs, initial_epoch=epochs - 1, **options)
    assert set(used) == xla


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_steps_of_an_unknown_number_are_worth_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "FEW", 10**6)
    model = sequential()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda *_: True).batch(BATCH)
    fit(model, data, epochs=1, verbose=0, compiled="on", shuffle=False)
    assert kept_with(model)["train_step"].xla


@pytest.mark.parametrize("few", [2000], indirect=True)
def test_evaluation_without_xla_is_plain_keras_s(few: int) -> None:
    model = sequential()
    assert evaluate(model, X, Y, BATCH, 0) == model.evaluate(X, Y, BATCH, 0)
    assert not kept_with(model)["test_step without XLA"].xla

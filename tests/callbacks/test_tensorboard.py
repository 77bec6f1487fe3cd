import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kerasnn.tensorboard.callback import TensorBoard
from kerasnn.tensorboard.event_files import histogram

layers = keras.layers
rng = np.random.default_rng(0)
X = rng.normal(size=(48, 6)).astype("float32")
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
PROBE = (X[:16], Y[:16])


def network(optimizer: Any = "sgd", inside: Sequence[Any] = (), jit_compile: bool = False) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="tanh", name="hidden"),
            *inside,
            layers.Dense(3, activation="softmax", name="output"),
        ],
        name="network",
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=jit_compile)
    return model


def fit(model: keras.Model, *callbacks: Any, **options: Any) -> dict[str, list[float]]:
    options = {"epochs": 2, "batch_size": 16, "validation_data": (X[:20], Y[:20]), "shuffle": False} | options
    return model.fit(X, Y, verbose=0, callbacks=list(callbacks), **options).history


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), {"tensors": 0, "scalars": 0, "images": 0}).Reload()


def scalars(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def series(values: Sequence[float] | np.ndarray, first: int = 1) -> list[tuple[int, float]]:
    return [(step, float(np.float32(value))) for step, value in enumerate(values, first)]


@pytest.mark.parametrize("initial_epoch", [0, 3])
def test_scalars_are_the_history_at_the_epochs_of_fit(tmp_path: Path, initial_epoch: int) -> None:
    model = network(keras.optimizers.SGD(0.25))
    history = fit(model, TensorBoard(tmp_path), initial_epoch=initial_epoch, epochs=initial_epoch + 2)
    train, validation = read(tmp_path / "train"), read(tmp_path / "validation")
    for name in ("loss", "accuracy"):
        assert scalars(train, f"epoch_{name}") == series(history[name], initial_epoch + 1)
        assert scalars(validation, f"epoch_{name}") == series(history[f"val_{name}"], initial_epoch + 1)
    assert scalars(train, "learning_rate") == series([0.25, 0.25], initial_epoch + 1)
    assert set(validation.Tags()["scalars"]) == {"epoch_loss", "epoch_accuracy"}


def test_without_validation_there_is_no_validation_run(tmp_path: Path) -> None:
    fit(network(), TensorBoard(tmp_path), validation_data=None)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


class Halving:
    """A rate that halves from update to update and that something like a plateau lowers when an epoch ends."""

    def __init__(self, per: str) -> None:
        self.per = per
        self.factor = 1.0

    def rates(self, epoch: int, updates: int) -> np.ndarray:
        return (self.factor * 0.5 ** (np.arange(updates) + 10 * epoch)).astype("float32")

    def lower(self) -> None:
        self.factor = 0.01


def test_the_rate_of_each_update_is_written_at_the_global_update(tmp_path: Path) -> None:
    owner = Halving("update")
    plateau = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: owner.lower())
    fit(network(), plateau, TensorBoard(tmp_path / "known", learning_rate=owner), epochs=2)
    # 48 examples in batches of 16 are 3 updates an epoch.
    expected = [*0.5 ** np.arange(3), *0.01 * 0.5 ** (np.arange(3) + 10)]
    assert scalars(read(tmp_path / "known" / "train"), "learning_rate_per_update") == series(expected, 0)

    fit(network(), TensorBoard(tmp_path / "later", learning_rate=Halving("update")), initial_epoch=2, epochs=3)
    assert scalars(read(tmp_path / "later" / "train"), "learning_rate_per_update") == series(
        0.5 ** np.arange(20, 23), 6
    )

    fit(network(), TensorBoard(tmp_path / "epoch", learning_rate=Halving("epoch")))
    assert "learning_rate_per_update" not in read(tmp_path / "epoch" / "train").Tags()["scalars"]


def test_logged_rate_is_preferred_and_not_written_twice(tmp_path: Path) -> None:
    fit(network(), keras.callbacks.LearningRateScheduler(lambda epoch: 0.5**epoch), TensorBoard(tmp_path))
    events = read(tmp_path / "train")
    assert scalars(events, "learning_rate") == series([1.0, 0.5])
    assert "epoch_learning_rate" not in events.Tags()["scalars"]


def test_gradients_and_updates_are_those_of_a_step_by_hand(tmp_path: Path) -> None:
    rate = 0.125
    model = network(keras.optimizers.SGD(rate))
    fit(model, TensorBoard(tmp_path, probe=PROBE), epochs=1)
    events = read(tmp_path / "train")

    # Softmax and cross-entropy over tanh, differentiated by hand in float64.
    w1, b1, w2, b2 = (w.astype("float64") for w in model.get_weights())
    x, y = PROBE
    h = np.tanh(x @ w1 + b1)
    z = h @ w2 + b2
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    dz = (p - np.eye(3)[y]) / len(x)
    dh = dz @ w2.T * (1 - h**2)
    gradients = {"hidden": (x.T @ dh, dh.sum(axis=0)), "output": (h.T @ dz, dz.sum(axis=0))}
    weights = {"hidden": (w1, b1), "output": (w2, b2)}

    def norm(parts: Any) -> float:
        return np.sqrt(sum(np.sum(part**2) for part in parts))

    for layer in gradients:
        expected = norm(gradients[layer])
        assert scalars(events, f"gradient_norm/{layer}") == [(1, pytest.approx(expected, rel=1e-5))]
        ratio = rate * expected / norm(weights[layer])
        assert scalars(events, f"update_ratio/{layer}") == [(1, pytest.approx(ratio, rel=1e-4))]
    total = norm([part for parts in gradients.values() for part in parts])
    assert scalars(events, "gradient_norm") == [(1, pytest.approx(total, rel=1e-5))]


def test_gradient_norm_is_that_before_clipping_and_counts_weights_of_examples(tmp_path: Path) -> None:
    def norm(name: str, optimizer: Any, probe: Any) -> float:
        fit(network(optimizer), TensorBoard(tmp_path / name, probe=probe), epochs=1, validation_data=None)
        return scalars(read(tmp_path / name / "train"), "gradient_norm")[0][1]

    # A rate too small to move the weights gives all of them the same gradients.
    plain = norm("plain", keras.optimizers.SGD(1e-20), PROBE)
    assert norm("clipped", keras.optimizers.SGD(1e-20, global_clipnorm=1e-3), PROBE) == plain
    assert norm("weighted", keras.optimizers.SGD(1e-20), (*PROBE, np.full(16, 2.0))) == pytest.approx(
        2 * plain, rel=1e-6
    )


def test_update_ratio_with_accumulation_is_that_of_the_step_that_updates(tmp_path: Path) -> None:
    optimizer = keras.optimizers.SGD(0.125, gradient_accumulation_steps=3)
    fit(network(optimizer), TensorBoard(tmp_path, probe=PROBE), epochs=1)
    events = read(tmp_path / "train")
    norm, ratio = (scalars(events, f"{tag}/output")[0][1] for tag in ("gradient_norm", "update_ratio"))
    assert norm > 0
    assert ratio > 0


REGULARIZED: dict[str, Callable[[], dict[str, Any]]] = {
    "adam": lambda: {
        "optimizer": keras.optimizers.Adam(0.01, global_clipnorm=0.1, use_ema=True),
        "inside": [layers.BatchNormalization(), layers.Dropout(0.5, seed=3), layers.GaussianNoise(0.1)],
    },
    "xla": lambda: {
        "optimizer": keras.optimizers.AdamW(0.01, clipnorm=0.1, weight_decay=0.1),
        "inside": [layers.BatchNormalization(), layers.Dropout(0.5, seed=3)],
        "jit_compile": True,
    },
    "accumulated": lambda: {
        "optimizer": keras.optimizers.RMSprop(0.01, momentum=0.9, gradient_accumulation_steps=2),
        "inside": [layers.Dropout(0.5, seed=3)],
    },
    "scaled": lambda: {
        "optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), dynamic_growth_steps=2),
        "inside": [layers.Dropout(0.5, seed=3)],
    },
}


@pytest.mark.parametrize("kind", REGULARIZED)
def test_a_watched_run_is_bit_identical_to_one_left_alone(tmp_path: Path, kind: str) -> None:
    def run(*callbacks: Any) -> tuple[list[bytes], dict[str, list[float]]]:
        model = network(**REGULARIZED[kind]())
        history = fit(model, *callbacks, epochs=3, shuffle=True)
        variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        return [variable.numpy().tobytes() for variable in variables], history

    everything = TensorBoard(
        tmp_path, probe=PROBE, validation=(X, Y), task="multiclass", images_every=2, config_text="{}"
    )
    alone, watched = run(), run(everything)
    assert watched == alone
    assert all(ratio > 0 for _, ratio in scalars(read(tmp_path / "train"), "update_ratio/hidden"))


def test_a_changed_embedding_is_put_back(tmp_path: Path) -> None:
    tokens = rng.integers(0, 20, (48, 4))

    def run(*callbacks: Any) -> list[bytes]:
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((4,)), layers.Embedding(20, 3), layers.Flatten(), layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        model.fit(tokens, Y, epochs=3, verbose=0, shuffle=False, callbacks=list(callbacks))
        return [variable.numpy().tobytes() for variable in [*model.variables, *model.optimizer.variables]]

    assert run(TensorBoard(tmp_path, probe=(tokens[:8], Y[:8]))) == run()


def test_a_variable_that_nobody_told_of_is_put_back(tmp_path: Path) -> None:
    count = tf.Variable(0)

    class Counting(keras.layers.Layer):
        def call(self, x: Any, training: bool | None = None) -> Any:
            if training:
                count.assign_add(1)
            return x

    fit(network(inside=[Counting()]), TensorBoard(tmp_path, probe=PROBE, histograms_every=0), epochs=2)
    assert int(count) == 6


def test_layer_names_are_the_same_for_all_ways_to_build_a_model(tmp_path: Path) -> None:
    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = layers.Dense(5, activation="tanh", name="hidden")
            self.out = layers.Dense(3, activation="softmax", name="output")

        def call(self, x: Any) -> Any:
            return self.out(self.hidden(x))

    inputs = keras.Input((6,))
    hidden = layers.Dense(5, activation="tanh", name="hidden")(inputs)
    functional = keras.Model(inputs, layers.Dense(3, activation="softmax", name="output")(hidden))
    tags = []
    for style, model in (("sequential", network()), ("functional", functional), ("subclassed", Subclassed())):
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        fit(model, TensorBoard(tmp_path / style, probe=PROBE), epochs=1)
        events = read(tmp_path / style / "train")
        assert events.Graph().node
        tags.append({kind: set(events.Tags()[kind]) for kind in ("scalars", "tensors")})
    assert tags[0] == tags[1] == tags[2]
    variables = ("hidden/kernel", "hidden/bias", "output/kernel", "output/bias")
    assert tags[0]["tensors"] == {f"{kind}/{path}" for kind in ("weights", "gradients") for path in variables} | {
        "activations/hidden",
        "activations/output",
    }


def test_histograms_count_every_weight_once(tmp_path: Path) -> None:
    model = network(inside=[layers.BatchNormalization(name="norm")])
    fit(model, TensorBoard(tmp_path, histograms_every=2), epochs=5)
    events = read(tmp_path / "train")
    for weight in model.weights:
        tensors = events.Tensors(f"weights/{weight.path.removeprefix('network/')}")
        assert [event.step for event in tensors] == [2, 4]
        for event in tensors:
            assert tf.make_ndarray(event.tensor_proto)[:, 2].sum() == weight.numpy().size


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        (np.linspace(-1, 2, 301), np.linspace(-1, 2, 301)),
        (np.array([[0, 30], [np.nan, np.inf]], "float32"), [0, 30]),
    ],
)
def test_histogram_is_numpys(values: np.ndarray, finite: np.ndarray) -> None:
    (value,) = histogram("tag", values)
    buckets = tf.make_ndarray(value.tensor)
    counts, edges = np.histogram(finite, 30)
    np.testing.assert_allclose(buckets[:, 0], edges[:-1])
    np.testing.assert_allclose(buckets[:, 1], edges[1:])
    # A value on an edge may fall to either side of it.
    np.testing.assert_allclose(np.cumsum(buckets[:, 2]), np.cumsum(counts), atol=1)
    assert buckets[:, 2].sum() == len(finite)


def test_histogram_of_equal_or_no_values() -> None:
    (value,) = histogram("tag", np.full(7, 0.5))
    assert tf.make_ndarray(value.tensor).tolist() == [[0.5, 0.5, 7]]
    assert histogram("tag", np.full(7, np.nan)) == []


def test_configuration_is_a_block_of_code(tmp_path: Path) -> None:
    fit(network(), TensorBoard(tmp_path, config_text='{\n  "seed": 1\n}'), epochs=1)
    events = read(tmp_path / "train")
    assert events.Tensors("config")[0].tensor_proto.string_val == [b'```json\n{\n  "seed": 1\n}\n```']
    assert events.summary_metadata["config"].plugin_data.plugin_name == "text"


def captured(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What the figures are given, besides drawing them."""
    from kerasnn import figures

    calls: dict[str, list[Any]] = {}
    for name in ("confusion_matrix", "mistakes", "predicted_against_true"):
        draw = getattr(figures, name)

        def record(*arguments: Any, name: str = name, draw: Any = draw) -> Any:
            calls.setdefault(name, []).append(arguments)
            return draw(*arguments)

        monkeypatch.setattr(figures, name, record)
    return calls


@pytest.mark.parametrize("labels", ["integer", "one-hot"])
def test_images_of_classifiers_at_intervals_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str
) -> None:
    calls = captured(monkeypatch)
    model = network()
    y = Y if labels == "integer" else np.eye(3)[Y]
    fit(model, TensorBoard(tmp_path, images_every=2, validation=(X, y), task="multiclass", class_names="abc"), epochs=5)
    events = read(tmp_path / "validation")
    for tag in ("confusion_matrix", "mistakes"):
        images = events.Images(tag)
        assert [image.step for image in images] == [2, 4, 5]
        assert images[0].encoded_image_string.startswith(b"\x89PNG")
        assert tf.io.decode_png(images[0].encoded_image_string).shape[:2] == (images[0].height, images[0].width)
    matrix, names = calls["confusion_matrix"][-1]
    expected = tf.math.confusion_matrix(Y, model.predict(X, verbose=0).argmax(axis=1), 3).numpy()
    np.testing.assert_array_equal(matrix, expected)
    assert names == "abc"


@pytest.mark.parametrize(("share", "steps"), [(1e-9, [4]), (1e9, [1, 2, 3, 4])])
def test_images_and_histograms_take_a_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, steps: list[int]
) -> None:
    monkeypatch.setattr("kerasnn.timings.SHARE", share)
    fit(network(), TensorBoard(tmp_path, probe=PROBE, validation=(X, Y), task="multiclass"), epochs=4)
    assert [image.step for image in read(tmp_path / "validation").Images("mistakes")] == steps
    # The first histograms are due at once, because they take milliseconds.
    for tag in ("weights/output/kernel", "gradients/output/kernel", "activations/output"):
        assert [each.step for each in read(tmp_path / "train").Tensors(tag)] == sorted({1, *steps})


@pytest.mark.parametrize("from_logits", [False, True])
def test_binary_classes_part_at_one_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_logits: bool) -> None:
    calls = captured(monkeypatch)
    keras.utils.set_random_seed(1)
    activation = None if from_logits else "sigmoid"
    model = keras.Sequential([keras.Input((6,)), layers.Dense(1, activation=activation)])
    model.compile(keras.optimizers.SGD(0.0), keras.losses.BinaryCrossentropy(from_logits=from_logits))
    y = (X[:, 0] > 0).astype(int)
    callback = TensorBoard(tmp_path, images_every=1, validation=(X, y[:, None]), task="binary")
    model.fit(X, y, epochs=1, verbose=0, callbacks=[callback])
    score = X @ model.get_weights()[0][:, 0]
    expected = tf.math.confusion_matrix(y, score > 0, 2).numpy()
    np.testing.assert_array_equal(calls["confusion_matrix"][0][0], expected)
    probabilities = calls["mistakes"][0][3]
    np.testing.assert_allclose(probabilities[:, 1], 1 / (1 + np.exp(-score)), rtol=1e-5)


@pytest.mark.parametrize(("task", "images"), [("regression", ["predicted_against_true"]), ("multilabel", [])])
def test_images_fit_the_task(tmp_path: Path, task: str, images: list[str]) -> None:
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    model.compile("sgd", "mse")
    y = X[:, :2]
    model.fit(X, y, verbose=0, validation_data=(X, y), callbacks=[TensorBoard(tmp_path, validation=(X, y), task=task)])
    assert read(tmp_path / "validation").Tags()["images"] == images


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"task": "multi-class"},
            r"task must be one of binary, .*; received 'multi-class' \(did you mean 'multiclass'",
        ),
        ({"validation": (X, Y)}, "task must be one of"),
        ({"images_every": -1}, "images_every must be a number of epochs, or 0 for never; received -1"),
        ({"histograms_every": 1.5}, "histograms_every must be"),
        ({"probe": X[:1]}, r"probe must be \(x,\), \(x, y\) or \(x, y, sample_weight\), received ndarray"),
        ({"probe": (X, Y, Y, Y)}, r"probe must be \(x,\), \(x, y\) or \(x, y, sample_weight\), received 4 parts"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TensorBoard(tmp_path, **arguments)


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^log_dir must be writable, received '.*file/run' \(Not a directory\)$"):
        fit(network(), TensorBoard(tmp_path / "file" / "run"))


def test_a_run_that_fails_leaves_whole_epochs_and_ends_its_process(tmp_path: Path) -> None:
    program = f"""
import keras, numpy as np
from kerasnn.tensorboard.callback import TensorBoard
from kerasnn.tensorboard.event_files import histogram
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")
def stop(epoch, logs):
    if epoch == 2:
        raise RuntimeError("stop")
model.fit(np.ones((4, 3)), np.ones((4, 2)), epochs=5, verbose=0,
          callbacks=[TensorBoard({str(tmp_path)!r}), keras.callbacks.LambdaCallback(on_epoch_begin=stop)])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=os.environ)
    assert "RuntimeError: stop" in run.stderr
    assert [step for step, _ in scalars(read(tmp_path / "train"), "epoch_loss")] == [1, 2]


def test_event_files_are_told_apart_by_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock runs backwards, and others write to the folder too."""
    clock = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    board, model = TensorBoard(tmp_path, graph=False, images_every=0), network()
    fit(model, board, epochs=2)
    state = board.get_state()
    assert state["next_file"] == 2
    fit(model, board, epochs=4, initial_epoch=2)
    theirs = tmp_path / "train" / "events.out.tfevents.1234.host.v2"
    theirs.write_text("of another writer")
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    linked = next((tmp_path / "train").glob("*.file000000.*"))
    (tmp_path / "validation" / linked.name).symlink_to(outside)
    state["sizes"]["validation"][linked.name] = 0

    resumed = TensorBoard(tmp_path, graph=False, images_every=0)
    resumed.set_model(model)
    resumed.on_train_begin()
    resumed.set_state(state)
    resumed.on_train_end()
    names = [f"events.out.tfevents.file{number:06d}.kerasnn" for number in (0, 2)]
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [theirs.name, *names]
    assert {path.name: path.stat().st_size for path in (tmp_path / "train").glob(names[0])} == {
        names[0]: state["sizes"]["train"][names[0]]
    }
    assert theirs.read_text() == "of another writer"
    assert outside.read_text() == "untouched"


def test_a_second_fit_goes_on_in_the_same_run(tmp_path: Path) -> None:
    model, callback = network(), TensorBoard(tmp_path)
    history = fit(model, callback, epochs=2)["loss"]
    history += fit(model, callback, initial_epoch=2, epochs=3)["loss"]
    assert len(list((tmp_path / "train").iterdir())) == 2
    assert scalars(read(tmp_path / "train"), "epoch_loss") == series(history)


def test_a_run_whose_files_count_epochs_from_0_goes_on_so(tmp_path: Path) -> None:
    """Version 0.1 did; its state does not say where it began."""
    model, first = network(), TensorBoard(tmp_path)
    first._first_step = 0
    history = fit(model, first, epochs=2)["loss"]
    state = first.get_state()
    assert state.pop("first_step") == 0

    class Resumed(TensorBoard):
        def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
            super().on_train_begin(logs)
            self.set_state(state)

    history += fit(model, Resumed(tmp_path), initial_epoch=2, epochs=3)["loss"]
    assert scalars(read(tmp_path / "train"), "epoch_loss") == series(history, 0)

"""A training that ends anywhere and is called again ends with the bits that it would have ended with."""

import hashlib
import multiprocessing
import os
import signal
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasnn
from kerasnn.callbacks.divergence import DivergenceError
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.checkpoint import variables
from kerasnn.checkpoint.callback_state import HistoryState
from kerasnn.checkpoint.state_file import StateFolder
from kerasnn.checkpoint.training_state import TrainingState
from kerasnn.config.schedules import OneCycle
from kerasnn.signals import TerminatedError
from tests.checkpoint.killing import Dead, Die

X = np.random.default_rng(0).normal(size=(100, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


def network():
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(5, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def keras_fit(model, state, callbacks, **options):
    return model.fit(X, Y, validation_data=(X, Y), verbose=0, **state.resume(model, callbacks), **options)


def plain(model, state, callbacks, **options):
    return kerasnn.fit(model, X, Y, verbose=0, compiled="off", **state.resume(model, callbacks), **options)


def compiled(model, state, callbacks, **options):
    resumed = state.resume(model, callbacks)
    return kerasnn.fit(model, X, Y, verbose=0, compiled="on", steps_per_block=2, **resumed, **options)


def streamed(model, state, callbacks, **options):
    return compiled(model, state, callbacks, memory_share=1e-9, **options)


@pytest.mark.filterwarnings("ignore:.*shuffle=True. was passed")
def dataset(model, state, callbacks, **options):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(100, seed=3).batch(32)
    return model.fit(verbose=0, **state.resume(model, callbacks, data), **options)


def of_unknown_length(model, state, callbacks, **options):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True).shuffle(100, seed=3).batch(32)
    return model.fit(verbose=0, **state.resume(model, callbacks, data), **options)


def endless(model, state, callbacks, **options):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(100, seed=3).batch(32).repeat()
    return model.fit(verbose=0, steps_per_epoch=3, **state.resume(model, callbacks, data, steps_per_epoch=3), **options)


def outcome(model, history):
    variables = [*model.variables, *model.optimizer.variables]
    weights = hashlib.sha256(b"".join(np.asarray(variable.numpy()).tobytes() for variable in variables)).hexdigest()
    return weights, history.epoch, history.history


def train(fit, folder, at=0, callbacks=(), **options):
    model, state = network(), TrainingState(folder, seconds=0)
    history = fit(model, state, [*callbacks, Die(at)], epochs=4, **options)
    return outcome(model, history)


long = pytest.mark.skipif("KERASNN_ALL_TESTS" not in os.environ, reason="a further way; set KERASNN_ALL_TESTS=1")


@pytest.mark.parametrize(
    "fit",
    [
        plain,
        compiled,
        dataset,
        *(pytest.param(fit, marks=long) for fit in (keras_fit, streamed, of_unknown_length, endless)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*shuffle=True. was passed", "ignore:.*ran out of data")
def test_an_end_anywhere_changes_nothing(tmp_path, fit, monkeypatch):
    if fit is streamed:
        monkeypatch.setattr("kerasnn.engine.examples.CHUNK_BYTES", 1000)
    whole = train(fit, tmp_path / "whole")
    with pytest.raises(Dead):
        train(fit, tmp_path / "ended", 6)
    assert train(fit, tmp_path / "ended") == whole


class DieAfterLastStep(Die):
    """Ends everything between the first epoch's last step and its end."""

    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        if self.left:
            raise self.error


def test_an_end_after_an_epochs_last_step_keeps_its_learning_rate(tmp_path):
    def run(folder, dies):
        model, state = network(), TrainingState(tmp_path / folder, seconds=0)
        callbacks = [LearningRate(OneCycle(), 0.02), DieAfterLastStep(dies)]
        return outcome(model, compiled(model, state, callbacks, epochs=2))

    whole = run("whole", dies=False)
    with pytest.raises(Dead):
        run("ended", dies=True)
    assert run("ended", dies=False) == whole


def metrics_put_back():
    """A metric's total on each of two replicas: as it was, and put back on two and on one."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        total = keras.metrics.Mean().total
    alone = keras.metrics.Mean().total
    for part, value in zip(total.value.values, (0.1, 1e8), strict=True):
        part.assign(value)
    kept = {"metrics": [variables._value(total)]}
    for variable in (total, alone):
        variable.assign(7.0)
        variables.assign({"metrics": [variable]}, kept)
    return [float(part.numpy()) for part in total.value.values], float(alone.numpy())


def test_each_replica_has_its_own_metrics_again():
    with multiprocessing.get_context("spawn").Pool(1) as process:
        parts, alone = process.apply(metrics_put_back)
    assert parts == [np.float32(0.1), 1e8]
    assert alone == 1e8


class Counter(keras.callbacks.Callback):
    """A user's callback with the protocol."""

    def __init__(self):
        super().__init__()
        self.batches, self.losses = 0, np.zeros(0)

    def get_state(self):
        return {"batches": self.batches, "losses": self.losses}

    def set_state(self, state):
        self.batches, self.losses = state["batches"], state["losses"]

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.losses = np.append(self.losses, logs["loss"])


# A killed CSVLogger leaves its file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_callbacks_go_on(tmp_path):
    def callbacks(name):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return [
            keras.callbacks.EarlyStopping("loss", patience=3, min_delta=9.0, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("loss", patience=2, min_delta=9.0, cooldown=1),
            keras.callbacks.ModelCheckpoint(folder / "best.keras", "loss", save_best_only=True, mode="max"),
            keras.callbacks.CSVLogger(folder / "log.csv"),
            Counter(),
        ]

    def run(name, at=0):
        kept = callbacks(name)
        result = train(plain, tmp_path / name / "state", at, kept)
        stopping, plateau, checkpoint, _, counter = kept
        weights = [weight.tolist() for weight in keras.saving.load_model(tmp_path / name / "best.keras").get_weights()]
        attributes = [stopping.wait, stopping.stopped_epoch, stopping.best, stopping.best_epoch, plateau.wait]
        attributes += [
            plateau.best,
            plateau.cooldown_counter,
            checkpoint.best,
            counter.batches,
            counter.losses.tolist(),
        ]
        return result, attributes, weights, (tmp_path / name / "log.csv").read_text()

    whole = run("whole")
    assert whole[1][:2] == [3, 3]  # it stopped early
    with pytest.raises(Dead):
        run("ended", 6)
    assert run("ended") == whole


def test_a_run_that_was_stopped_early_does_not_train_on(tmp_path):
    class DieAtEnd(Die):
        def on_train_end(self, logs=None):
            raise Dead

    def run(name, end):
        model, state = network(), TrainingState(tmp_path / name)
        stopping = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=9.0, restore_best_weights=True)
        history = plain(model, state, [stopping, *end], epochs=9)
        return outcome(model, history)

    whole = run("whole", [])
    assert whole[1] == [0, 1]
    for _ in range(2):
        with pytest.raises(Dead):
            run("ended", [DieAtEnd(0)])
    assert run("ended", []) == whole


def test_a_callback_without_a_state_is_named(tmp_path, caplog):
    class Mine(keras.callbacks.Callback):
        pass

    for _ in range(2):
        model = network()
        model.fit(X, Y, verbose=0, **TrainingState(tmp_path).resume(model, [Mine(), Counter()]))
    assert caplog.text.count("has no get_state") == 1
    assert "Mine has no get_state and set_state: what it counted before the restart is lost" in caplog.text


def test_refusals(tmp_path):
    model = network()
    model.fit(X, Y, verbose=0, **TrainingState(tmp_path, fingerprint="a").resume(model))
    with pytest.raises(ValueError, match=r"the state in .* must be of the same data, received others"):
        TrainingState(tmp_path, fingerprint="b").resume(model)
    other = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    other.compile("adam", "mse")
    with pytest.raises(
        ValueError, match="the state must be of this model, received one with 9 model variables, the model has 2"
    ):
        TrainingState(tmp_path, fingerprint="a").resume(other)
    wider = keras.Sequential([keras.Input((6,)), keras.layers.Dense(7)])
    wider.compile("adam", "mse")
    other.fit(X, X[:, :2], verbose=0, **TrainingState(tmp_path / "other").resume(other))
    with pytest.raises(ValueError, match=r"must be of this model, received float32 \(6, 2\) for .*kernel, which is"):
        TrainingState(tmp_path / "other").resume(wider)
    with pytest.raises(ValueError, match="the model must be compiled before its state is restored"):
        TrainingState(tmp_path).resume(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="one callback must own the state, received BackupAndRestore as well"):
        TrainingState(tmp_path).resume(model, [keras.callbacks.BackupAndRestore(tmp_path / "b")])
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    with pytest.raises(ValueError, match=r"must be without end to resume: repeat\(\) it.*received one of 10 batches"):
        TrainingState(tmp_path, fingerprint="a").resume(model, dataset=data, steps_per_epoch=5)


def test_what_is_not_finite_is_not_saved(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                self.model.layers[-1].kernel.assign(np.full((5, 2), np.nan))

    model, state = network(), TrainingState(tmp_path, every_epoch=True)
    with pytest.raises(DivergenceError, match=r"dense_1/kernel must stay finite to be saved.*in epoch 3"):
        plain(model, state, [Poison()], epochs=4)
    state.flush()
    assert StateFolder(tmp_path).newest()["epoch"] == 2


class Saved(keras.callbacks.Callback):
    """Notes the epochs in the newest state at the end of each epoch."""

    def __init__(self, state):
        super().__init__()
        self.state, self.epochs = state, []

    def on_epoch_end(self, epoch, logs=None):
        self.state.flush()
        self.epochs.append(self.state.files.epochs)


@pytest.mark.parametrize(
    ("share", "every_epoch", "epochs"), [(1e9, False, [0, 1, 2, 3]), (1e-9, True, [0, 1, 2, 3]), (1e-9, False, [0] * 4)]
)
def test_short_epochs_are_saved_as_often_as_the_time_allows(tmp_path, monkeypatch, share, every_epoch, epochs):
    monkeypatch.setattr("kerasnn.timings.SHARE", share)
    state = TrainingState(tmp_path, every_epoch=every_epoch)
    saved = Saved(state)
    plain(network(), state, [saved], epochs=4)
    assert saved.epochs == epochs
    assert state.files.epochs == 4  # the last epoch is always saved


@pytest.mark.parametrize("share", [1e9, 1e-9])
def test_an_end_between_two_saved_epochs_changes_nothing(tmp_path, monkeypatch, share):
    monkeypatch.setattr("kerasnn.timings.SHARE", share)
    whole = train(plain, tmp_path / "whole")
    monkeypatch.setattr("kerasnn.checkpoint.training_state.SECONDS", 1e9)

    model, state = network(), TrainingState(tmp_path / "ended")
    with pytest.raises(Dead):
        plain(model, state, [Die(11)], epochs=4)
    state.flush()
    assert state.files.epochs == (0 if share < 1 else 2)
    model = network()
    assert outcome(model, plain(model, TrainingState(tmp_path / "ended"), [Die(0)], epochs=4)) == whole


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, TerminatedError), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_saves_the_state_and_ends_training(tmp_path, number, error):
    class Signal(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1 and self.model.optimizer.iterations.numpy() > 4:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    whole = train(plain, tmp_path / "whole")
    model, state = network(), TrainingState(tmp_path / "ended")
    with pytest.raises(error) as raised, state.on_signals():
        plain(model, state, [Signal()], epochs=4)
    assert raised.type is error
    assert signal.getsignal(number) is before
    found = StateFolder(tmp_path / "ended").newest()
    assert (found["epoch"], found["step"]) == (1, 2)
    assert train(plain, tmp_path / "ended") == whole


def test_what_can_not_be_saved_ends_training_with_one_line(tmp_path):
    class Full(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                state.flush()
                state.files.path = tmp_path / "file" / "state"

    (tmp_path / "file").write_text("")
    model, state = network(), TrainingState(tmp_path / "state", every_epoch=True)
    with pytest.raises(OSError, match="the state can't be saved, the one before is kept"):
        plain(model, state, [Full()], epochs=9)
    assert StateFolder(tmp_path / "state").newest()["epoch"] == 2


def test_training_does_not_wait_for_a_slow_disk(tmp_path, monkeypatch):
    model, state = network(), TrainingState(tmp_path, every_epoch=True)
    written, free, write = [], threading.Event(), state.files.write

    def slow(tree):
        free.wait(60)
        write(tree)
        written.append(tree["epoch"])

    class Free(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 5:
                time.sleep(0.1)
                free.set()

    monkeypatch.setattr(state._writer, "_write", slow)
    plain(model, state, [Free()], epochs=6)
    assert written[0] == 0
    assert written[-1] == 6
    assert 1 not in written  # a newer one took its place
    assert StateFolder(tmp_path).newest()["epoch"] == 6


def test_rolling_back_lowers_the_rate_for_good(tmp_path):
    model, state, rate = network(), TrainingState(tmp_path), LearningRate(learning_rate=0.02)
    plain(model, state, [rate], epochs=2)
    assert state.roll_back(0.5) == (2, 0.01)
    again = LearningRate(learning_rate=0.02)
    model = network()
    history = plain(model, TrainingState(tmp_path), [again], epochs=3)
    np.testing.assert_allclose(history.history["learning_rate"], [0.02, 0.02, 0.01])
    assert StateFolder(tmp_path).newest()["rollbacks"] == 1
    with pytest.raises(ValueError, match="rolling back needs a saved state and a LearningRate callback"):
        TrainingState(tmp_path / "empty").roll_back(0.5)


def test_history_of_a_state_follows_that_of_keras():
    """It reads only what is new, also after `fit` has begun a history anew, and keeps what it gave before."""
    history, state = keras.callbacks.History(), HistoryState()
    history.on_train_begin()
    trees = []
    for epoch, logs in enumerate([{"loss": 0.5}, {"loss": 0.25, "val": 1.0, "phase": "late"}, {"loss": 0.125}]):
        trees.append(state.read(history, epoch, logs))
        history.set_model(keras.Model())
        history.on_epoch_end(epoch, logs)
    within = state.read(history, None, {})
    assert [tree["epoch"].tolist() for tree in trees] == [[0], [0, 1], [0, 1, 2]]
    assert [tree["values"]["loss"].tolist() for tree in trees] == [[0.5], [0.5, 0.25], [0.5, 0.25, 0.125]]
    assert within["values"]["val"].tolist() == [1.0]
    assert within["values"]["phase"] == ["late"]
    again = keras.callbacks.History()
    again.on_train_begin()
    assert state.read(again, 7, {"loss": 2.0})["epoch"].tolist() == [7]

"""A run folder is gone on with: killed anywhere, ended, or diverged."""

import csv
import json
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.chaos.trainings import events
from kerasnn.callbacks.divergence import DivergenceError
from kerasnn.checkpoint.state_file import StateFolder
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import from_arrays
from kerasnn.files import alone_in
from kerasnn.runs.train import train
from kerasnn.signals import TerminatedError
from kerasnn.tensorboard.event_files import EventFile

CONFIG = replace_at(
    RunConfig(),
    {
        "data.name": "arrays",
        "data.test_share": 0,
        "network.hidden": [6],
        "regularization.dropout": 0.2,
        "optimizer.learning_rate": 0.01,
        "training.epochs": 4,
        "training.compiled": "off",
        "training.plateau": {"patience": 1, "min_delta": 0.5},
        "report.progress": "silent",
        "report.images_every": 0,
        "report.graph": False,
        "report.health": False,
    },
)
X = np.random.default_rng(0).normal(size=(160, 5))
DATA = from_arrays(X, np.arange(160) % 3, config=CONFIG.data)
PLAIN = replace_at(CONFIG, {"report.tensorboard": False})


class Dead(BaseException):
    """Stands for a kill."""


class Die(keras.callbacks.Callback):
    def __init__(self, epoch, hook="on_epoch_end"):
        super().__init__()
        setattr(self, hook, lambda at, logs=None: self._die(at, epoch))

    def _die(self, at, epoch):
        if at == epoch:
            raise Dead


def outcome(result, folder):
    best = keras.saving.load_model(folder / "best.keras").get_weights()
    return {
        "weights": [variable.numpy().tolist() for variable in result.model.variables],
        "optimizer": [variable.numpy().tolist() for variable in result.model.optimizer.variables],
        "history": result.history,
        "table": (folder / "history.csv").read_text(),
        "best": [weight.tolist() for weight in best],
        "best epoch": json.loads((folder / "result.json").read_text())["best"],
        "events": events(folder),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return outcome(train(CONFIG, folder, DATA), folder)


def test_killed_runs_end_as_if_they_had_not_been(tmp_path, whole):
    folder = tmp_path / "run"
    for epoch, hook in ((0, "on_epoch_end"), (2, "on_epoch_begin"), (2, "on_epoch_end")):
        with pytest.raises(Dead):
            train(CONFIG, folder, DATA, callbacks=[Die(epoch, hook)])
        # As a kill leaves things: no result, no final model, and something half-written.
        (folder / "result.json").unlink()
        (folder / ".model.1.partial.keras").write_text("half")
    assert outcome(train(CONFIG, folder, DATA), folder) == whole
    assert not (folder / ".model.1.partial.keras").exists()
    # Ended, it has nothing left to do.
    assert outcome(train(CONFIG, folder, DATA), folder) == whole


def test_more_epochs_make_the_longer_run(tmp_path, whole):
    folder = tmp_path / "run"
    train(replace_at(CONFIG, {"training.epochs": 2}), folder, DATA)
    assert outcome(train(CONFIG, folder, DATA), folder) == whole


def test_killed_before_its_first_state_it_begins_anew(tmp_path, whole):
    folder = tmp_path / "run"
    with pytest.raises(Dead):
        train(CONFIG, folder, DATA, callbacks=[Die({}, "on_train_begin")])
    assert (folder / "train").exists()
    (folder / "result.json").unlink()
    assert outcome(train(CONFIG, folder, DATA), folder) == whole


class Fail(keras.callbacks.Callback):
    """Ends a run before its first state."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_begin(self, logs=None):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (TerminatedError(), "interrupted"), (OSError("disk full"), "failed")],
)
def test_ended_before_its_first_state_it_begins_anew(tmp_path, whole, error, status):
    folder = tmp_path / "run"
    with pytest.raises(type(error)):
        train(CONFIG, folder, DATA, callbacks=[Fail(error)])
    assert json.loads((folder / "result.json").read_text())["status"] == status
    assert not StateFolder(folder / "state").files()
    mine = folder / "train" / "events.out.tfevents.1234.mine"
    mine.write_text("of another writer")
    resumed = train(RunConfig.load(folder), folder, DATA)
    assert mine.read_text() == "of another writer"
    mine.unlink()
    assert outcome(resumed, folder) == whole


@pytest.mark.parametrize(("epoch", "kept"), [(0, False), (1, True)])
def test_an_unnamed_run_that_fails_before_it_has_learned_leaves_no_folder(tmp_path, monkeypatch, epoch, kept):
    class Full(keras.callbacks.Callback):
        def on_epoch_begin(self, at, logs=None):
            if at == epoch:
                raise OSError("disk full")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        train(CONFIG, None, DATA, callbacks=[Full()])
    assert len(list(Path("logs").iterdir())) == kept
    # A folder that was named is the user's.
    with pytest.raises(OSError, match="disk full"):
        train(CONFIG, "mine", DATA, callbacks=[Full()])
    assert Path("mine/config.json").exists()


def test_a_second_ctrl_c_loses_nothing(tmp_path, whole, monkeypatch):
    folder = tmp_path / "run"

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                signal.raise_signal(signal.SIGINT)

    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("kerasnn.runs.train.save_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, folder, DATA, callbacks=[Interrupt()])
    assert not (folder / "result.json").exists()
    assert outcome(train(CONFIG, folder, DATA), folder) == whole


@pytest.mark.parametrize(
    "name",
    ["config.json", "result.json", "history.csv", "network.svg", "best.keras", "state", "train", "validation/events"],
)
def test_links_in_a_run_folder_are_refused(tmp_path, name):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    train(replace_at(CONFIG, {"training.epochs": 1}), folder, DATA)
    link = folder / name
    if link.is_dir():
        link.rename(outside)
    else:
        outside.write_text("mine")
        link.unlink(missing_ok=True)
    link.symlink_to(outside)
    before = content(outside)
    with pytest.raises(ValueError, match=rf"run/{name} must lie in its folder, received a link to .*/outside"):
        train(CONFIG, folder, DATA)
    assert content(outside) == before


def content(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files}


def test_a_result_that_is_none_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    (tmp_path / "result.json").write_text('{"epochs": "many"}')
    with pytest.raises(ValueError, match=r"result\.json must be the result of a run, received b'\{\"epochs"):
        train(CONFIG, tmp_path, DATA)


def test_what_may_change_and_what_may_not(tmp_path):
    folder = tmp_path / "run"
    short = replace_at(PLAIN, {"training.epochs": 2})
    train(short, folder, DATA)
    changed = {"network.hidden": [7], "optimizer.learning_rate": 0.1, "seed": 3}
    line = (
        r"run_dir must continue the run that it holds, .* began with another seed, network.hidden, optimizer.learning"
    )
    with pytest.raises(ValueError, match=line):
        train(replace_at(short, changed), folder, DATA)
    with pytest.raises(
        ValueError, match=r"training.epochs must be at least the 2 that .* has trained already, received 1"
    ):
        train(replace_at(short, {"training.epochs": 1}), folder, DATA)
    other = from_arrays(X + 1, np.arange(160) % 3, config=CONFIG.data)
    with pytest.raises(ValueError, match="must be of the same data, received others"):
        train(short, folder, other)
    assert RunConfig.load(folder) == short
    result = train(replace_at(short, {"training.epochs": 3, "report.histograms_every": 2}), folder, DATA)
    assert len(result.history["loss"]) == 3


def test_a_folder_has_one_process(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (
        alone_in(folder, "run_dir"),
        pytest.raises(ValueError, match=r"run_dir must be free, received .*run, which another process is using"),
    ):
        train(PLAIN, folder, DATA)
    assert not list(folder.iterdir())


def test_a_run_without_a_state_is_not_overwritten(tmp_path):
    config = replace_at(PLAIN, {"training.save_state": False, "training.epochs": 1})
    train(config, tmp_path / "run", DATA)
    assert not (tmp_path / "run" / "state").exists()
    with pytest.raises(ValueError, match=r"run_dir must be a new or empty folder, .*which holds a run without a state"):
        train(config, tmp_path / "run", DATA)


class Poison(keras.callbacks.Callback):
    """Makes a weight NaN in an epoch, so many times."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2 and self.times:
            self.times -= 1
            # Of the last layer: relu of NaN is 0 on some processors.
            kernel = self.model.get_layer("output").kernel
            kernel.assign(np.full(kernel.shape, np.nan))


def test_nan_rolls_back_to_the_last_good_state_with_a_lower_rate(tmp_path, caplog):
    config = replace_at(
        PLAIN, {"training.on_nan": "rollback", "training.plateau": None, "training.rollback_factor": 0.1}
    )
    result = train(config, tmp_path / "run", DATA, callbacks=[Poison(2)])
    np.testing.assert_allclose(result.history["learning_rate"], [0.01, 0.01, 0.0001, 0.0001], rtol=1e-5)
    assert all(np.isfinite(value) for values in result.history.values() for value in values)
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert "in epoch 3" in caplog.text
    assert "rolling back to the end of epoch 2 with a learning rate of 0.001, rollback 1 of at most 3" in caplog.text
    assert "with a learning rate of 0.0001, rollback 2 of at most 3" in caplog.text


def test_rollbacks_are_bounded_and_the_last_good_state_is_kept(tmp_path):
    config = replace_at(PLAIN, {"training.on_nan": "rollback", "training.rollbacks": 2})
    poison = Poison(99)
    with pytest.raises(
        DivergenceError, match=r"must stay finite, received nan in epoch 3 at batch 0; layer '.*dense_1'"
    ):
        train(config, tmp_path / "run", DATA, callbacks=[poison])
    assert poison.times == 99 - 3
    state = StateFolder(tmp_path / "run" / "state").newest()
    assert (state["epoch"], state["rollbacks"]) == (2, 2)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "diverged"
    with pytest.raises(ValueError, match="on_nan 'rollback' returns to a saved state, so save_state must be true"):
        replace_at(config, {"training.save_state": False})


def test_events_that_can_not_be_written_are_a_warning(tmp_path, whole, monkeypatch, caplog):
    flush, flushes = EventFile.flush, []

    def full(file):
        flushes.append(file)
        if len(flushes) > 3:
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")
        flush(file)

    monkeypatch.setattr(EventFile, "flush", full)
    result = train(CONFIG, tmp_path / "run", DATA)
    assert result.history == whole["history"]
    assert "TensorBoard's events cannot be written any more, training continues: " in caplog.text
    # Where nothing could be written yet, a run says so before it trains.
    with pytest.raises(ValueError, match=r"log_dir must be writable, received '.*begin' \(No space left on device\)"):
        train(CONFIG, tmp_path / "begin", DATA)


def test_every_file_that_a_run_touches_lies_in_its_folder(tmp_path, touched_files):
    folder = tmp_path / "run"
    config = replace_at(CONFIG, {"report.graph": True, "report.health": True, "report.images_every": 1})
    with touched_files as paths:
        with pytest.raises(Dead):
            train(config, folder, DATA, callbacks=[Die(2)])
        train(config, folder, DATA)
    assert {path.name for path in paths} >= {"config.json", "history.csv", "result.json", "best.keras", "network.svg"}
    assert [path for path in paths if not path.is_relative_to(folder)] == []

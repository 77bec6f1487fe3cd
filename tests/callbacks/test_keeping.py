"""The callbacks that keep things: the best model, the history, and what was good before NaN."""

import csv
import os

import keras
import numpy as np
import pytest

from kerasnn.callbacks.best_model import BestModel
from kerasnn.callbacks.divergence import DivergenceError, StopOnDivergence
from kerasnn.callbacks.history import HistoryFile
from kerasnn.models.saving import save_model


def compiled(learning_rate=0.1):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "relu", name="hidden"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate), "mse")
    return model


X = np.random.default_rng(0).normal(size=(16, 2)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Script(keras.callbacks.Callback):
    """Logs given values, and sets every weight to the epoch's number."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["watched"] = self.values[epoch]
        self.model.set_weights([np.full_like(weight, epoch) for weight in self.model.get_weights()])


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([3.0, 1.0, 2.0], "min", 1),
        ([3.0, 1.0, 2.0], "max", 0),
        ([float("nan"), 3.0, 2.0], "min", 2),
        ([1.0, float("nan"), 1.0], "min", 0),
    ],
)
def test_best_model_is_the_best_epochs(tmp_path, values, mode, best):
    callback = BestModel(tmp_path / "best.keras", "watched", mode)
    model = compiled()
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[Script(values), callback])
    assert callback.best_epoch == best
    assert callback.summary() == {"epoch": best + 1, "monitor": "watched", "value": values[best]}
    reloaded = keras.saving.load_model(tmp_path / "best.keras")
    assert all((weight == best).all() for weight in reloaded.get_weights())
    assert all((weight == 2).all() for weight in model.get_weights())
    assert [path.name for path in tmp_path.iterdir()] == ["best.keras"]


def test_best_model_refuses_what_is_not_logged(tmp_path):
    with pytest.raises(ValueError, match=r"monitor must be one of loss; received 'los' \(did you mean 'loss'\?\)"):
        compiled().fit(X, Y, verbose=0, callbacks=[BestModel(tmp_path / "best.keras", "los", "min")])


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = compiled()
    path = tmp_path / "model.keras"
    save_model(model, path)
    before = path.read_bytes()

    def half(file, *arguments, **options):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(model, "save", half)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.keras"]


def test_history_file_holds_every_epoch_and_late_columns(tmp_path):
    callback = HistoryFile(tmp_path / "history.csv")
    history = (
        compiled()
        .fit(X, Y, epochs=4, verbose=0, validation_data=(X, Y), validation_freq=2, callbacks=[callback])
        .history
    )
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["loss"]) for row in rows] == history["loss"]
    assert [row["val_loss"] for row in rows] == ["", str(history["val_loss"][0]), "", str(history["val_loss"][1])]


def ended(table, *losses):
    for loss in losses:
        table.on_epoch_end(len(table.rows), {"loss": loss})


def test_history_file_appends_rows(tmp_path):
    """Its cost must not grow with the epochs: only a new column writes the file anew."""
    table = HistoryFile(tmp_path / "history.csv")
    ended(table, 0.5)
    first = table.path.stat().st_ino
    ended(table, 0.25, 1 / 3)
    assert table.path.stat().st_ino == first
    assert table.path.read_text() == f"epoch,loss\n1,0.5\n2,0.25\n3,{1 / 3}\n"
    table.on_epoch_end(3, {"loss": 0.125, "val_loss": 1.0})
    assert table.path.stat().st_ino != first
    assert table.path.read_text().splitlines()[:2] == ["epoch,loss,val_loss", "1,0.5,"]


@pytest.mark.parametrize("fault", ["torn row", "rows of others", "deleted"])
def test_history_file_is_made_right_where_it_was_changed(tmp_path, fault):
    table = HistoryFile(tmp_path / "history.csv")
    ended(table, 0.5, 0.25)
    state = {name: column.copy() for name, column in table.get_state().items()}
    whole = table.path.read_text()
    if fault == "torn row":
        table.path.write_text(whole[:-3])
    elif fault == "rows of others":
        table.path.write_text(whole + "3,9.0\n")
    else:
        table.path.unlink()
    again = HistoryFile(table.path)
    again.set_state(state)
    assert table.path.read_text() == whole
    table.path.write_text(whole[:-3])
    ended(again, 0.125)
    assert table.path.read_text() == whole + "3,0.125\n"


def test_history_file_follows_no_link(tmp_path):
    table, other = HistoryFile(tmp_path / "history.csv"), tmp_path / "other"
    ended(table, 0.5)
    table.path.rename(other)
    before = other.read_text()
    table.path.symlink_to(other)
    ended(table, 0.25)
    assert other.read_text() == before
    assert table.path.read_text() == "epoch,loss\n1,0.5\n2,0.25\n"


def test_a_row_that_does_not_fit_on_the_disk_leaves_the_rows_before(tmp_path, monkeypatch):
    table = HistoryFile(tmp_path / "history.csv")
    ended(table, 0.5)
    before, write = table.path.read_text(), os.write

    def half(handle, content):
        if len(content) < 4:
            raise OSError(28, "No space left on device")
        return write(handle, content[:3])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        ended(table, 0.25)
    assert table.path.read_text() == before


def test_exploding_loss_is_named():
    with pytest.raises(DivergenceError, match=r"loss must stay finite, received (nan|inf) in epoch \d+ at batch \d+"):
        compiled(learning_rate=1e12).fit(X, Y, epochs=20, batch_size=4, verbose=0, callbacks=[StopOnDivergence()])


def test_nan_weights_behind_a_finite_loss_are_found():
    class Poison(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                kernel, bias = self.model.get_layer("hidden").get_weights()
                kernel[0, 0] = np.nan
                self.model.get_layer("hidden").set_weights([kernel, bias])

    line = "weights must stay finite, received NaN or infinity in epoch 2; layer 'sequential.*hidden|layer 'hidden'"
    with pytest.raises(DivergenceError, match=line):
        compiled().fit(X, Y, epochs=3, verbose=0, callbacks=[Poison(), StopOnDivergence()])


def test_healthy_training_is_left_alone():
    history = compiled(0.01).fit(X, Y, epochs=3, verbose=0, callbacks=[StopOnDivergence()])
    assert len(history.epoch) == 3

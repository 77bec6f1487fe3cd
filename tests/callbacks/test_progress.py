"""What is shown of a run while it runs."""

import io
import re
import sys

import keras
import numpy as np
import pytest

from kerasnn.callbacks.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


X = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")


def model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    return model


def shown(style, stream, **options):
    callback = Progress(style, examples=40, stream=stream)
    model().fit(X, X[:, :1], batch_size=10, verbose=0, callbacks=[callback], **{"epochs": 11} | options)
    return stream.getvalue() if isinstance(stream, io.StringIO) else ""


def test_one_line_an_epoch_where_there_is_no_terminal():
    lines = shown("auto", io.StringIO(), validation_data=(X, X[:, :1])).splitlines()
    number = r"[\d.e+-]+"
    rest = rf"  loss {number}  val_loss {number}  learning rate 0.25  [\d,]+ examples/s  \d+ s left"
    assert len(lines) == 11
    assert re.fullmatch(rf"epoch  1/11{rest}", lines[0])
    assert re.fullmatch(rf"epoch 11/11{rest}", lines[-1])
    assert lines[-1].endswith("  0 s left")


def test_a_live_display_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = shown("auto", Terminal(), epochs=3)
    assert "epoch 1/3" in text
    assert "\x1b[2K" in text  # drawn over
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)
    last = plain.rsplit("epoch", 1)[1]
    assert last.startswith(" 3/3  ")
    assert "done in" in last
    assert re.search(r"loss [\d.e+-]+  learning rate 0.25", last)
    assert text.count("\x1b[?25h") >= 1  # the cursor is back


def test_a_live_display_in_a_notebook(monkeypatch, capsys):
    """Each drawing replaces the one before, and needs no widgets."""
    drawn = []

    class Handle:
        def update(self, shown, raw):
            drawn.append(shown["text/plain"])

    def display(shown, raw, display_id):
        drawn.append(shown["text/plain"])
        return Handle()

    monkeypatch.setattr("kerasnn.callbacks.live_display.is_notebook", lambda stream: stream is sys.stdout)
    monkeypatch.setattr("kerasnn.callbacks.progress.is_notebook", lambda stream: stream is sys.stdout)
    monkeypatch.setattr("IPython.display.display", display)
    shown("auto", sys.stdout, epochs=3)
    assert len(drawn) >= 1
    assert drawn[-1].startswith("epoch 3/3  ━━━")
    assert re.search(r"done in \d+ s  [\d,]+ examples/s\nloss [\d.e+-]+  learning rate 0.25$", drawn[-1])
    assert capsys.readouterr().out == ""


def test_silence():
    assert shown("silent", Terminal()) == ""


def test_later_epochs_count_from_where_they_begin():
    lines = shown("lines", io.StringIO(), initial_epoch=9).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 10/11", "epoch 11/11"]


def test_time_left_is_at_the_speed_so_far(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("kerasnn.callbacks.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    callback = Progress("lines", stream=stream)
    callback.set_params({"epochs": 5, "steps": 4})
    callback.set_model(model())
    callback.on_train_begin()  # at 0 s
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"loss": 1.0})
    first, second = stream.getvalue().splitlines()
    # It began at 10 s and ended at 20 s; asked at 30 s, one epoch of five has taken 30 s.
    assert first == "epoch 1/5  loss 1  learning rate 0.25  0 steps/s  2 min 00 s left"
    assert second.endswith("1 min 30 s left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7505, "2 h 05 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_unknown_style_is_refused():
    with pytest.raises(ValueError, match=r"style must be one of auto, bar, lines, silent; received 'bars'"):
        Progress("bars")

"""The counters and best values that callbacks keep from epoch to epoch: saved, and given back after a restart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.callbacks.columns import Columns, GrowingArray
from kerasnn.checkpoint.state_file import logger

Callbacks = Sequence[keras.callbacks.Callback]
States = Sequence[dict[str, Any]]

_ATTRIBUTES: dict[type[keras.callbacks.Callback], tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}
"""Attributes of Keras's callbacks that change during training, and that a new `fit` resets."""
_STATELESS = (
    keras.callbacks.History,  # the training state itself holds the history
    keras.callbacks.CSVLogger,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.TerminateOnNaN,
)


def callback_states(callbacks: Callbacks) -> list[dict[str, Any]]:
    """The states of the callbacks that have one, each with its class's name, in order."""
    return [
        {"class": type(callback).__name__, "state": state}
        for callback in callbacks
        if (state := _get_state(callback)) is not None
    ]


def prepare_callbacks(callbacks: Callbacks, states: States) -> None:
    """Before training resumes, truncate the file of each CSVLogger to its saved size; warn where a state is missing.

    Args:
        callbacks: the callbacks of the run that resumes.
        states: the result of `callback_states` in the run before it.
    """
    matches = _matched(callbacks, states)
    for callback, state in matches:
        if isinstance(callback, keras.callbacks.CSVLogger):
            callback.append = True
            if Path(callback.filename).exists():
                with Path(callback.filename).open("r+b") as file:
                    file.truncate(state["size"])
    matched = {id(callback) for callback, _ in matches}
    for callback in callbacks:
        stateless = isinstance(callback, _STATELESS) or _is_ours(callback) or hasattr(callback, "get_state")
        if id(callback) not in matched and not stateless:
            logger.warning(
                "%s has no get_state and set_state: what it counted before the restart is lost",
                type(callback).__name__,
            )


def restore_callbacks(callbacks: Callbacks, states: States) -> None:
    """Give callbacks their states back, after `on_train_begin` has reset them.

    Args:
        callbacks: the callbacks of the run that resumes.
        states: the result of `callback_states` in the run before it.
    """
    for callback, state in _matched(callbacks, states):
        if hasattr(callback, "set_state"):
            callback.set_state(state)
        elif not isinstance(callback, keras.callbacks.CSVLogger):
            for name, value in state.items():
                setattr(callback, name, value)


class HistoryState:
    """The epochs and the logged values of Keras's History, as a state holds them.

    Only what the history has gained is read each time, so that an epoch costs as much at the end as at the beginning.
    """

    def __init__(self) -> None:
        self._epochs = GrowingArray()
        self._values = Columns()

    def read(self, history: keras.callbacks.History, ended: int | None, logs: dict[str, Any]) -> dict[str, Any]:
        """The history as a tree.

        Args:
            history: the callback; it is called after the training state.
            ended: the epoch that has just ended, which it lacks; None within an epoch.
            logs: the logged values of that epoch.
        """
        epochs = getattr(history, "epoch", [])
        # `fit` begins with an empty history, which a resumed run then fills.
        shorter = (len(history.history.get(name, ())) < self._values.length(name) for name in self._values)
        if len(epochs) < len(self._epochs) or any(shorter):
            self._epochs, self._values = GrowingArray(), Columns()
        for epoch in epochs[len(self._epochs) :]:
            self._epochs.append(epoch)
        for name, values in history.history.items():
            for value in values[self._values.length(name) :]:
                self._add(name, value)
        if ended is not None and epochs[-1:] != [ended]:
            self._epochs.append(ended)
            for name, value in logs.items():
                self._add(name, value)
        return {"epoch": self._epochs.rows().astype(np.int64), "values": self._values.tree()}

    def _add(self, name: str, value: Any) -> None:
        self._values.append(name, value, is_number=isinstance(value, float))


def restore_history(history: keras.callbacks.History, state: dict[str, Any]) -> None:
    """Give Keras's History the epochs and values of a state."""
    epochs = state["epoch"]
    history.epoch = epochs.tolist() if isinstance(epochs, np.ndarray) else list(epochs)
    history.history.clear()
    for name, values in state["values"].items():
        history.history[name] = values.tolist() if isinstance(values, np.ndarray) else list(values)


def _matched(callbacks: Callbacks, states: States) -> list[tuple[keras.callbacks.Callback, dict[str, Any]]]:
    """Callbacks with their states: the first callback of a class with the first state of that class, and so on."""
    remaining = list(states)
    matches = []
    for callback in callbacks:
        state = next((state for state in remaining if state["class"] == type(callback).__name__), None)
        if state is not None:
            remaining.remove(state)
            matches.append((callback, state["state"]))
    return matches


def _get_state(callback: keras.callbacks.Callback) -> dict[str, Any] | None:
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        state: dict[str, Any] = callback.get_state()
        return state
    if isinstance(callback, keras.callbacks.CSVLogger):
        return {"size": Path(callback.filename).stat().st_size}
    for kind, names in _ATTRIBUTES.items():
        if isinstance(callback, kind):
            return {name: getattr(callback, name) for name in names}
    return None


def _is_ours(callback: keras.callbacks.Callback) -> bool:
    return type(callback).__module__.partition(".")[0] == "kerasnn"

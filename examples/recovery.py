"""A training that may be killed at any moment, and goes on as if it had not been.

Run `python examples/recovery.py`, kill it (Ctrl-C, `kill -9`, the power switch), and run it again. However often it is
killed, the last line shows the same number. `rm -r logs/recovery` begins anew.
"""

import keras
from sklearn.datasets import load_digits

import kerasnn
from kerasnn import HistoryFile, TrainingState


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(50, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    # All callbacks go through `resume`, so that early stopping still knows the best epoch, and the table has every
    # epoch once. `fit` counts the epochs that are done: epochs=30 means 30 altogether, not 30 more.
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=8),
        HistoryFile("logs/recovery/history.csv"),
    ]
    state = TrainingState("logs/recovery/state")
    arguments = state.resume(model, callbacks)
    if state.resumed:
        print(f"goes on after epoch {state.epochs}")
    with state.on_signals():  # Ctrl-C and SIGTERM save the running epoch first
        history = kerasnn.fit(
            model, x[:1500], y[:1500], batch_size=32, epochs=30, validation_data=(x[1500:], y[1500:]), verbose=2,
            seed=0, **arguments,
        )  # fmt: skip
    print(f"epochs {len(history.epoch)}, last validation loss {history.history['val_loss'][-1]:.10f}")


if __name__ == "__main__":
    main()

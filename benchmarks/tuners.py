"""keras-tuner's example programs by keras-tuner and by `kerasnn.tuners`: best scores over seeds, trials a minute.

`python -m benchmarks.tuners --programs dense --trials 16 --seeds 5`
"""

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner
import numpy as np
from sklearn.datasets import load_digits

from kerasnn import tuners
from kerasnn.study.statistics import interval


def dense(hp: Any) -> keras.Model:
    """Of keras-tuner's "Getting started"."""
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    for layer in range(hp.Int("num_layers", 1, 3)):
        units = hp.Int(f"units_{layer}", min_value=32, max_value=128, step=32)
        model.add(keras.layers.Dense(units, activation=hp.Choice("activation", ["relu", "tanh"])))
    if hp.Boolean("dropout"):
        model.add(keras.layers.Dropout(rate=0.25))
    model.add(keras.layers.Dense(10, activation="softmax"))
    rate = hp.Float("lr", min_value=1e-4, max_value=1e-2, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def one_shape(hp: Any) -> keras.Model:
    """A dense network of one shape, whose numbers are searched."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(64, "relu"), keras.layers.Dropout(hp.Float("dropout", 0, 0.5))]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10, "softmax")])
    rate = hp.Float("lr", min_value=1e-4, max_value=1e-2, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def convolutional(hp: Any) -> keras.Model:
    """Of keras-tuner's "Visualize the tuning process"."""
    model = keras.Sequential([keras.Input((8, 8, 1))])
    model.add(keras.layers.Conv2D(hp.Int("filters", 8, 16, step=8), 3, activation="relu"))
    if hp.Choice("pooling", ["max", "avg"]) == "max":
        model.add(keras.layers.MaxPooling2D(2))
    else:
        model.add(keras.layers.AveragePooling2D(2))
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(10, activation="softmax"))
    rate = hp.Float("lr", min_value=1e-4, max_value=1e-2, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


PROGRAMS: dict[str, Callable[[Any], keras.Model]] = {
    "dense": dense,
    "one-shape": one_shape,
    "convolutional": convolutional,
}
LIBRARIES = {"keras-tuner": keras_tuner, "kerasnn": tuners}


def searched(library: Any, program: str, tuner: str, trials: int, seed: int, epochs: int) -> tuple[float, float]:
    """The best score of a search, and its seconds."""
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32") / 16, digits.target
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        search = getattr(library, tuner)(
            PROGRAMS[program], "val_accuracy", max_trials=trials, seed=seed, directory=folder
        )
        search.search(x[:1400], y[:1400], epochs=epochs, validation_data=(x[1400:], y[1400:]), verbose=0)
        seconds = time.perf_counter() - start
        return float(search.oracle.get_best_trials()[0].score), seconds


def main() -> None:
    """Compare the libraries, in turn, and print a line for each program and library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--tuner", default="RandomSearch")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("kerasnn").setLevel(logging.ERROR)
    print(f"{'program':14} {'library':12} {'best score':>22} {'trials a minute':>16}")
    for program in options.programs:
        for name, library in LIBRARIES.items():
            found = [
                searched(library, program, options.tuner, options.trials, seed, options.epochs)
                for seed in range(1, options.seeds + 1)
            ]
            scores, seconds = zip(*found, strict=True)
            best = interval(scores)
            speed = 60 * options.trials / float(np.median(seconds))
            print(
                f"{program:14} {name:12} {best.mean:.4f} ({best.low:.4f} to {best.high:.4f}) {speed:16.1f}", flush=True
            )


if __name__ == "__main__":
    main()

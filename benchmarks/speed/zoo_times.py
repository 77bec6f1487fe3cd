"""Seconds of an epoch of plain `fit` and of kerasnn for every model of the zoo, and for larger models of kinds that XLA
compiles badly."""

import gc
import importlib
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

import kerasnn
from kerasnn.engine import compilation

# The models that the tests train, which are not typed.
models: Any = importlib.import_module("tests.zoo.models")
L: Any = keras.layers
COPIES = 16
"""How often a model of the zoo sees its examples in an epoch, so that an epoch has many steps."""
EPOCHS = 3
"""Epochs of a turn."""
LARGER: dict[str, Callable[[], Any]] = {}

Times = dict[str, Any]


def larger(build: Callable[[], Any]) -> Callable[[], Any]:
    """Add a model to the larger ones."""
    LARGER[build.__name__] = build
    return build


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _labels(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, count)


def _ids(rows: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, rows, shape).astype("int32")


def _of_images(*layers: Any, count: int = 640, size: int = 24) -> Any:
    case = models.classifier(*layers, L.GlobalAveragePooling2D(), inputs=(size, size, 3))
    return models.Case(case.model, _numbers(count, size, size, 3), _labels(count))


class Convolution(keras.layers.Layer):
    """A layer that calls an operation of Keras itself."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], 8))

    def call(self, x: Any) -> Any:
        return keras.ops.relu(keras.ops.conv(x, self.kernel, padding="same"))


@larger
def embedding_of_70_000_rows() -> Any:
    layers = (L.Embedding(70_000, 16), L.GlobalAveragePooling1D(), L.Dense(16, "relu"))
    case = models.classifier(*layers, inputs=(20,), dtype="int32")
    return models.Case(case.model, _ids(70_000, 3200, 20), _labels(3200), {"batch_size": 32})


@larger
def recommender_of_70_000_rows() -> Any:
    user, item = keras.Input((1,), dtype="int32"), keras.Input((1,), dtype="int32")
    pairs = L.Dot(-1)([L.Flatten()(L.Embedding(50_000, 16)(user)), L.Flatten()(L.Embedding(20_000, 16)(item))])
    model = keras.Model([user, item], pairs)
    model.compile("adam", "mse")
    return models.Case(model, [_ids(50_000, 3200, 1), _ids(20_000, 3200, 1)], _numbers(3200, 1), {"batch_size": 32})


@larger
def recurrent_dropout() -> Any:
    case = models.classifier(L.LSTM(16, recurrent_dropout=0.2), inputs=(24, 8))
    return models.Case(case.model, _numbers(1600, 24, 8), _labels(1600))


@larger
def gru_recurrent_dropout() -> Any:
    case = models.classifier(L.GRU(16, recurrent_dropout=0.2), inputs=(24, 8))
    return models.Case(case.model, _numbers(1600, 24, 8), _labels(1600))


@larger
def lstm_of_48_steps() -> Any:
    case = models.classifier(L.LSTM(32), inputs=(48, 8))
    return models.Case(case.model, _numbers(1600, 48, 8), _labels(1600))


@larger
def own_convolution() -> Any:
    return _of_images(Convolution(), Convolution())


@larger
def bilinear_upsampling() -> Any:
    return _of_images(L.Conv2D(8, 3, padding="same"), L.UpSampling2D(2, interpolation="bilinear"))


@larger
def augmentation() -> Any:
    return _of_images(L.RandomFlip(), L.RandomRotation(0.1), L.RandomZoom(0.1), L.Conv2D(8, 3))


@larger
def convolutional_lstm() -> Any:
    case = models.classifier(L.ConvLSTM2D(4, 3), L.Flatten(), inputs=(4, 12, 12, 1))
    return models.Case(case.model, _numbers(320, 4, 12, 12, 1), _labels(320))


def _of_digits(x: Any, count: int) -> Any:
    """A small dense network on batches that something else than an array gives."""
    case = models.classifier(L.Dense(50, "relu"), L.Dense(100, "relu"), inputs=(64,))
    return models.Case(case.model, x, None, {"batch_size": None, "steps_per_epoch": count})


class Slices(keras.utils.PyDataset):
    """Batches of arrays in memory."""

    def __len__(self) -> int:
        return len(BATCHES)

    def __getitem__(self, index: int) -> Any:
        return BATCHES[index]


BATCHES = [(_numbers(32, 64), _labels(32)) for _ in range(40)]


@larger
def batches_of_tf_data() -> Any:
    x, y = (np.concatenate(parts) for parts in zip(*BATCHES, strict=True))
    return _of_digits(tf.data.Dataset.from_tensor_slices((x, y)).batch(32).repeat(), len(BATCHES))


@larger
def batches_of_a_py_dataset() -> Any:
    return _of_digits(Slices(), len(BATCHES))


@larger
def batches_of_a_generator() -> Any:
    return _of_digits((batch for batch in itertools.cycle(BATCHES)), len(BATCHES))


def compare(names: Sequence[str], repeats: int) -> dict[str, Times]:
    """Train models by plain `fit` and by kerasnn, in turn, in this process.

    Args:
        names: models of the zoo or of `LARGER`.
        repeats: turns of each, of `EPOCHS` epochs.

    Returns:
        By model: `keras`, `few` and `many`, median seconds of an epoch of plain `fit` and of kerasnn's program for few
        steps and for many; `times_faster`, the medians of the ratios of turns for few and for many;
        `first_epoch_seconds` of plain `fit` and of both, building and compiling included.
    """
    return {name: _compare(name, repeats) for name in names}


def table(found: dict[str, Times]) -> str:
    """Figures as text, one line a model, the slowest first."""
    head = f"{'model':30}{'keras ms':>10}{'few steps':>11}{'many':>9}{'faster: few':>13}{'many':>8}"
    lines = [f"{head}{'first epoch s':>17}"]
    for name, times in sorted(found.items(), key=lambda item: min(item[1]["times_faster"])):
        first = "/".join(f"{seconds:.1f}" for seconds in times["first_epoch_seconds"])
        few, many = times["times_faster"]
        lines.append(
            f"{name:30}{1e3 * times['keras']:10.1f}{1e3 * times['few']:11.1f}{1e3 * times['many']:9.1f}"
            f"{few:12.2f}×{many:7.2f}×{first:>17}"
        )
    few, many = map(statistics.median, zip(*(times["times_faster"] for times in found.values()), strict=True))
    return "\n".join([*lines, f"median of {len(found)} models: few {few:.2f}×, many {many:.2f}×"])


def _compare(name: str, repeats: int) -> Times:
    fits = (keras.Model.fit, kerasnn.fit, _fit_of_many_steps)
    cases = [_case(name) for _ in fits]
    first = [_seconds(fit, case, 1) for fit, case in zip(fits, cases, strict=True)]
    turns = [[_seconds(fit, case, EPOCHS) for fit, case in zip(fits, cases, strict=True)] for _ in range(repeats)]
    medians = dict(zip(("keras", "few", "many"), map(statistics.median, zip(*turns, strict=True)), strict=True))
    faster = [statistics.median(turn[0] / turn[program] for turn in turns) for program in (1, 2)]
    keras.backend.clear_session()
    gc.collect()
    return {**medians, "times_faster": faster, "first_epoch_seconds": first}


def _fit_of_many_steps(model: keras.Model, *given: Any, **options: Any) -> Any:
    """`kerasnn.fit` with the program that it takes for many steps."""
    with mock.patch.object(compilation, "FEW", 0):
        return kerasnn.fit(model, *given, **options)


def _case(name: str) -> Any:
    if name in LARGER:
        keras.utils.set_random_seed(5)
        return LARGER[name]()
    model, x, y, options = models.ZOO[name]()

    def longer(array: Any) -> Any:
        if getattr(array, "shape", None) and array.shape[0] == models.EXAMPLES:
            return np.concatenate([np.asarray(array)] * COPIES)
        return array

    return models.Case(model, *keras.tree.map_structure(longer, (x, y, dict(options))))


def _seconds(fit: Any, case: Any, epochs: int) -> float:
    """Seconds of an epoch."""
    options = {"batch_size": models.BATCH, "shuffle": False, "verbose": 0} | dict(case.options)
    start = time.perf_counter()
    fit(case.model, case.x, case.y, epochs=epochs, **options)
    return (time.perf_counter() - start) / epochs

"""The learning-rate range test: suggest a learning rate from a short training with a rising rate."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from kerasnn import figures
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.checkpoint.variables import VariableReader, assign, training_variables
from kerasnn.config.run import RunConfig
from kerasnn.data.class_weights import class_weights
from kerasnn.data.loading import Data, load_data
from kerasnn.engine.fit import Compiled, fit
from kerasnn.models.from_config import compiled_network

SMOOTHING = 0.98
"""Decay of the running mean of the losses."""
DIVERGED = 4.0
"""The test ends when the smoothed loss exceeds its minimum by this factor."""
MIN_UPDATES = 16
"""Updates before the loss diverges that a suggestion needs."""


@dataclass(frozen=True, eq=False)
class RangeTest:
    """The result of a range test.

    Args:
        learning_rates: the rising rate of each update until the loss diverged, `(updates,)`.
        losses: the loss of each update's batch, `(updates,)`.
        smoothed: their running mean, `(updates,)`.
        valley: the rate in the middle of the longest decrease of the loss, which is the suggestion.
        steepest: the rate at which the loss decreases fastest.
        minimum: a tenth of the rate at which the loss is lowest.
    """

    learning_rates: np.ndarray = field(repr=False)
    losses: np.ndarray = field(repr=False)
    smoothed: np.ndarray = field(repr=False)
    valley: float
    steepest: float
    minimum: float

    @property
    def suggestion(self) -> float:
        """The suggested learning rate."""
        return self.valley

    def figure(self) -> Figure:
        """The loss against the learning rate, with the suggestions marked."""
        marks = {"suggestion (valley)": self.suggestion, "steepest": self.steepest, "minimum / 10": self.minimum}
        return figures.range_test(self.learning_rates, self.losses, self.smoothed, marks)


def find_learning_rate(
    run: RunConfig | keras.Model,
    data: Any = None,
    *,
    lowest: float = 1e-7,
    highest: float = 10.0,
    updates: int = 100,
    batch_size: int = 32,
    seed: int = 0,
    compiled: Compiled = "auto",
) -> RangeTest:
    """Train for some updates with a rising learning rate, and suggest a rate.

    Formula: rate of update k = lowest · (highest / lowest)^(k / (updates - 1))

    The model is left as it was, to the bit: weights, optimizer, seed generators and metrics. The test ends early when
    the smoothed loss exceeds 4 times its minimum.

    Args:
        run: the config of a run, or any compiled Keras model.
        data: for a config, prepared data, or None to load the data that it describes; for a model, `(x, y)` or
            `(x, y, sample_weight)`.
        lowest: the first rate.
        highest: the last rate.
        updates: number of updates.
        batch_size: examples per update; a config has its own.
        seed: seed of the order of examples; a config has its own.
        compiled: as in `fit`; a config has its own.

    Returns:
        The losses and the suggestions.

    Raises:
        ValueError: rates or a number of updates out of range, or a loss that diverges at once.

    Reference: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017; fastai's `lr_find`, which makes
        the same suggestions.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 3))
    >>> result = find_learning_rate(model, (x, x[:, 0]), batch_size=8, compiled="off")
    >>> float(result.learning_rates[0]), 1e-3 < result.suggestion < 1
    (1e-07, True)
    """
    if not 0 < lowest < highest < math.inf:
        raise ValueError(f"lowest and highest must be rates above 0 in this order, received {lowest!r} and {highest!r}")
    if updates < 2 * MIN_UPDATES:
        raise ValueError(f"updates must be at least {2 * MIN_UPDATES}, received {updates!r}")
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "compiled": compiled}
    model, arrays, options = _run_parts(run, data) if isinstance(run, RunConfig) else (run, _checked(data), options)
    rates = lowest * (highest / lowest) ** (np.arange(updates) / (updates - 1))
    losses = _train(model, arrays, rates, options)
    return _suggestions(rates[: len(losses.values)], np.array(losses.values), np.array(losses.smoothed))


def _run_parts(run: RunConfig, data: Data | None) -> tuple[keras.Model, tuple[Any, ...], dict[str, Any]]:
    """A run's model, its training examples, and its options for `fit`."""
    data = load_data(run.data, run.task) if data is None else data
    run = run.with_task(data.task)
    options = {
        "batch_size": run.training.batch_size,
        "seed": run.seed,
        "compiled": run.training.compiled,
        "class_weight": class_weights(run, data),
    }
    return compiled_network(run, data), (data.x_train, data.y_train), options


def _checked(data: Any) -> tuple[Any, ...]:
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise ValueError(f"data must be (x, y) or (x, y, sample_weight) for a model, received {type(data).__name__}")
    return data


def _train(model: keras.Model, arrays: tuple[Any, ...], rates: np.ndarray, options: dict[str, Any]) -> "_Losses":
    """Train an update with each rate, and restore the model."""
    x, y, sample_weight = (*arrays, None)[:3]
    if not model.built:
        model(keras.tree.map_structure(lambda array: keras.ops.convert_to_tensor(array[:1]), x))
    steps = math.ceil(len(keras.tree.flatten(x)[0]) / options["batch_size"])
    losses = _Losses(len(rates))
    with _restored(model):
        fit(
            model,
            x,
            y,
            sample_weight=sample_weight,
            epochs=math.ceil(len(rates) / steps),
            verbose=0,
            callbacks=[LearningRate(_Rising(rates, steps), learning_rate=float(rates[0])), losses],
            steps_per_block=1,
            **options,
        )
    return losses


class _Rising:
    """A schedule with a given rate for each update, and the last one after them."""

    per = "update"

    def __init__(self, rates: np.ndarray, steps: int) -> None:
        self._factors = rates / rates[0]
        self._steps = steps

    def __call__(self, epoch: float) -> float:
        return float(self._factors[min(round(epoch * self._steps), len(self._factors) - 1)])


class _Losses(keras.callbacks.Callback):
    """Records the loss of each batch, and ends training when it has enough or the loss diverges."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.values: list[float] = []
        self.smoothed: list[float] = []
        self._updates = updates
        self._mean = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Keras logs the mean over the epoch so far.
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            self.model.stop_training = True
            return
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        self.values.append(loss)
        self.smoothed.append(self._mean / (1 - SMOOTHING ** len(self.values)))
        if len(self.values) == self._updates or self.smoothed[-1] > DIVERGED * min(self.smoothed):
            self.model.stop_training = True


@contextmanager
def _restored(model: keras.Model) -> Iterator[None]:
    """Restore a model at the end: its variables, its history and `stop_training`."""
    if not model.optimizer.built:
        # Variables that are created later could not be restored.
        model.optimizer.build(model.trainable_variables)
    variables = training_variables(model)
    arrays = VariableReader().read(variables, model._distribute_strategy)
    history, stop_training = getattr(model, "history", None), model.stop_training
    try:
        yield
    finally:
        model.reset_metrics()
        assign(variables, arrays)
        model.history, model.stop_training = history, stop_training


def _suggestions(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray) -> RangeTest:
    if len(losses) < MIN_UPDATES:
        raise ValueError(
            f"the loss must not diverge within {MIN_UPDATES} updates, it did after {len(losses)}, at rate "
            f"{rates[max(0, len(losses) - 1)]:.2g}: give a lower `lowest`, or look for extreme values in the data"
        )
    # The first means are of few losses, and the last ones diverge.
    shown = slice(len(rates) // 10, max(len(rates) - 5, len(rates) // 10 + 2))
    x, y = rates[shown], smoothed[shown]
    return RangeTest(
        rates,
        losses,
        smoothed,
        valley=float(x[_valley(y)]),
        steepest=float(x[np.argmin(np.gradient(y, np.log(x)))]),
        minimum=float(x[np.argmin(y)] / 10),
    )


def _valley(losses: np.ndarray) -> int:
    """Position of the middle of the longest decreasing subsequence, counted as if it had no gaps."""
    lengths = np.ones(len(losses), int)
    for end in range(1, len(losses)):
        before = lengths[:end][losses[:end] > losses[end]]
        lengths[end] = 1 + max(before, default=0)
    end = int(np.argmax(lengths))
    return max(0, end - int(lengths[end]) // 2)

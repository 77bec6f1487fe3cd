"""The learning-rate range test: which rates lower the loss, before a run is begun."""

import math
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from kerasnn import figures
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.config.run import RunConfig
from kerasnn.data.class_weights import class_weights
from kerasnn.data.loading import Data, load_data
from kerasnn.engine.fit import Compiled, fit
from kerasnn.models.from_config import compiled_network

SMOOTHING = 0.98
"""Weight of the past in the running mean of the losses."""
DIVERGED = 4.0
"""Times the best smoothed loss at which the test ends."""
LEAST = 16
"""Updates before the loss diverges without which nothing can be said."""


@dataclass(frozen=True, eq=False)
class RangeTest:
    """What a range test found.

    Args:
        learning_rates: the rate of each update, rising, `(updates,)`; it ends where the loss diverged.
        losses: the loss of each update's batch, `(updates,)`.
        smoothed: their running mean, `(updates,)`.
        valley: the suggestion: the middle of the longest fall of the loss.
        steepest: the rate at which the loss falls fastest.
        minimum: a tenth of the rate at which the loss is least.
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
        """Loss against learning rate, with the suggestions."""
        marks = {"valley": self.valley, "steepest": self.steepest, "minimum / 10": self.minimum}
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
    """Train for some updates with a rate that rises from each to the next, and suggest a learning rate.

    Formula: rate of update k = lowest · (highest / lowest)^(k / (updates - 1))

    A model is left as it was: weights, optimizer, random seeds and metrics, to the last bit. The test ends early where
    the smoothed loss is 4 times its best.

    Args:
        run: a run's config, or any compiled Keras model.
        data: for a config prepared data, or None to load what it describes; for a model `(x, y)` or
            `(x, y, sample_weight)`.
        lowest: the first rate.
        highest: the last rate.
        updates: how many.
        batch_size: examples in each; of a config its own is taken.
        seed: seed of the order of examples; of a config its own is taken.
        compiled: as in `fit`; of a config its own is taken.

    Returns:
        The losses and the suggestions.

    Raises:
        ValueError: for rates or a number of updates out of range, and where the loss diverges at once.

    Reference: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017; fastai's `lr_find`, whose
        suggestions these are.
    """
    if not 0 < lowest < highest < math.inf:
        raise ValueError(f"lowest and highest must be rates above 0 in this order, received {lowest!r} and {highest!r}")
    if updates < 2 * LEAST:
        raise ValueError(f"updates must be at least {2 * LEAST}, received {updates!r}")
    class_weight = None
    if isinstance(run, RunConfig):
        prepared: Data = load_data(run.data, run.task) if data is None else data
        model = compiled_network(run, prepared)
        arrays: tuple[Any, ...] = (prepared.x_train, prepared.y_train)
        class_weight = class_weights(run, prepared)
        batch_size, seed, compiled = run.training.batch_size, run.seed, run.training.compiled
    else:
        if not isinstance(data, tuple) or len(data) not in (2, 3):
            raise ValueError(
                f"data must be (x, y) or (x, y, sample_weight) for a model, received {type(data).__name__}"
            )
        model, arrays = run, data
    if not model.built:
        model(keras.tree.map_structure(lambda array: keras.ops.convert_to_tensor(array[:1]), arrays[0]))
    steps = math.ceil(len(keras.tree.flatten(arrays[0])[0]) / batch_size)
    rates = lowest * (highest / lowest) ** (np.arange(updates) / (updates - 1))
    losses = _Losses(updates)
    restore = _state(model)
    try:
        fit(
            model,
            x=arrays[0],
            y=arrays[1],
            sample_weight=arrays[2] if len(arrays) == 3 else None,
            batch_size=batch_size,
            epochs=math.ceil(updates / steps),
            verbose=0,
            callbacks=[LearningRate(_Rising(rates, steps), learning_rate=lowest), losses],
            class_weight=class_weight,
            seed=seed,
            compiled=compiled,
            steps_per_block=1,
        )
    finally:
        restore()
    return _suggestions(rates[: len(losses.values)], np.array(losses.values), np.array(losses.smoothed))


class _Rising:
    """A schedule that gives each update its rate; the last stays."""

    per = "update"

    def __init__(self, rates: np.ndarray, steps: int) -> None:
        self._factors = rates / rates[0]
        self._steps = steps

    def __call__(self, epoch: float) -> float:
        return float(self._factors[min(round(epoch * self._steps), len(self._factors) - 1)])


class _Losses(keras.callbacks.Callback):
    """The loss of each batch by itself, until there are enough or it diverges."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.values: list[float] = []
        self.smoothed: list[float] = []
        self._updates = updates
        self._mean = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # What is logged is a mean over the epoch so far.
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


def _state(model: keras.Model) -> Any:
    """A function that puts a model back into the state that it is in now."""
    if not model.optimizer.built:
        # Slots that are made later could not be put back.
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    values = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
    history, stop_training = getattr(model, "history", None), model.stop_training

    def restore() -> None:
        model.reset_metrics()
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        model.history, model.stop_training = history, stop_training

    return restore


def _suggestions(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray) -> RangeTest:
    if len(losses) < LEAST:
        raise ValueError(
            f"the loss must not diverge within {LEAST} updates, it did after {len(losses)}, at rate "
            f"{rates[max(0, len(losses) - 1)]:.2g}: give a lower `lowest`, or look for extreme values in the data"
        )
    # The first means are of few losses, and at the end it diverges.
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
    """The middle of the longest falling subsequence, as if it were without gaps."""
    lengths = np.ones(len(losses), int)
    for end in range(1, len(losses)):
        before = lengths[:end][losses[:end] > losses[end]]
        lengths[end] = 1 + max(before, default=0)
    end = int(np.argmax(lengths))
    return max(0, end - int(lengths[end]) // 2)

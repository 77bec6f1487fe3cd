"""Refusals of what `fit` would train on without a word, to NaN or to nothing."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.callbacks.divergence import is_finite
from kerasnn.config.schema import one_of, short
from kerasnn.data.checks import LARGEST
from kerasnn.engine.block_callbacks import follows_validation
from kerasnn.engine.examples import leaves
from kerasnn.engine.targets import check_targets, has_own_loss, has_own_step, is_whole, loss_name
from kerasnn.keras_private import Functional
from kerasnn.models.subclassed import Network

logger = logging.getLogger("kerasnn")

PIXELS = "must be scaled: whole numbers from 0 to 255 train badly; divide by 255, or begin with keras.layers.Rescaling"
_TAKES_ANY_SCALE = (keras.layers.InputLayer, keras.layers.Flatten, keras.layers.Reshape, keras.layers.Dropout)
_WEIGHS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_PROBABILITIES = {
    "softmax": ("categorical_crossentropy", "categorical_focal_crossentropy", "kl_divergence"),
    "sigmoid": ("binary_crossentropy", "binary_focal_crossentropy"),
}
MODES = ("error", "warn", "off")


def check_counts(**counts: Any) -> None:
    """Refuse counts that are no whole numbers of at least 1; None is none given.

    Raises:
        ValueError: one line with the name and the value received.
    """
    for name, count in counts.items():
        _check_whole(name, count, 1)


def check_fit_options(
    options: Mapping[str, Any], validation_split: float, seed: Any, steps_per_block: int | None
) -> None:
    """Refuse options of `fit` that are out of range.

    Args:
        options: `epochs`, `initial_epoch`, batch sizes and steps, as in `keras.Model.fit`.
        validation_split, seed, steps_per_block: as in `kerasnn.fit`.

    Raises:
        ValueError: one line with the name and the value received.
    """
    counts = ("batch_size", "validation_batch_size", "steps_per_epoch", "validation_steps")
    check_counts(**{name: options[name] for name in counts}, steps_per_block=steps_per_block)
    for name, value in (("epochs", options["epochs"]), ("initial_epoch", options["initial_epoch"]), ("seed", seed)):
        _check_whole(name, value, 0)
    if not 0 <= validation_split < 1:
        raise ValueError(f"validation_split must be at least 0 and below 1; received {validation_split!r}")


class Checks:
    """Refuses, before the first step, what a model would train on to garbage without a word.

    Args:
        model: a compiled Keras model.
        mode: "error" raises, "warn" logs a warning instead, "off" checks nothing.

    Raises:
        ValueError: another mode.
    """

    def __init__(self, model: keras.Model, mode: str = "error") -> None:
        if mode not in MODES:
            raise ValueError(one_of("checks", mode, MODES))
        self._model = model
        self._mode = mode

    def model(self) -> None:
        """Refuse a model whose learning rate, output and loss cannot learn together.

        Its output layer is looked at where Keras tells it: in Sequential and functional models, and in those of
        `build_model`.

        Raises:
            ValueError: one line: a learning rate that is not a number of at least 0; a loss on probabilities behind a
                linear output, or one on logits behind a softmax or sigmoid; a softmax over a single unit.
        """
        self._run(lambda: _check_model(self._model))

    def monitors(self, callbacks: Any) -> None:
        """Refuse callbacks that follow a validation metric, where there is no validation data.

        Raises:
            ValueError: one line with the callback's class and the metric.
        """

        def check() -> None:
            if follows := follows_validation(callbacks):
                raise ValueError(
                    f"{follows[0]} follows {follows[1]!r}, which needs validation_data or validation_split"
                )

        self._run(check)

    def types(self, *structures: Any) -> None:
        """Refuse arrays of anything but numbers where the model's inputs are declared as numbers.

        Raises:
            TypeError: one line with the type received.
        """

        def check() -> None:
            inputs = getattr(self._model, "inputs", None) or []
            if not inputs or any(each.dtype == "string" for each in inputs):
                return
            for name, structure in zip(("x", "y", "sample_weight"), structures, strict=False):
                for array in leaves(structure):
                    if isinstance(array, np.ndarray) and array.dtype.kind in "USOc":
                        raise TypeError(f"{name} must hold numbers; received dtype {array.dtype}")

        self._run(check)

    def training(self, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None) -> None:
        """Refuse arrays that the model cannot learn from.

        Args:
            x: features, arrays of shape `(examples, …)` in Keras's nesting.
            y: targets, likewise.
            sample_weight: weights of the examples, likewise.
            class_weight: as in `keras.Model.fit`.

        Raises:
            ValueError: one line: no examples, or not equally many; NaN, infinite or beyond float32; raw pixels in front
                of a layer that weighs them; labels that a loss of Keras's has no class for, or that are no whole
                numbers; weights that are all 0.
            TypeError: one line: not numbers.
        """

        def check() -> None:
            self._check_arrays(x, y, sample_weight, "")
            _check_weights(sample_weight)
            _check_class_weight(class_weight)
            if _weighs_its_inputs(self._model):
                for array in leaves(x):
                    check_scale(array, "x")

        self._run(check)

    def evaluation(self, x: Any, y: Any = None, sample_weight: Any = None, part: str = "") -> None:
        """Refuse arrays that the model cannot be measured on.

        Args:
            x, y, sample_weight: as in `training`.
            part: what the error calls the arrays' part (`"validation "`).

        Raises:
            ValueError, TypeError: as in `training`, but for raw pixels and weights of 0.
        """
        self._run(lambda: self._check_arrays(x, y, sample_weight, part))

    def _run(self, check: Callable[[], None]) -> None:
        if self._mode == "off":
            return
        try:
            check()
        except (ValueError, TypeError) as error:
            if self._mode == "error":
                raise
            logger.warning("%s", error)

    def _check_arrays(self, x: Any, y: Any, sample_weight: Any, part: str) -> None:
        lengths: dict[int, str] = {}
        # A loss of the user's own may mask targets that are no numbers.
        finite_targets = not has_own_loss(self._model)
        for name, arrays, finite in (("x", x, True), ("y", y, finite_targets), ("sample_weight", sample_weight, True)):
            for array in leaves(arrays):
                _check_numbers(array, f"{part}{name}", finite)
                lengths.setdefault(int(array.shape[0]), f"{part}{name}")
        if len(lengths) > 1:
            (some, first), (others, second) = list(lengths.items())[:2]
            raise ValueError(f"examples must be equally many; received {some} of {first} and {others} of {second}")
        if not has_own_step(self._model):
            check_targets(self._model, x, y, part)


def _check_model(model: keras.Model) -> None:
    rate = getattr(model.optimizer, "_learning_rate", None)
    if isinstance(rate, keras.Variable):
        value = float(rate.numpy())
        if not (0 <= value < math.inf):
            raise ValueError(f"the optimizer's learning rate must be finite and not negative; received {value:g}")
    outputs = list(_output_layers(model))
    losses = [model.loss] if len(outputs) == 1 else model.loss
    # A dictionary's order need not be the outputs'.
    if not isinstance(losses, list | tuple) or len(outputs) != len(losses):
        return
    for layer, loss in zip(outputs, losses, strict=True):
        _check_output(layer, loss)


def check_scale(x: Any, name: str = "x") -> None:
    """Refuse raw pixels: unsigned bytes, or whole numbers from 0 to 255.

    Args:
        x: features, `(examples, …)`, in front of a layer that weighs them.
        name: what the error calls them.

    Raises:
        ValueError: in one line.
    """
    values = np.asarray(x)
    if values.ndim > 1 and values.size and values.max() == 255 and values.min() == 0 and is_whole(values):
        raise ValueError(f"{name} {PIXELS}")


def check_dataset(data: Any, steps: int | None, steps_name: str, name: str = "x") -> None:
    """Refuse a tf.data dataset with no end or with nothing in it.

    Args:
        data: what `fit` was given for x; what is no dataset passes.
        steps: steps of a pass, or None.
        steps_name: the argument that gives them.
        name: what the error calls the data.

    Raises:
        ValueError: in one line.
    """
    if not isinstance(data, tf.data.Dataset):
        return
    size = int(data.cardinality())
    if size == 0:
        raise ValueError(f"{name} must hold at least one batch; received an empty dataset")
    if size == tf.data.INFINITE_CARDINALITY and steps is None:
        raise ValueError(f"{steps_name} must be given for a dataset that repeats without end; received None")


def _check_whole(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number; received {short(value)}")
    if value < least:
        raise ValueError(f"{name} must be {f'at least {least}' if least else '0 or above'}; received {value}")


def _check_numbers(array: Any, name: str, finite: bool) -> None:
    if len(array.shape) == 0:
        raise ValueError(f"{name} must have its examples along the first axis; received a single value")
    # Sparse arrays and data frames are Keras's to judge.
    if not isinstance(array, np.ndarray | tf.Tensor):
        return
    if 0 in array.shape:
        raise ValueError(f"{name} must hold at least one example; received the shape {tuple(array.shape)}")
    values = np.asarray(array)
    if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold numbers; received dtype {values.dtype}")
    # Keras trains on float32, where larger values are infinite.
    if not finite:
        return
    if not is_finite(values) or (values.dtype == np.float64 and max(values.max(), -values.min()) > LARGEST):
        wrong = ~(np.abs(values) <= LARGEST)
        if wrong.any():
            place = np.unravel_index(int(wrong.argmax()), wrong.shape)
            where = ", ".join(map(str, place))
            raise ValueError(
                f"{name} must be finite and at most {LARGEST:g} in size; {name}[{where}] is {values[place]}"
            )


def _check_weights(sample_weight: Any) -> None:
    for weight in map(np.asarray, leaves(sample_weight)):
        if not weight.any():
            raise ValueError("sample weights must not all be 0: nothing would be learned")


def _check_class_weight(class_weight: Any) -> None:
    if class_weight is None:
        return
    if not isinstance(class_weight, Mapping) or not class_weight:
        raise ValueError(f"class_weight must map each class to its weight; received {short(class_weight)}")
    for label, weight in class_weight.items():
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise ValueError(f"class_weight must have class numbers as keys; received {short(label)}")
        if not isinstance(weight, int | float | np.number) or not (0 <= weight < math.inf):
            raise ValueError(f"class_weight must be finite and not negative; received {weight!r} for class {label}")
    if not any(class_weight.values()):
        raise ValueError("class_weight must not be 0 for every class: nothing would be learned")


def _stack(model: keras.Model) -> list[keras.layers.Layer]:
    """A model's layers in order, where it is known; none otherwise."""
    if isinstance(model, Network):
        return model.stack
    if isinstance(model, keras.Sequential):
        return model.layers
    functional = isinstance(model, Functional) and len(model.inputs) == 1
    return model.layers if functional else []


def _weighs_its_inputs(model: keras.Model) -> bool:
    """Whether a dense or convolutional layer takes the inputs as they are."""
    for layer in _stack(model):
        if isinstance(layer, keras.Model):
            return False
        if not isinstance(layer, _TAKES_ANY_SCALE):
            return isinstance(layer, _WEIGHS)
    return False


def _output_layers(model: keras.Model) -> Iterator[Any]:
    if isinstance(model, Functional):
        for output in model.outputs:
            yield output._keras_history.operation
    elif stack := _stack(model):
        yield stack[-1]


def _check_output(layer: Any, loss: Any) -> None:
    activation = "softmax" if isinstance(layer, keras.layers.Softmax) else loss_name(getattr(layer, "activation", None))
    name = loss_name(loss)
    if name is None or activation is None:
        return
    name = name.removeprefix("sparse_")
    needed = next((output for output, losses in _PROBABILITIES.items() if name in losses), None)
    if needed is None:
        return
    from_logits = bool(getattr(loss, "from_logits", False) or getattr(loss, "_fn_kwargs", {}).get("from_logits"))
    if activation == "linear" and not from_logits:
        raise ValueError(
            f"the loss {name} needs probabilities, received a linear output: end with {needed}, or give the loss "
            "from_logits=True"
        )
    if activation in _PROBABILITIES and from_logits:
        raise ValueError(
            f"the loss {name} with from_logits=True needs a linear output, received {activation}: drop one of the two"
        )
    if activation == "softmax" and getattr(layer, "units", None) == 1:
        raise ValueError("softmax over a single unit is always 1: use sigmoid, or a unit for each class")

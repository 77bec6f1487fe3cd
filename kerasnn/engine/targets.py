"""Targets and the losses they are paired with: refusals that need to know the loss."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.attributes import overridden
from kerasnn.engine.examples import leaves

_PAIRED = (
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_hinge",
    "cosine_similarity",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "squared_hinge",
)
"""Losses whose targets have the outputs' shape."""


def has_own_step(model: keras.Model) -> bool:
    """Whether a model pairs outputs with targets in its own way."""
    return overridden(model, keras.Model, "train_step", "compute_loss", "_compute_loss") is not None


def has_own_loss(model: keras.Model) -> bool:
    return has_own_step(model) or not all(map(_is_keras_loss, leaves(model.loss)))


def _is_keras_loss(loss: Any) -> bool:
    if isinstance(loss, str):
        return True
    defined = (type(loss), getattr(loss, "fn", None) or loss)
    return all(str(getattr(each, "__module__", "")).startswith(("keras.", "kerasnn.", "builtins")) for each in defined)


def check_targets(model: keras.Model, x: Any, y: Any, part: str) -> None:
    """Refuse targets whose shape or values the loss would broadcast, truncate or turn into NaN without a word."""
    try:
        symbols = keras.tree.map_structure(
            lambda array: keras.KerasTensor((None, *array.shape[1:]), str(array.dtype)), x
        )
        outputs = model(symbols)
    except Exception:  # The model will say itself what it cannot take.
        return
    for loss, array, output in _paired(model, y, outputs):
        if isinstance(array, np.ndarray | tf.Tensor) and None not in output.shape[1:] and _is_keras_loss(loss):
            _check_target(loss, np.asarray(array), tuple(output.shape[1:]), part)


def _paired(model: keras.Model, y: Any, outputs: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Each output with its loss and its targets, where Keras pairs them."""
    losses: Any = model.loss
    if isinstance(losses, dict):
        names = list(outputs) if isinstance(outputs, dict) else getattr(model, "output_names", [])
        flat = outputs if isinstance(outputs, dict) else dict(zip(names, keras.tree.flatten(outputs), strict=False))
        named = y if isinstance(y, dict) else dict(zip(names, leaves(y), strict=False))
        yield from ((losses[name], named[name], flat[name]) for name in losses if name in named and name in flat)
        return
    losses, targets = keras.tree.flatten(losses), leaves(y)
    if len(losses) == len(targets) and (len(losses) == 1 or not isinstance(y, dict)):
        yield from zip(losses, targets, keras.tree.flatten(outputs), strict=False)


def _check_target(loss: Any, values: np.ndarray, output: tuple[int, ...], part: str) -> None:
    loss = keras.losses.get(loss)
    name = loss_name(loss) or ""
    if "sparse" in name or "Sparse" in type(loss).__name__:
        _check_classes(loss, values, output, part)
    elif name in _PAIRED:
        given = values.shape[1:]
        if [size for size in given if size != 1] != [size for size in output if size != 1]:
            shapes = ["(" + ", ".join(map(str, ("examples", *shape))) + ")" for shape in (output, given)]
            raise ValueError(f"{part}y must have the output's shape {shapes[0]}, received {shapes[1]}")
        if name.startswith("binary") and (values.min() < 0 or values.max() > 1):
            worst = values.max() if values.max() > 1 else values.min()
            raise ValueError(f"{part}labels must be 0 and 1, or between, for {name}; received {worst:g}")


def _check_classes(loss: Any, values: np.ndarray, output: tuple[int, ...], part: str) -> None:
    options = {**getattr(loss, "_fn_kwargs", {}), **(vars(loss) if isinstance(loss, keras.losses.Loss) else {})}
    axis, ignored = options.get("axis", -1), options.get("ignore_class")
    classes = (None, *output)[axis]
    labels = values if ignored is None else values[values != ignored]
    if not labels.size or classes is None:
        return
    if not is_whole(labels):
        wrong = labels[labels != np.floor(labels)][0]
        raise ValueError(f"{part}labels must be whole numbers for a sparse loss; received {wrong:g}")
    if labels.min() < 0 or labels.max() >= classes:
        worst = labels.max() if labels.max() >= classes else labels.min()
        raise ValueError(f"{part}labels must be 0 to {classes - 1} for {classes} classes; received {worst:g}")


def loss_name(function: Any) -> str | None:
    """Snake-case name of a loss or an activation given as Keras takes them, or None."""
    if function is None or isinstance(function, str):
        return function
    if isinstance(function, keras.losses.Loss):
        function = getattr(function, "fn", None)
    return getattr(function, "__name__", None)


def is_whole(values: np.ndarray) -> bool:
    return values.dtype.kind in "iu" or bool((values == np.floor(values)).all())

"""Settings that follow from the data where the user gave none: a table's training, an image network."""

import math
from collections.abc import Collection
from typing import Any

from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.data.encoding import TableEncoding
from kerasnn.data.loading import Data
from kerasnn.data.pixels import Pixels

UPDATES = 3000
"""Updates that a network needs to learn a table, about."""
MOST_EPOCHS = 500
"""Epochs up to which the length of a training follows from the size of its table."""
FEW_ROWS = 1000
"""Training rows up to which a table's network has dropout."""
PENALIZED_ROWS = 20_000
"""Training rows up to which a table's network has an L2 penalty."""
DROPOUT = 0.2
"""Dropout of a network for few rows."""
PENALTY, LARGEST_PENALTY = 4.0, 0.2
"""The L2 penalty is `PENALTY` divided by the number of training rows: with more rows a prior counts less."""
MANY_CLASSES = 10
"""Classes from which on the penalty falls with their number: each has fewer of the rows to pull its weights from 0."""
SMALLEST_SIDE = 8
"""Pixels to which convolutional layers reduce an image's shorter side, about."""


def choose(config: RunConfig, data: Data, given: Collection[str] | None) -> tuple[RunConfig, list[str]]:
    """A config with settings that suit its data in place of defaults.

    Args:
        config: the run.
        data: its data.
        given: the dotted keys that the user gave, which stay as they are; None: the config decides all.

    Returns:
        The config, and lines that say what was chosen and why.
    """
    if given is None:
        return config, []
    if isinstance(data.preparation, TableEncoding):
        choices = _for_table(config, data)
    elif isinstance(data.preparation, Pixels):
        choices = _for_images(data)
    else:
        return config, []
    lines = []
    for changes, why in choices:
        if any(_touches(key, other) for key in changes for other in given):
            continue
        config = replace_at(config, changes)
        lines.append(why)
    return config, lines


def _touches(key: str, other: str) -> bool:
    """Whether one of two dotted keys is the other or a part of it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _for_table(config: RunConfig, data: Data) -> list[tuple[dict[str, Any], str]]:
    rows, default = len(data.x_train), config.training.epochs
    epochs = max(default, min(MOST_EPOCHS, math.ceil(UPDATES / math.ceil(rows / config.training.batch_size))))
    choices: list[tuple[dict[str, Any], str]] = []
    if epochs > default:
        length: dict[str, Any] = {"training.epochs": epochs}
        line = f"training.epochs {epochs}, for about {UPDATES:,} updates"
        # A network that sees a small table so often would learn its noise.
        if data.x_validation is not None:
            length["training.early_stopping"] = {"patience": max(5, epochs // 10)}
            patience = length["training.early_stopping"]["patience"]
            line += f", and early stopping: fewer if val_loss is no lower for {patience} epochs"
        choices.append((length, line))
    if rows <= PENALIZED_ROWS:
        classes = data.outputs if data.task == "multiclass" else 1
        share = MANY_CLASSES / max(MANY_CLASSES, classes)
        penalty = float(f"{min(LARGEST_PENALTY, PENALTY * share / rows):.1g}")
        changes: dict[str, Any] = {"regularization.l2": penalty, "regularization.output_l2": penalty}
        line = f"regularization.l2 {penalty:g}"
        if rows <= FEW_ROWS:
            changes["regularization.dropout"] = DROPOUT
            line += f" and dropout {DROPOUT}"
        choices.append((changes, f"{line}, because {rows:,} rows are few"))
    if epochs > default and data.x_validation is None:
        choices.append(({"schedule.name": "cosine"}, "schedule cosine, because no validation part says when to stop"))
    return choices


def _for_images(data: Data) -> list[tuple[dict[str, Any], str]]:
    height, width = data.raw_shape[:2]
    count = min(4, max(1, math.ceil(math.log2(min(height, width) / SMALLEST_SIDE))))
    hidden: list[Any] = [{"filters": min(64, 16 * 2**number), "pool": 2} for number in range(count)]
    # Its inputs are all positive, so that Adam's first updates move its outputs together; most units of relu would die.
    hidden.append({"units": 64, "dropout": 0.3, "activation": "leaky_relu"})
    changes = {"data.flatten": False, "network.hidden": hidden}
    filters = ", ".join(str(layer["filters"]) for layer in hidden[:-1])
    return [(changes, f"network.hidden: convolutions of {filters} filters with pooling, then 64 units, as for images")]

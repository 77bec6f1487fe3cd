"""Pictures of the data, and of the network built in each of the three styles."""

from typing import get_args

from matplotlib.figure import Figure

from kerasnn import figures
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import Style
from kerasnn.data.loading import load_data
from kerasnn.models.from_config import build_network


def data_examples(config: RunConfig) -> Figure:
    """Twenty-five labelled images of the run's data.

    Raises:
        ValueError: for data other than images with one class each.
    """
    data = load_data(config.data, config.task)
    if data.image_shape is None or data.class_names is None or data.task not in ("binary", "multiclass"):
        raise ValueError(f"data must be images with one class each, received {config.data.name} for {data.task}")
    labels = data.y_train.argmax(axis=1) if data.y_train.ndim == 2 else data.y_train.astype(int)
    return figures.examples(data.x_train, labels, data.class_names, data.image_shape)


def three_builders(config: RunConfig) -> Figure:
    """The run's network, built sequential, functional and subclassed, side by side."""
    data = load_data(config.data, config.task)
    styles = get_args(Style)
    models = [build_network(config.model_copy(update={"style": style}), data) for style in styles]
    return figures.architectures(models, styles)

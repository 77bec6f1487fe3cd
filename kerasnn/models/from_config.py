"""The network of a run's configuration, built and compiled."""

from typing import Any

import keras
import tensorflow as tf

from kerasnn.components import losses, metrics, optimizers
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data
from kerasnn.models.building import build_model
from kerasnn.models.lsuv import lsuv
from kerasnn.models.table_model import TableModel

PROBE = 256
"""Number of examples in the fixed batch on which layers are measured."""


def build_network(config: RunConfig, data: Any) -> keras.Model:
    """Build the network of a run with its initial weights; it takes prepared examples.

    Args:
        config: the run.
        data: the prepared data, or any object with their `input_shape`, `layout` and `outputs`.
    """
    return build_model(
        config.network.model_copy(update={"output_activation": config.output_activation}),
        data.input_shape,
        data.outputs,
        style=config.style,
        seed=config.seed,
        task=config.known_task,
        regularization=config.regularization,
        layout=data.layout,
        augment=config.data.augment,
    )


def compiled_network(config: RunConfig, data: Data) -> keras.Model:
    """Build and compile the network of a run; with `training.lsuv` the initial weights are scaled to the data.

    Args:
        config: the run.
        data: the prepared data.
    """
    network = build_network(config, data)
    if config.devices.synchronized_batch_norm and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        for layer in network._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    if config.training.lsuv:
        lsuv(network, data.x_train[:PROBE])
    compile_model(network, config)
    return network


def compile_model(model: keras.Model, config: RunConfig, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compile a model with the optimizer, loss and metrics of a run.

    Args:
        model: a built model.
        config: the run.
        optimizer: the optimizer of another model, to share it; None creates a new one.
    """
    model.compile(
        optimizer=optimizer or optimizers.get(config.optimizer.spec),
        loss=losses.get(config.loss_spec),
        metrics=[
            metrics.get(spec, config.known_task, one_hot=config.data.one_hot, from_logits=config.loss.from_logits)
            for spec in config.metrics
        ],
        jit_compile=False if isinstance(model, TableModel) else config.devices.jit_compile,
    )

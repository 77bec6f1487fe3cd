"""The network that a run's config describes, compiled."""

from typing import Any

import keras
import tensorflow as tf

from kerasnn.components import losses, metrics, optimizers
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data
from kerasnn.models.building import build_model
from kerasnn.models.lsuv import lsuv

PROBE = 256
"""Examples of the fixed batch on which layers are measured."""


def build_network(config: RunConfig, data: Any) -> keras.Model:
    """The network that a config describes, with its initial weights; it takes prepared examples.

    Args:
        config: the run.
        data: its prepared data, or whatever has their `input_shape` and `outputs`.
    """
    return build_model(
        config.network.model_copy(update={"output_activation": config.output_activation}),
        data.input_shape,
        data.outputs,
        style=config.style,
        seed=config.seed,
        task=config.task,
        regularization=config.regularization,
    )


def compiled_network(config: RunConfig, data: Data) -> keras.Model:
    """The network that a config describes, with its initial weights, compiled; it takes prepared examples.

    Args:
        config: the run.
        data: its prepared data.
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
    """Compile a model with the optimizer, loss and metrics that a config describes.

    Args:
        model: a built model.
        config: the run.
        optimizer: an optimizer to share with another model; None makes a new one.
    """
    model.compile(
        optimizer=optimizer or optimizers.get(config.optimizer.spec),
        loss=losses.get(config.loss_spec),
        metrics=[
            metrics.get(spec, config.task, one_hot=config.data.one_hot, from_logits=config.loss.from_logits)
            for spec in config.metrics
        ],
        jit_compile=config.devices.jit_compile,
    )

"""Pictures of layers: the effect of dropout and of batch normalization."""

from typing import Any

import keras
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kerasnn import figures
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import NetworkConfig, RegularizationConfig
from kerasnn.data.loading import load_data
from kerasnn.figures.style import BLUE, GREY, INK, ORANGE
from kerasnn.fused.train import train_fused
from kerasnn.models.layers import network_layers

UNITS, EXAMPLES = 16, 12
_KEPT = LinearSegmentedColormap.from_list("kept", [(0, ORANGE), (0.5, "#FFFFFF"), (0.7, "#9CC7E4"), (1, BLUE)])
_SCALE = TwoSlopeNorm(0, -1, 2.5)


def _dropout(kind: str, rate: float, images: bool = False) -> Any:
    """The package's layer for a kind of dropout."""
    hidden: Any = ({"filters": UNITS},) if images else (UNITS,)
    described = NetworkConfig(hidden=hidden)
    regularization = RegularizationConfig(dropout=rate, dropout_kind=kind)
    shape = (EXAMPLES, 1, 1) if images else (1,)
    layers = network_layers(described, shape, 1, regularization=regularization, seed=3)
    return next(layer for layer in layers if layer.name == "dropout_1")


def dropout_masks(config: RunConfig) -> Figure:
    """The outputs of dropout for inputs of 1: kept units are scaled by 1 / (1 - rate); inference keeps all."""
    shown = [("dropout", 0.2, True), ("dropout", 0.4, True), ("dropout", 0.6, True), ("dropout", 0.4, False)]
    shown += [(kind, 0.4, True) for kind in ("spatial_dropout", "gaussian_dropout", "alpha_dropout")]
    figure, every = figures.page(14.5, 6.6, 2, 4)
    for (kind, rate, training), axes in zip(shown, every.flat, strict=False):
        images = kind == "spatial_dropout"
        ones = np.ones((1, EXAMPLES, 1, UNITS) if images else (EXAMPLES, UNITS), "float32")
        outputs = np.asarray(_dropout(kind, rate, images)(ones, training=training)).reshape(EXAMPLES, UNITS)
        image = axes.imshow(outputs, cmap=_KEPT, norm=_SCALE)
        values = np.unique(outputs.round(3))
        text = " and ".join(f"{value:.3g}".replace("-", "−") for value in values) if len(values) <= 2 else "1 ± noise"
        mode = "training" if training else "inference"
        axes.set_title(f"{kind} {rate}, {mode}\nvalues {text}", fontsize=10.5)
        axes.set(xlabel="channel" if images else "unit", ylabel="pixel" if images else "example")
        _draw_cell_borders(axes)
    bar = figure.colorbar(image, ax=every[0, 3], fraction=0.046, pad=0.03)
    bar.ax.tick_params(labelsize=9)
    _draw_statistics(every[1, 3])
    return figure


def _draw_cell_borders(axes: Any) -> None:
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xticks(np.arange(UNITS + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(EXAMPLES + 1) - 0.5, minor=True)
    axes.grid(visible=True, which="minor", color="#D8D8D8", linewidth=0.6)
    axes.tick_params(which="minor", length=0)


def _draw_statistics(axes: Any) -> None:
    """Draw mean and standard deviation of standard normal signals after each kind of dropout."""
    signals = np.random.default_rng(0).standard_normal((4000, UNITS)).astype("float32")
    kinds = ("dropout", "gaussian_dropout", "alpha_dropout")
    for column, kind in enumerate(kinds):
        outputs = np.asarray(_dropout(kind, 0.4)(signals, training=True))
        axes.errorbar(column, outputs.mean(), yerr=outputs.std(), fmt="o", color=BLUE, capsize=6, linewidth=1.8)
        axes.text(column + 0.1, outputs.mean() + 0.08, f"std {outputs.std():.2f}", fontsize=9, color=INK)
    for line in (-1, 1):
        axes.axhline(line, color=ORANGE, linestyle="--", linewidth=1.2)
    axes.set_xticks(range(len(kinds)), [kind.replace("_", "\n") for kind in kinds])
    axes.set(xlim=(-0.5, len(kinds) - 0.25), ylim=(-2, 2))
    axes.set_title("mean ± std behind rate 0.4\nof a signal with mean 0, std 1", fontsize=10.5)


DEPTH, WIDTH = 10, 128
EPOCHS, SEEDS = 8, 8


def batch_norm_effect(config: RunConfig) -> Figure:
    """Each layer's values before its activation, and the training loss, without and with batch normalization."""
    figure, every = figures.page(14, 4.3, 1, 3)
    every[0, 1].sharey(every[0, 0])
    for axes, batch_norm in zip(every[0, :2], (False, True), strict=True):
        quantiles = _quantiles_before_activations(batch_norm)
        layers = np.arange(1, DEPTH + 1)
        axes.fill_between(layers, quantiles[0], quantiles[3], color=BLUE, alpha=0.18, linewidth=0, label="5 to 95 %")
        axes.fill_between(layers, quantiles[1], quantiles[2], color=BLUE, alpha=0.4, linewidth=0, label="25 to 75 %")
        axes.set_yscale("symlog", linthresh=1)
        axes.set(xlim=(1, DEPTH), xlabel="layer", title=f"{'with' if batch_norm else 'without'} batch norm")
        axes.set_xticks(layers)
    every[0, 0].set_ylabel("values before relu")
    every[0, 0].legend(frameon=False, fontsize=9, loc="lower left")
    axes = every[0, 2]
    for batch_norm, color, dash in ((False, GREY, "--"), (True, BLUE, "-")):
        losses = _losses(batch_norm)
        epochs = np.arange(1, EPOCHS + 1)
        axes.fill_between(epochs, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.2, linewidth=0)
        label = f"{'with' if batch_norm else 'without'} batch norm"
        axes.plot(epochs, losses.mean(axis=0), color=color, linestyle=dash, linewidth=2, label=label)
    axes.set_title(f"digits, 5 layers of sigmoid, {SEEDS} seeds: mean and range", fontsize=10.5)
    axes.set(xlabel="epoch", ylabel="training loss", xlim=(1, EPOCHS))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9.5)
    return figure


def _quantiles_before_activations(batch_norm: bool) -> NDArray[Any]:
    """Quantiles of the values before each layer's activation, `(4, depth)`."""
    described = NetworkConfig(
        hidden=({"units": WIDTH},) * DEPTH,
        activation="relu",
        kernel_initializer={"name": "random_normal", "stddev": 0.2},
    )
    regularization = RegularizationConfig(batch_norm=batch_norm)
    layers = network_layers(described, (WIDTH,), 1, regularization=regularization, seed=0)[:-1]
    signal = np.random.default_rng(0).standard_normal((512, WIDTH)).astype("float32")
    inputs = []
    for layer in layers:
        if isinstance(layer, keras.layers.Dense) and not batch_norm:
            # Without batch normalization a dense layer contains its activation.
            activation, layer.activation = layer.activation, keras.activations.linear
            inputs.append(layer(signal))
            signal = activation(inputs[-1])
        elif isinstance(layer, keras.layers.BatchNormalization):
            signal = layer(signal, training=True)
            inputs.append(signal)
        else:
            signal = layer(signal)
    return np.stack([np.quantile(each, [0.05, 0.25, 0.75, 0.95]) for each in inputs], axis=1)


def _losses(batch_norm: bool) -> NDArray[Any]:
    """Training losses by epoch of each seed, `(seeds, epochs)`."""
    base = RunConfig(
        network={"hidden": [32] * 5, "activation": "sigmoid", "kernel_initializer": "glorot_uniform"},
        regularization={"batch_norm": batch_norm},
        optimizer={"name": "sgd", "learning_rate": 0.5},
        training={"epochs": EPOCHS, "batch_size": 64},
    )
    members = train_fused([replace_at(base, {"seed": seed}) for seed in range(SEEDS)], load_data(base.data))
    return np.array([member.history["loss"] for member in members])

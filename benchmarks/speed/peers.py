"""The same training written for each library. A peer returns a function that runs epochs and measures each of them."""

import dataclasses
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.workloads import LEARNING_RATE, Workload
from kerasnn.config.sections import Style

Arrays = dict[str, np.ndarray]
Runner = Callable[[int], list[float]]
"""Runs a number of epochs; returns the seconds of each."""
Peer = Callable[[Workload, Arrays], Runner]


def _timed(epoch: Callable[[], object], epochs: int) -> list[float]:
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        epoch()
        seconds.append(time.perf_counter() - start)
    return seconds


# Keras


def keras_model(workload: Workload, arrays: Arrays, style: Style = "functional", seed: int = 0, **options: Any) -> Any:
    """The workload's network, compiled."""
    import keras

    from kerasnn.models.building import build_model

    keras.utils.set_random_seed(seed)
    outputs = int(arrays["y"].max()) + 1
    model = build_model(workload.network, arrays["x"].shape[1:], outputs, style=style, seed=seed)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE), "sparse_categorical_crossentropy", metrics=["accuracy"], **options
    )
    return model


def _epochs_of(fit: Callable[..., Any]) -> Runner:
    """Measure the epochs of one call of `fit`, without what `fit` does before the first."""
    import keras

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    def run(epochs: int) -> list[float]:
        clock = Clock()
        fit(epochs=epochs, callbacks=[clock], verbose=0)
        return clock.seconds

    return run


def keras_defaults(workload: Workload, arrays: Arrays) -> Runner:
    """Plain `fit` on arrays, with its default settings."""
    model = keras_model(workload, arrays)
    return _epochs_of(partial(model.fit, arrays["x"], arrays["y"], batch_size=workload.batch_size))


def keras_best(workload: Workload, arrays: Arrays) -> Runner:
    """Plain `fit` at its best: XLA, 64 steps an execution, a tf.data pipeline of shuffled batches."""
    import tensorflow as tf

    rows = len(arrays["x"])
    # XLA wants batches of one size, so the short last batch is left out here.
    whole = rows // workload.batch_size
    model = keras_model(workload, arrays, jit_compile=True, steps_per_execution=min(whole, 64))
    dataset = tf.data.Dataset.from_tensor_slices((arrays["x"], arrays["y"])).cache().shuffle(rows)
    dataset = dataset.batch(workload.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return _epochs_of(partial(model.fit, dataset, shuffle=False))


def kerasnn_style(
    workload: Workload,
    arrays: Arrays,
    style: Style = "functional",
    validated: bool = False,
    memory_share: float = 0.5,
) -> Runner:
    """`kerasnn.fit` on arrays."""
    from kerasnn.engine.fit import fit

    model = keras_model(workload, arrays, style)
    options: dict[str, Any] = {"batch_size": workload.batch_size, "compiled": "on", "memory_share": memory_share}
    if validated:
        options["validation_data"] = (arrays["x_validation"], arrays["y_validation"])
    return _epochs_of(partial(fit, model, arrays["x"], arrays["y"], **options))


def kerasnn_callbacks(workload: Workload, arrays: Arrays) -> Runner:
    """What `kerasnn.train` does with every report on, on the data of `kerasnn_style(validated=True)`."""
    from kerasnn.config.description import replace_at
    from kerasnn.config.run import RunConfig
    from kerasnn.data.loading import load_data
    from kerasnn.runs.train import train

    config = replace_at(
        RunConfig(),
        {
            "data.name": workload.data,
            "data.flatten": not workload.convolutional,
            "network": workload.network.model_dump(mode="json"),
            "training.batch_size": workload.batch_size,
            "training.compiled": "on",
            "report.progress": "silent",
        },
    )
    data = dataclasses.replace(load_data(config.data), x_train=arrays["x"], y_train=arrays["y"])

    def fit(epochs: int, callbacks: list[Any], verbose: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(replace_at(config, {"training.epochs": epochs}), Path(folder) / "run", data, callbacks)

    run = _epochs_of(fit)
    # Each run's first epoch traces the probe and draws the network, once for all of its epochs.
    return lambda epochs: run(epochs + 1)[1:]


# PyTorch


def torch_parts(
    workload: Workload, arrays: Arrays, seed: int = 0, compiled: bool = False
) -> tuple[Callable[[Iterable[Any]], tuple[float, float]], Any, Any, Any]:
    """A function that trains an epoch of batches; the examples; their labels; the model."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layers: list[Any] = []
    if workload.convolutional:
        x = torch.from_numpy(arrays["x"]).permute(0, 3, 1, 2).contiguous()
        layers += [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        sizes = [16 * (x.shape[2] // 4) * (x.shape[3] // 4), workload.hidden[-1], 10]
    else:
        x = torch.from_numpy(arrays["x"])
        sizes = [x.shape[1], *workload.hidden, 10]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    y = torch.from_numpy(arrays["y"].astype(np.int64))
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)

    def step(x: Any, y: Any) -> tuple[Any, Any]:
        optimizer.zero_grad()
        outputs = model(x)
        loss = nn.functional.cross_entropy(outputs, y)
        loss.backward()
        optimizer.step()
        return loss.detach() * len(y), (outputs.argmax(1) == y).sum()

    if compiled:
        step = torch.compile(step)

    def epoch(batches: Iterable[Any]) -> tuple[float, float]:
        loss, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for batch in batches:
            batch_loss, batch_correct = step(*batch)
            loss += batch_loss
            correct += batch_correct
        return float(loss) / len(x), float(correct) / len(x)

    return epoch, x, y, model


def torch_loop(workload: Workload, arrays: Arrays, compiled: bool = False) -> Runner:
    """A hand-written PyTorch loop that slices tensors; `compiled` has `torch.compile` compile its step."""
    import torch

    epoch, x, y, _ = torch_parts(workload, arrays, compiled=compiled)
    return partial(
        _timed,
        lambda: epoch((x[rows], y[rows]) for rows in torch.randperm(len(x)).split(workload.batch_size)),
    )


def torch_loader(workload: Workload, arrays: Arrays) -> Runner:
    """A PyTorch loop over a DataLoader."""
    from torch.utils.data import DataLoader, TensorDataset

    epoch, x, y, _ = torch_parts(workload, arrays)
    loader = DataLoader(TensorDataset(x, y), workload.batch_size, shuffle=True)
    return partial(_timed, lambda: epoch(loader))


# JAX


def jax_weights(key: Any, sizes: Sequence[int]) -> Any:
    """Kernels and biases of a dense network, with He-normal kernels."""
    import jax
    import jax.numpy as jnp

    return [
        (jax.random.normal(each, (inputs, outputs)) * math.sqrt(2 / inputs), jnp.zeros(outputs))
        for each, inputs, outputs in zip(jax.random.split(key, len(sizes)), sizes, sizes[1:], strict=False)
    ]


def jax_adam(rate: Any, gradients: Any, weights: Any, first: Any, second: Any, count: Any) -> tuple[Any, Any, Any, Any]:
    """The weights, moments and number of updates after an update by Adam."""
    import jax
    import jax.numpy as jnp

    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    rate = rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), weights, first, second)
    return weights, first, second, count


def jax_scan(workload: Workload, arrays: Arrays) -> Runner:
    """An epoch as one jitted scan over an order of examples, Adam written out."""
    import jax
    import jax.numpy as jnp

    sizes = [arrays["x"].shape[1], *workload.hidden, 10]
    weights = jax_weights(jax.random.key(0), sizes)
    x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
    zeros = jax.tree.map(jnp.zeros_like, weights)
    whole = len(x) - len(x) % workload.batch_size

    def loss_of(weights: Any, x: Any, y: Any) -> tuple[Any, Any]:
        for kernel, bias in weights[:-1]:
            x = jax.nn.relu(x @ kernel + bias)
        outputs = x @ weights[-1][0] + weights[-1][1]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], 1)
        return losses.mean(), (losses.sum(), (outputs.argmax(1) == y).sum())

    def step(state: Any, rows: Any) -> tuple[Any, Any]:
        gradients, sums = jax.grad(loss_of, has_aux=True)(state[0], x[rows], y[rows])
        return jax_adam(LEARNING_RATE, gradients, *state), sums

    def epoch(state: Any, order: Any) -> tuple[Any, Any]:
        state, sums = jax.lax.scan(step, state, order[:whole].reshape(-1, workload.batch_size))
        totals = [each.sum() for each in sums]
        if whole < len(x):
            state, rest = step(state, order[whole:])
            totals = [total + each for total, each in zip(totals, rest, strict=True)]
        return state, totals

    compiled = jax.jit(epoch, donate_argnums=0)
    state = [(weights, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.int32))]
    orders = np.random.default_rng(0)

    def one() -> tuple[float, float]:
        state[0], (loss, correct) = compiled(state[0], jnp.asarray(orders.permutation(len(x))))
        return float(loss) / len(x), float(correct) / len(x)

    return partial(_timed, one)


# scikit-learn and NumPy


def sklearn_classifier(workload: Workload, arrays: Arrays) -> Runner:
    """scikit-learn's `MLPClassifier`, an epoch a call of `partial_fit`."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        workload.hidden, alpha=0.0, batch_size=workload.batch_size, learning_rate_init=LEARNING_RATE, random_state=0
    )
    classes = np.unique(arrays["y"])
    return partial(_timed, lambda: model.partial_fit(arrays["x"], arrays["y"], classes=classes))


def numpy_floor(workload: Workload, arrays: Arrays) -> Runner:
    """The matrix products of an epoch's forward and backward passes, and nothing else."""
    sizes = [arrays["x"].shape[1], *workload.hidden, 10]
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=shape).astype(np.float32) for shape in itertools.pairwise(sizes)]
    x = arrays["x"]

    def epoch() -> None:
        for begin in range(0, len(x), workload.batch_size):
            values = [x[begin : begin + workload.batch_size]]
            for kernel in kernels:
                values.append(values[-1] @ kernel)
            gradient = values.pop()
            for layer in reversed(range(len(kernels))):
                values[layer].T @ gradient
                if layer:
                    gradient = gradient @ kernels[layer].T

    return partial(_timed, epoch)


PEERS: dict[str, Peer] = {
    "keras": keras_defaults,
    "keras-best": keras_best,
    "kerasnn-sequential": partial(kerasnn_style, style="sequential"),
    "kerasnn-functional": kerasnn_style,
    "kerasnn-subclassed": partial(kerasnn_style, style="subclassed"),
    "kerasnn-streamed": partial(kerasnn_style, memory_share=1e-6),
    "kerasnn-validated": partial(kerasnn_style, validated=True),
    "kerasnn-callbacks": kerasnn_callbacks,
    "torch-loop": torch_loop,
    "torch-compiled": partial(torch_loop, compiled=True),
    "torch-loader": torch_loader,
    "jax-scan": jax_scan,
    "sklearn-classifier": sklearn_classifier,
    "numpy-floor": numpy_floor,
}
"""Peers by name, in the order in which they run."""

IMPORTS = {
    "keras": "keras",
    "kerasnn": "kerasnn.runs.train",
    "torch": "torch.utils.data",
    "jax": "jax.numpy",
    "sklearn": "sklearn.neural_network",
    "numpy": "numpy",
    "optuna": "optuna",
}
"""The module that a peer needs, by the first part of its name; it is imported before the clock starts."""

DENSE_ONLY = ("jax-scan", "sklearn-classifier", "numpy-floor")
"""Peers that are written without convolutions."""

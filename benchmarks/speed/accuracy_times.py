"""Seconds until a network on Fashion-MNIST reaches a stated accuracy on validation examples, for each library."""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.epoch_times import begun
from benchmarks.speed.peers import Arrays, keras_model, torch_parts
from benchmarks.speed.workloads import WORKLOADS

WORKLOAD = WORKLOADS["fashion-128"]
ACCURACY = 0.88
EPOCHS = 50
"""Epochs within which it must be reached."""
Reached = tuple[float, int]
"""Seconds from building the network on, imports left out, and epochs."""


def _by_fit(arrays: Arrays, seed: int, fit: Callable[..., Any]) -> Reached:
    import keras

    class Target(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = logs["val_accuracy"] >= ACCURACY

    start = time.perf_counter()
    history = fit(
        keras_model(WORKLOAD, arrays, seed=seed),
        arrays["x"],
        arrays["y"],
        batch_size=WORKLOAD.batch_size,
        epochs=EPOCHS,
        validation_data=(arrays["x_validation"], arrays["y_validation"]),
        callbacks=[Target()],
        verbose=0,
    )
    return time.perf_counter() - start, _epochs(history.history["val_accuracy"])


def plain_keras(arrays: Arrays, seed: int) -> Reached:
    """Plain `fit` on arrays."""
    import keras

    return _by_fit(arrays, seed, keras.Model.fit)


def kerasnn(arrays: Arrays, seed: int) -> Reached:
    """`kerasnn.fit` on arrays."""
    from kerasnn.engine.fit import fit

    return _by_fit(arrays, seed, fit)


def torch_loop(arrays: Arrays, seed: int) -> Reached:
    """A hand-written PyTorch loop that slices tensors."""
    import torch

    x, y = torch.from_numpy(arrays["x_validation"]), torch.from_numpy(arrays["y_validation"])
    start = time.perf_counter()
    epoch, examples, labels, model = torch_parts(WORKLOAD, arrays, seed)
    accuracies: list[float] = []
    while not accuracies or (accuracies[-1] < ACCURACY and len(accuracies) < EPOCHS):
        epoch((examples[rows], labels[rows]) for rows in torch.randperm(len(examples)).split(WORKLOAD.batch_size))
        with torch.no_grad():
            accuracies.append(float((model(x).argmax(1) == y).float().mean()))
    return time.perf_counter() - start, _epochs(accuracies)


ACCURACY_PEERS: dict[str, Callable[[Arrays, int], Reached]] = {
    "keras": plain_keras,
    "kerasnn-functional": kerasnn,
    "torch-loop": torch_loop,
}


def compare_accuracy(peers: Sequence[str], repeats: int) -> dict[str, dict[str, Any]]:
    """Train with each peer until the accuracy is reached, in turn, each time in a new process.

    Args:
        peers: names in `ACCURACY_PEERS`.
        repeats: turns of each peer, with seeds of their own.

    Returns:
        By peer: every turn's `seconds` and `epochs`.
    """
    found: dict[str, dict[str, Any]] = {peer: {"seconds": [], "epochs": []} for peer in peers}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        np.savez(file, **WORKLOAD.load())
        for seed in range(repeats):
            for peer, figures in found.items():
                # Spawned: each starts as a user's program does, with nothing compiled.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    seconds, epochs = pool.apply(_reached, (peer, seed, file))
                figures["seconds"].append(seconds)
                figures["epochs"].append(epochs)
    return found


def accuracy_table(found: dict[str, dict[str, Any]]) -> str:
    """Figures as text, one line a peer."""
    lines = [
        f"seconds to a validation accuracy of {ACCURACY} on {WORKLOAD.name}",
        f"{'peer':20}{'seconds':>9}{'lowest':>9}{'highest':>9}{'epochs':>8}",
    ]
    for peer, figures in found.items():
        seconds = figures["seconds"]
        lines.append(
            f"{peer:20}{statistics.median(seconds):9.1f}{min(seconds):9.1f}{max(seconds):9.1f}"
            f"{statistics.median(figures['epochs']):8.0f}"
        )
    return "\n".join(lines)


def _epochs(accuracies: list[float]) -> int:
    if accuracies[-1] < ACCURACY:
        raise RuntimeError(f"the accuracy must reach {ACCURACY} in {EPOCHS} epochs, received {max(accuracies)}")
    return len(accuracies)


def _reached(peer: str, seed: int, file: Path) -> Reached:
    return ACCURACY_PEERS[peer](begun(peer, file), seed)

"""Population-based training against random search with the same budget of epochs: the winner's accuracy on test data.

`python -m benchmarks.population [data] [folder]` prints a table; the data are `fashion_mnist` or `digits`. Each seed
gives initial weights and orders of examples of its own. Searches that a folder holds are not repeated.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kerasnn.data.loading import load_data
from kerasnn.models.loading import load_model
from kerasnn.search.config import SearchConfig
from kerasnn.search.run_search import search
from kerasnn.search.table import aligned
from kerasnn.study.statistics import interval, p_value

SEEDS = 5
MEMBERS = 16
EPOCHS = 20
SPACE = {
    "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"},
    "regularization.dropout": {"min": 0.0, "max": 0.5},
    "regularization.l2": {"min": 1e-6, "max": 1e-2, "sampling": "log"},
}
METHODS: dict[str, dict[str, Any]] = {
    "random": {"oracle": "random", "trials": MEMBERS},
    "pbt": {"oracle": {"name": "pbt", "members": MEMBERS, "interval": 2}, "trials": MEMBERS * EPOCHS // 2},
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "fashion_mnist"
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    accuracies: dict[str, list[float]] = {method: [] for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in range(SEEDS):
        for method, settings in METHODS.items():
            run = {
                "data": {"name": name, **({"validation_share": 0.4} if name == "digits" else {})},
                "seed": seed,
                "training": {"epochs": EPOCHS, "batch_size": 32 if name == "digits" else 128},
                "report": {"progress": "silent", "tensorboard": False},
            }
            described = {**settings, "run": run, "space": SPACE, "seed": seed, "objective": "val_accuracy"}
            config = SearchConfig.model_validate(described)
            start = time.perf_counter()
            found = search(config, folder / f"{name}-{method}-{seed}")
            seconds[method].append(time.perf_counter() - start)
            accuracies[method].append(test_accuracy(found.best.number, config, found.search_dir))
            print(method, seed, found.best.score, accuracies[method][-1], f"{seconds[method][-1]:.0f} s", flush=True)
    rows = [["method", "test accuracy", "95 % interval", "seconds", *(f"seed {seed}" for seed in range(SEEDS))]]
    for method, each in accuracies.items():
        mean, low, high = interval(each)
        shown = [f"{mean:.4f}", f"{low:.4f} to {high:.4f}", f"{np.mean(seconds[method]):.0f}"]
        rows.append([method, *shown, *(f"{accuracy:.4f}" for accuracy in each)])
    print(aligned(rows))
    gains = np.subtract(accuracies["pbt"], accuracies["random"])
    mean, low, high = interval(gains)
    print(f"pbt - random, seed by seed: {mean:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, p {p_value(gains):.3f}")


def test_accuracy(number: int, config: SearchConfig, folder: Path) -> float:
    """The accuracy of a trial's saved model on the test part."""
    model = load_model(folder / "models" / f"{number:04d}.keras")
    raw = load_data(config.run.data.model_copy(update={"scaling": "none", "flatten": False}))
    assert raw.x_test is not None
    x, y = raw.x_test.reshape(-1, *raw.raw_shape), raw.y_test
    outputs = model.predict(x, batch_size=1024, verbose=0)
    return float((outputs.argmax(axis=1) == y).mean())


if __name__ == "__main__":
    main()

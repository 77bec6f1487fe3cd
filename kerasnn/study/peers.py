"""A run's network beside scikit-learn's models, on the same splits of the same data."""

import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data, load_data
from kerasnn.models.table_model import TableModel
from kerasnn.runs.evaluate import predicted_values
from kerasnn.runs.scores import scores
from kerasnn.runs.train import train
from kerasnn.study.statistics import interval

NETWORK, CONSTANT = "this network", "constant"


@dataclass(frozen=True, eq=False)
class PeerScores:
    """Scores of a network and of other models on test parts.

    Args:
        measure: what the score is: `accuracy`, or `R²` of a regression.
        values: scores by model, one for each seed.
        seconds: mean time of training, by model.
    """

    measure: str
    values: dict[str, list[float]]
    seconds: dict[str, float]

    def best_peer(self) -> str:
        """The name of scikit-learn's model with the highest mean score."""
        return max((name for name in self.values if name != NETWORK), key=lambda name: np.mean(self.values[name]))

    def __str__(self) -> str:
        width = max(map(len, self.values))
        lines = [f"{'model':{width}}  {f'mean {self.measure}':>13}  95 % interval    seconds"]
        for name in sorted(self.values, key=lambda name: -np.mean(self.values[name])):
            found = interval(self.values[name])
            lines.append(
                f"{name:{width}}  {found.mean:13.4f}  {found.low:6.3f} to {found.high:6.3f}  {self.seconds[name]:7.1f}"
            )
        mean, peer = float(np.mean(self.values[NETWORK])), self.best_peer()
        if mean < np.mean(self.values[peer]):
            lines.append(f"{peer} is better than this network on average: it may be all that this table needs")
        return "\n".join(lines)


def compare_with_peers(config: RunConfig, seeds: int = 3, given: Collection[str] | None = None) -> PeerScores:
    """Train a run's network and scikit-learn's models on the same training parts; score them on the same test parts.

    Each seed splits the data anew. All models get the same encoded features. A regression is scored by R², classes by
    accuracy; `constant` always predicts the most frequent class, or the mean.

    Args:
        config: the run.
        seeds: number of splits, two or more.
        given: as in `kerasnn.runs.train.train`.

    Raises:
        ValueError: one line, for a task without such models, no test part, or fewer than two seeds.

    Reference: scikit-learn's `LogisticRegression`, `Ridge`, random forests and histogram gradient boosting.
    """
    if seeds < 2:
        raise ValueError(f"seeds must be at least 2 for an interval, received {seeds}")
    values: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    measure = ""
    for seed in range(seeds):
        run = replace_at(config, {"seed": seed, "data.seed": seed, "report.progress": "silent"})
        data = load_data(run.data, run.task)
        if data.x_test is None or data.task == "multilabel":
            raise ValueError(f"data must have a test part and one target an example, received task {data.task}")
        if config.report.progress != "silent":
            fitted = len(data.x_train) + (0 if data.x_validation is None else len(data.x_validation))
            print("" if seed else f"{data.about}\n", end="")
            print(f"split {seed + 1} of {seeds}: {fitted:,} examples to fit, {len(data.x_test):,} to test", flush=True)
        measure = "R²" if data.task == "regression" else "accuracy"
        models: dict[str, Callable[[Data], np.ndarray]] = {
            NETWORK: partial(_network, run, given),
            **peers(data.task, seed),
        }
        for name, fit in models.items():
            start = time.perf_counter()
            predicted = fit(data)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            values.setdefault(name, []).append(score_of(run.with_task(data.task), data, predicted))
    return PeerScores(measure, values, {name: float(np.mean(each)) for name, each in seconds.items()})


def score_of(run: RunConfig, data: Data, predicted: np.ndarray) -> float:
    """R² of predicted numbers, or accuracy of predicted classes, on the test part."""
    y = _labels(data, data.y_test)
    if data.task == "regression":
        return scores(run, y, predicted.reshape(len(y), -1)).get("r2", 0.0)
    return float((predicted == y).mean())


def _labels(data: Data, y: Any) -> np.ndarray:
    if data.task == "regression":
        return y
    return y.argmax(axis=1) if y.ndim == 2 else y.astype(int)


def _network(run: RunConfig, given: Collection[str] | None, data: Data) -> np.ndarray:
    """The network's predictions for the test part."""
    quiet = {"report.tensorboard": False, "report.health": False, "report.graph": False, "training.save_state": False}
    with tempfile.TemporaryDirectory() as folder:
        model = train(replace_at(run, {**quiet, "training.save_best": False}), f"{folder}/run", data, given=given).model
    return network_predictions(run, data, model.network if isinstance(model, TableModel) else model)


def network_predictions(run: RunConfig, data: Data, network: keras.Model) -> np.ndarray:
    """A network's predictions for the prepared test part: classes, or numbers."""
    assert data.x_test is not None
    batches = [data.features(data.x_test[start : start + 4096]) for start in range(0, len(data.x_test), 4096)]
    outputs = np.concatenate([keras.ops.convert_to_numpy(network(batch, training=False)) for batch in batches])
    return predicted_values(run.with_task(data.task), outputs)


def peers(task: str, seed: int) -> dict[str, Callable[[Data], np.ndarray]]:
    """Functions that fit scikit-learn's models to the training part, and predict for the test part."""
    from sklearn import dummy, ensemble, linear_model

    if task == "regression":
        models: dict[str, Any] = {
            "ridge": linear_model.RidgeCV(np.logspace(-3, 3, 13)),
            "random forest": ensemble.RandomForestRegressor(200, random_state=seed, n_jobs=-1),
            "gradient boosting": ensemble.HistGradientBoostingRegressor(random_state=seed),
            CONSTANT: dummy.DummyRegressor(),
        }
    else:
        models = {
            "logistic regression": linear_model.LogisticRegression(max_iter=2000),
            "random forest": ensemble.RandomForestClassifier(200, random_state=seed, n_jobs=-1),
            "gradient boosting": ensemble.HistGradientBoostingClassifier(random_state=seed),
            CONSTANT: dummy.DummyClassifier(),
        }
    return {name: partial(_fitted, model) for name, model in models.items()}


def _fitted(model: Any, data: Data) -> np.ndarray:
    parts = [part for part in ("train", "validation") if getattr(data, f"x_{part}") is not None]
    x = np.concatenate([data.features(getattr(data, f"x_{part}")) for part in parts])
    x = x.reshape(len(x), -1)
    y = np.concatenate([_labels(data, getattr(data, f"y_{part}")) for part in parts])
    several = data.task == "regression" and y.shape[1] > 1
    if several:
        from sklearn.multioutput import MultiOutputRegressor

        model = MultiOutputRegressor(model)
    model.fit(x, y if several or y.ndim == 1 else y[:, 0])
    assert data.x_test is not None
    return model.predict(data.features(data.x_test).reshape(-1, x.shape[1]))

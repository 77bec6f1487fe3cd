"""A run's parameters and values in MLflow."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from kerasnn.callbacks.logs import numbers_of
from kerasnn.config.run import RunConfig

FOLDER_TAG = "kerasnn.folder"
"""The tag by which a run that goes on is found again: a hash, because filters have no escape for a path's quotes."""
PARAMETERS_AT_ONCE = 100
"""MLflow refuses more in one request."""


class MLflowRun(keras.callbacks.Callback):
    """Log every epoch to the active run of MLflow, at the step of its number, counted from 1.

    MLflow's own callback acts at every batch, for which blocks of steps would end.

    Reference: `mlflow.tensorflow.MlflowCallback`.
    """

    def __init__(self, mlflow: Any) -> None:
        super().__init__()
        self._mlflow = mlflow

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._mlflow.log_metrics(numbers_of(logs), step=epoch + 1)

    def log_results(self, metrics: Mapping[str, float], epochs: int) -> None:
        """Log the final metrics with the prefix `test_`, at the last epoch."""
        self._mlflow.log_metrics({f"test_{name}": value for name, value in metrics.items()}, step=epochs)


@contextmanager
def mlflow_run(config: RunConfig, folder: Path) -> Iterator[MLflowRun | None]:
    """A run of MLflow for a run of kerasnn: begun, or gone on with where the folder has one.

    Args:
        config: the run; `report.mlflow` is the address of the tracking server or database.
        folder: the run folder, whose name is the run's.

    Yields:
        The callback that logs; None without `report.mlflow`.

    Raises:
        ValueError: one line, where MLflow is not installed.
    """
    if config.report.mlflow is None:
        yield None
        return
    try:
        import mlflow
    except ImportError:
        raise ValueError("report.mlflow needs MLflow: pip install 'kerasnn[mlflow]'") from None
    mlflow.set_tracking_uri(config.report.mlflow)
    tags = {FOLDER_TAG: hashlib.sha256(str(folder.resolve()).encode()).hexdigest(), "kerasnn.run_dir": str(folder)}
    same = f"tags.`{FOLDER_TAG}` = '{tags[FOLDER_TAG]}'"
    found = mlflow.search_runs(filter_string=same, output_format="list", max_results=1)
    run_id = found[0].info.run_id if found else None
    with mlflow.start_run(run_id, run_name=folder.name, tags=tags):
        if run_id is None:
            parameters = list(flat(json.loads(config.to_json())))
            for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
                mlflow.log_params(dict(parameters[start : start + PARAMETERS_AT_ONCE]))
        yield MLflowRun(mlflow)


def flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values of nested JSON objects, as text.

    >>> list(flat({"network": {"hidden": [50]}, "task": "binary"}))
    [('network.hidden', '[50]'), ('task', 'binary')]
    """
    if isinstance(value, Mapping) and value:
        for inner, part in value.items():
            yield from flat(part, f"{key}.{inner}" if key else inner)
    else:
        yield key, value if isinstance(value, str) else json.dumps(value)

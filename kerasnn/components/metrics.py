"""Metrics by name, in the variant for the task and the labels."""

import keras

from kerasnn.config import catalog

_REGRESSION = {
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "log_cosh_error",
    "r2_score",
    "pearson_correlation",
    "concordance_correlation",
}
_ANY_TASK = {
    "mean_squared_error",
    "root_mean_squared_error",
    "mean_absolute_error",
    "cosine_similarity",
    "kl_divergence",
    "poisson",
}
_INTEGER_LABELS = {
    "accuracy",
    "top_k_categorical_accuracy",
    "sparse_categorical_accuracy",
    "sparse_top_k_categorical_accuracy",
    "sparse_categorical_crossentropy",
}
_EXCLUSIVE = {"categorical_accuracy", "top_k_categorical_accuracy", "categorical_crossentropy", "categorical_hinge"}


def get(spec: object, task: str, *, one_hot: bool = False, from_logits: bool = False) -> keras.metrics.Metric:
    """A new metric, logged under the given name.

    The task decides the kind of `accuracy`, which Keras would guess from shapes, and the threshold on logits.

    Args:
        spec: a name or a mapping of a name and arguments; see `kerasnn.config.catalog.METRICS`.
        task: binary, multiclass, multilabel or regression.
        one_hot: whether multiclass labels are one-hot encoded.
        from_logits: whether predictions are logits.

    Raises:
        ValueError: one line, if the spec is wrong or the metric does not suit the task and its labels.

    Reference: `keras.metrics`.
    """
    name, arguments = catalog.check("metric", catalog.METRICS, spec)
    if purpose := _other_purpose(name, task, one_hot):
        raise ValueError(f"metric {name} is for {purpose}, received task {task}")
    kind = name
    if name == "accuracy":
        kind = "categorical_accuracy" if task == "multiclass" else "binary_accuracy"
    if task == "multiclass" and not one_hot and not kind.startswith("sparse"):
        kind = f"sparse_{kind}"
    # Without an average the metric is a vector.
    if "average" in catalog.METRICS[name] and arguments.setdefault("average", "macro") is None:
        raise ValueError(f"metric {name}: average must be one of micro, macro, weighted; received None")
    if from_logits:
        # Keras's default threshold is a probability.
        threshold = {"binary_accuracy": "threshold", "precision": "thresholds", "recall": "thresholds"}.get(kind)
        if threshold is not None:
            arguments.setdefault(threshold, 0.0)
        if "from_logits" in catalog.METRICS[name]:
            arguments.setdefault("from_logits", True)
    return catalog.keras_class(keras.metrics, kind)(name=name, **arguments)


def _other_purpose(name: str, task: str, one_hot: bool) -> str | None:
    """The tasks or labels that a metric is for, or None if it suits this task."""
    if name in _ANY_TASK:
        return "one-hot labels (data.one_hot)" if task == "multiclass" and not one_hot else None
    if (task == "regression") != (name in _REGRESSION):
        return "regression" if name in _REGRESSION else "classification"
    if task == "multiclass":
        if name.startswith("binary"):
            return "labels of 0 and 1"
        if one_hot and name.startswith("sparse"):
            return "integer labels"
        return None if one_hot or name in _INTEGER_LABELS else "one-hot labels (data.one_hot)"
    return "exclusive classes" if name in _EXCLUSIVE or name.startswith("sparse") else None

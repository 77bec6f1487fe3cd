"""Scores that a metric alone does not give, and those of the best constant prediction."""

from typing import Any

import numpy as np

from kerasnn.config.run import RunConfig
from kerasnn.config.schema import readable


def probabilities_of(config: RunConfig, outputs: np.ndarray) -> np.ndarray:
    """The probability of each class or label from a classifier's outputs, `(examples, classes)`."""
    from scipy.special import expit, softmax  # type: ignore[import-untyped]

    if config.loss.from_logits:
        outputs = softmax(outputs, axis=1) if config.known_task == "multiclass" else expit(outputs)
    return np.concatenate([1 - outputs, outputs], axis=1) if config.known_task == "binary" else outputs


def scores(config: RunConfig, y: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """Scores beside the run's metrics: R² of a regression, AUC and F1 of two classes, the mean F1 of more.

    Formulas: R² = 1 - Σ(y - prediction)² / Σ(y - mean)²; F1 = 2 · precision · recall / (precision + recall); AUC is the
    probability that a positive example has a higher output than a negative one.

    Args:
        config: the run.
        y: targets, `(examples,)` or `(examples, outputs)`, in their own units.
        outputs: the model's outputs, `(examples, outputs)`.

    Returns:
        Scores by name, without those that are not defined for these targets.
    """
    from sklearn.metrics import f1_score, r2_score, roc_auc_score

    if not len(y) or not np.isfinite(outputs).all():
        return {}
    if config.known_task == "regression":
        return {"r2": float(r2_score(y.reshape(outputs.shape), outputs))} if len(y) > 1 else {}
    probabilities = probabilities_of(config, outputs)
    if config.known_task == "multilabel":
        return {"f1": float(f1_score(y, probabilities > 0.5, average="macro", zero_division=0.0))}
    labels = y.argmax(axis=1) if y.ndim == 2 else y.astype(int)
    predicted = probabilities.argmax(axis=1)
    if config.known_task == "multiclass":
        classes = np.arange(outputs.shape[1])
        return {"f1": float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0.0))}
    found: dict[str, float] = {}
    if len(np.unique(labels)) == 2:
        found["auc"] = float(roc_auc_score(labels, probabilities[:, 1]))
    return {**found, "f1": float(f1_score(labels, predicted, zero_division=0.0))}


def constant_scores(config: RunConfig, y: np.ndarray) -> dict[str, float]:
    """The accuracy of always predicting the most frequent class, or the mean absolute error of the median.

    A model is of use where it is better than this.

    Args:
        config: the run.
        y: targets, `(examples,)` or `(examples, outputs)`, in their own units.
    """
    if not len(y) or config.known_task == "multilabel":
        return {}
    if config.known_task == "regression":
        y = y.reshape(len(y), -1).astype(np.float64)
        return {"mean_absolute_error": float(np.abs(y - np.median(y, axis=0)).mean())}
    labels: Any = y.argmax(axis=1) if y.ndim == 2 else y.astype(int)
    return {"accuracy": float(np.bincount(labels).max() / len(labels))}


def described(found: dict[str, float], constant: dict[str, float]) -> str:
    """Scores and those of the best constant prediction as a line of text."""
    constantly = "the most frequent class" if "accuracy" in constant else "the median"
    parts = [f"{name} {readable(value)}" for name, value in found.items()]
    parts += [f"always predicting {constantly}: {name} {readable(value)}" for name, value in constant.items()]
    return "  ".join(parts)

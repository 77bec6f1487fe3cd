import numpy as np
import pytest

from kerasnn.components import metrics
from kerasnn.config import catalog

BINARY = (np.array([0, 1, 1, 0], "float32"), np.array([[-2.0], [3.0], [-0.2], [0.4]], "float32"))
INTEGERS = np.array([0, 2, 1, 1])
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.3, 0.1, 0.6]], "float32")
REQUIRED = {
    "precision_at_recall": {"recall": 0.5},
    "recall_at_precision": {"precision": 0.5},
    "sensitivity_at_specificity": {"specificity": 0.5},
    "specificity_at_sensitivity": {"sensitivity": 0.5},
}


def value(metric, y_true, y_predicted):
    metric.update_state(y_true, y_predicted)
    return float(metric.result())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("accuracy", 0.5), ("precision", 0.5), ("recall", 0.5), ("auc", 0.75), ("binary_crossentropy", 0.471667)],
)
def test_logits_are_measured_as_their_probabilities(spec, expected):
    y_true, logits = BINARY
    from_logits = value(metrics.get(spec, "binary", from_logits=True), y_true[:, None], logits)
    probabilities = 1 / (1 + np.exp(-logits))
    assert from_logits == pytest.approx(value(metrics.get(spec, "binary"), y_true[:, None], probabilities), abs=2e-3)
    assert from_logits == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("spec", "expected"), [("accuracy", 0.5), ({"name": "top_k_categorical_accuracy", "k": 2}, 0.75)]
)
def test_integer_and_one_hot_labels_agree(spec, expected):
    assert value(metrics.get(spec, "multiclass"), INTEGERS[:, None], PROBABILITIES) == expected
    assert value(metrics.get(spec, "multiclass", one_hot=True), np.eye(3)[INTEGERS], PROBABILITIES) == expected


def test_logged_under_the_name_asked_for():
    assert metrics.get("accuracy", "multiclass").name == "accuracy"
    assert metrics.get("mse", "regression").name == "mean_squared_error"


@pytest.mark.parametrize("name", sorted(catalog.METRICS))
def test_every_metric_fits_some_task(name):
    spec = {"name": name, **REQUIRED.get(name, {})}
    fits = []
    for task, one_hot in (("binary", False), ("multiclass", False), ("multiclass", True), ("regression", False)):
        try:
            metric = metrics.get(spec, task, one_hot=one_hot)
        except ValueError:
            continue
        y = {"binary": BINARY[0][:, None], "regression": PROBABILITIES[::-1]}.get(task, INTEGERS[:, None])
        y = np.eye(3, dtype="float32")[INTEGERS] if one_hot else y
        metric.update_state(y, PROBABILITIES[:, :1] if task == "binary" else PROBABILITIES)
        assert np.isfinite(np.asarray(metric.result())).all()
        fits.append(task)
    assert fits


@pytest.mark.parametrize(
    ("spec", "task", "line"),
    [
        ("accuracy", "regression", "metric accuracy is for classification, received task regression"),
        ("r2_score", "binary", "metric r2_score is for regression, received task binary"),
        ("precision", "multiclass", r"is for one-hot labels \(data.one_hot\), received task multiclass"),
        ("categorical_accuracy", "binary", "is for exclusive classes"),
        ("binary_accuracy", "multiclass", "is for labels of 0 and 1"),
        ("acuracy", "binary", "did you mean 'accuracy'"),
    ],
)
def test_refusals(spec, task, line):
    with pytest.raises(ValueError, match=line):
        metrics.get(spec, task)

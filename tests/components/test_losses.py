import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasnn.components import losses
from kerasnn.config import catalog

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "golden.json").read_text())
LABELS = np.array([0, 2, 1])
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def value(spec, y_true, y_pred, **options):
    loss = losses.get({"name": spec, **options} if options else spec)
    return float(loss(np.asarray(y_true, "float32"), np.asarray(y_pred, "float32")))


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in GOLDEN["keras_losses"].items() for case in cases]
)
def test_keras_golden(name, case):
    assert value(name, case["y_true"], case["y_pred"]) == pytest.approx(case["value"], rel=2e-6)


def test_keras_golden_from_integer_labels():
    for case in GOLDEN["keras_losses"]["categorical_crossentropy"]:
        labels = np.argmax(case["y_true"], -1)
        assert value("sparse_categorical_crossentropy", labels, case["y_pred"]) == pytest.approx(
            case["value"], rel=1e-6
        )


@pytest.mark.parametrize("name", ["binary_crossentropy", "mae", "mse", "smooth_l1"])
def test_torch_golden(name):
    case = GOLDEN["torch_losses"][name]
    y_true, y_pred = np.array(case["y_true"])[:, None], np.array(case["y_pred"])[:, None]
    assert value(name, y_true, y_pred) == pytest.approx(case["value"], rel=2e-6)


def test_torch_golden_from_logits():
    case = GOLDEN["torch_losses"]["cross_entropy_from_logits"]
    logits, labels = case["logits"], case["labels"]
    expected = pytest.approx(case["value"], rel=1e-6)
    assert value("sparse_categorical_crossentropy", labels, logits, from_logits=True) == expected
    assert value({"name": "sparse_categorical_crossentropy", "from_logits": True}, labels, logits) == expected
    assert value("categorical_crossentropy", np.eye(3)[labels], logits, from_logits=True) == expected


P = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.4, 0.3]])
T = ONE_HOT.astype("float64")
TRUE_P = np.array([0.7, 0.6, 0.4])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("mean_absolute_percentage_error", 100 * np.mean(np.abs(T - P) / np.maximum(T, 1e-7))),
        ("mean_squared_logarithmic_error", np.mean((np.log1p(T) - np.log1p(P)) ** 2)),
        (
            {"name": "huber", "delta": 0.25},
            np.mean(np.where(abs(T - P) < 0.25, (T - P) ** 2 / 2, abs(T - P) / 4 - 1 / 32)),
        ),
        ("log_cosh", np.mean(np.log(np.cosh(T - P)))),
        ("cosine_similarity", -np.mean(TRUE_P / np.linalg.norm(P, axis=1))),
        ("hinge", np.mean(np.maximum(1 - (2 * T - 1) * P, 0))),
        ("squared_hinge", np.mean(np.maximum(1 - (2 * T - 1) * P, 0) ** 2)),
        ("categorical_hinge", np.mean([0.2 - 0.7 + 1, 0.3 - 0.6 + 1, 0.3 - 0.4 + 1])),
        ("kl_divergence", np.mean(-np.log(TRUE_P))),
        ("poisson", np.mean(P - T * np.log(P + 1e-7))),
        ({"name": "categorical_focal_crossentropy", "gamma": 3.0}, np.mean(-0.25 * (1 - TRUE_P) ** 3 * np.log(TRUE_P))),
        (
            "binary_focal_crossentropy",
            np.mean(-T * (1 - P) ** 2 * np.log(P) - (1 - T) * P**2 * np.log(1 - P)),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_formulas(spec, expected):
    # Keras clips or shifts probabilities by 1e-7.
    assert value(spec, T, P) == pytest.approx(expected, rel=1e-5)


def test_every_loss_is_a_mean_over_examples():
    for name in catalog.LOSSES:
        y_true = LABELS if name.startswith("sparse") else ONE_HOT
        each = [value(name, y_true[i : i + 1], P[i : i + 1]) for i in range(3)]
        assert value(name, y_true, P) == pytest.approx(np.mean(each), rel=1e-5), name


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_smoothed_integer_labels_equal_smoothed_one_hot(shape, from_logits):
    options = {"from_logits": from_logits, "label_smoothing": 0.1}
    smoothed = value("sparse_categorical_crossentropy", LABELS.reshape(shape), P, **options)
    assert smoothed == value("categorical_crossentropy", ONE_HOT, P, **options)
    scores = np.log(P) if not from_logits else P - np.log(np.exp(P).sum(-1, keepdims=True))
    expected = -np.mean(np.sum((0.9 * T + 0.1 / 3) * scores, -1))
    assert smoothed == pytest.approx(expected, rel=1e-6)


def test_smoothing_where_no_class_is_ignored():
    spec = {"name": "sparse_categorical_crossentropy", "ignore_class": None, "label_smoothing": 0.1}
    assert value(spec, LABELS, P) == value("categorical_crossentropy", ONE_HOT, P, label_smoothing=0.1)


def test_smoothed_integer_labels_of_images():
    labels, p = np.array([[0, 2], [1, 1]]), np.stack([P[:2], P[1:]])
    smoothed = value("sparse_categorical_crossentropy", labels, p, label_smoothing=0.2)
    assert smoothed == value("categorical_crossentropy", np.eye(3)[labels], p, label_smoothing=0.2)


def test_smoothed_binary_labels():
    expected = -np.mean((0.9 * T + 0.05) * np.log(P) + (0.95 - 0.9 * T) * np.log(1 - P))
    assert value("bce", T, P, label_smoothing=0.1) == pytest.approx(expected, rel=1e-6)


def test_no_smoothing_is_keras_own_loss():
    assert type(losses.get("sparse_categorical_crossentropy")) is keras.losses.SparseCategoricalCrossentropy
    spec = {"name": "sparse_categorical_crossentropy", "ignore_class": 2}
    assert value(spec, LABELS, P) == pytest.approx(-np.mean(np.log([0.7, 0.4])), rel=1e-6)


# Logits of ±1000: a wrong certainty costs 1000 or 2000, a right one nothing, a tie log 3 or log 2.
FAR = np.array([[1000, -1000, 0], [-1000, 1000, 0], [0, 0, 0]], "float32")
FAR_SOFTMAX = (0 + 1000 + math.log(3)) / 3
FAR_SIGMOID = (0 + 0 + math.log(2) + 0 + 1000 + math.log(2) + 3 * math.log(2)) / 9
FAR_SMOOTHED = 0.9 * FAR_SOFTMAX + 0.1 / 3 * ((0 + 2000 + 1000) / 3 + (2000 + 0 + 1000) / 3 + math.log(3))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("behind", [False, True], ids=["from_logits", "behind_activation"])
@pytest.mark.parametrize(
    ("name", "smoothing", "expected"),
    [
        ("categorical_crossentropy", 0.0, FAR_SOFTMAX),
        ("sparse_categorical_crossentropy", 0.0, FAR_SOFTMAX),
        ("categorical_crossentropy", 0.1, FAR_SMOOTHED),
        ("sparse_categorical_crossentropy", 0.1, FAR_SMOOTHED),
        ("binary_crossentropy", 0.0, FAR_SIGMOID),
        ("categorical_focal_crossentropy", 0.0, None),
        ("binary_focal_crossentropy", 0.0, None),
    ],
)
def test_far_logits(name, smoothing, expected, behind, jit):
    activation = keras.activations.sigmoid if name.startswith("binary") else keras.activations.softmax
    loss = losses.get({"name": name, "from_logits": not behind, "label_smoothing": smoothing})
    y_true = LABELS if name.startswith("sparse") else ONE_HOT

    @tf.function(jit_compile=jit)
    def run(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            total = loss(y_true, activation(logits) if behind else logits)
        return total, tape.gradient(total, logits)

    total, gradient = run(tf.constant(FAR))
    assert np.all(np.isfinite(gradient))
    if expected is None:
        assert np.isfinite(total)  # Keras's focal losses clip probabilities to 1e-7
        return
    assert float(total) == pytest.approx(expected, rel=1e-6)
    if name.startswith("binary"):
        target = (1 / (1 + np.exp(-FAR.astype("float64").clip(-500, 500))) - ONE_HOT) / 9
    else:
        e = np.exp(FAR - FAR.max(-1, keepdims=True))
        target = (e / e.sum(-1, keepdims=True) - (1 - smoothing) * ONE_HOT - smoothing / 3) / 3
    np.testing.assert_allclose(gradient, target, atol=1e-7)


@pytest.mark.parametrize("name", catalog.LOSSES)
def test_finite_gradients_at_the_edges(name):
    # Certain and wrong, certain and wrong, certain and right; then nothing at all, where that is no probability.
    y_pred = tf.constant([[0.0, 1, 0], [1, 0, 0], [0, 1, 0]])
    if "from_logits" not in catalog.LOSSES[name]:
        y_pred *= tf.constant([[1.0], [1.0], [0.0]])
    y_true = LABELS if name.startswith("sparse") else ONE_HOT
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        total = losses.get(name)(y_true, y_pred)
    assert np.isfinite(total)
    assert np.all(np.isfinite(tape.gradient(total, y_pred)))


def test_behind_softmax_in_fit_with_xla(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "softmax", kernel_initializer="identity")])
    loss = losses.get({"name": "sparse_categorical_crossentropy", "label_smoothing": 0.1})
    model.compile("sgd", loss, jit_compile=True)
    assert model.evaluate(FAR, LABELS, verbose=0) == pytest.approx(FAR_SMOOTHED, rel=1e-6)
    history = model.fit(FAR, LABELS, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.loss) is losses.SmoothedSparseCategoricalCrossentropy
    assert loaded.loss.get_config() == model.loss.get_config()
    assert loaded.evaluate(FAR, LABELS, verbose=0) == model.evaluate(FAR, LABELS, verbose=0)


@pytest.mark.parametrize("name", catalog.LOSSES)
def test_every_loss_can_be_saved(name):
    options = {"label_smoothing": 0.1} if "label_smoothing" in catalog.LOSSES[name] else {}
    loss = losses.get({"name": name, **options})
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    y_true = LABELS if name.startswith("sparse") else ONE_HOT
    assert float(again(y_true, P)) == float(loss(y_true, P))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("msee", r"^loss must be one of categorical_crossentropy, .*; received 'msee'"),
        (
            {"name": "mse", "from_logits": True},
            r"^loss mean_squared_error takes no arguments; received 'from_logits'; taken by",
        ),
        (
            {"name": "hinge", "label_smoothing": 0.1},
            r"^loss hinge takes no arguments; received 'label_smoothing'; taken by",
        ),
        (
            {"name": "huber", "label_smoothing": 0.1},
            r"^loss huber: argument must be one of delta; received 'label_smoothing'",
        ),
        (
            {"name": "bce", "label_smoothing": 1.0},
            r"^loss binary_crossentropy: label_smoothing must be a number in \[0, 1\); r",
        ),
        ({"name": "bce", "label_smoothing": -0.1}, r"label_smoothing must be a number in \[0, 1\); received -0.1"),
        ({"name": "bce", "label_smoothing": math.nan}, r"label_smoothing must be a number in \[0, 1\); received nan"),
        ({"name": "huber", "delta": 0}, r"^loss huber: delta must be a finite number > 0; received 0"),
        (
            {"name": "sparse_categorical_crossentropy", "ignore_class": 0, "label_smoothing": 0.1},
            "label_smoothing and ignore_class exclude each other",
        ),
    ],
)
def test_refusals(spec, message):
    with pytest.raises(ValueError, match=message):
        losses.get(spec)

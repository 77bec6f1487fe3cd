"""Which direction of a monitored value is better: known, declared, given, or asked for."""

import logging
import math

import keras
import numpy as np
import pytest

from kerasnn.callbacks.best_model import BestModel
from kerasnn.callbacks.early_stopping import early_stopping
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.callbacks.monitored_value import MonitoredValue
from kerasnn.config import catalog
from kerasnn.config.monitor import BestValue, Plateau, better_direction, known_direction
from kerasnn.config.sections import EarlyStoppingConfig

X = np.random.default_rng(0).normal(size=(32, 2)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")
ARGUMENTS = {
    "IoU": {"num_classes": 2, "target_class_ids": [0]},
    "OneHotIoU": {"num_classes": 2, "target_class_ids": [0]},
    "MeanIoU": {"num_classes": 2},
    "OneHotMeanIoU": {"num_classes": 2},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}


def keras_metrics():
    for name, kind in vars(keras.metrics).items():
        if isinstance(kind, type) and name not in ("Metric", "Mean", "Sum", "MeanMetricWrapper"):
            yield kind(**ARGUMENTS.get(name, {}))


def compiled(metrics=None, outputs=None):
    inputs = keras.Input((2,))
    names = outputs or ["out"]
    heads = {name: keras.layers.Dense(1, "sigmoid", name=name)(inputs) for name in names}
    model = keras.Model(inputs, heads if outputs else heads["out"])
    model.compile("sgd", "binary_crossentropy", metrics=metrics)
    return model


def test_names_of_kerass_metrics_agree_with_their_declared_directions():
    declared = {"up": "max", "down": "min"}
    for metric in keras_metrics():
        direction = known_direction(f"val_{metric.name}_2")
        assert direction is not None, metric.name
        assert direction == declared.get(getattr(metric, "_direction", ""), direction), metric.name


@pytest.mark.parametrize("name", [*catalog.METRICS, *catalog.LOSSES])
def test_every_metric_of_a_config_has_a_direction(name):
    assert known_direction(name) is not None


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val_loss", "min"),
        ("head_loss", "min"),
        ("kl_loss", "min"),
        ("val_weighted_acc", "max"),
        ("val_auc_3", "max"),
        ("val_f1_score", "max"),
        ("false_negatives", "min"),
        *(
            (f"val_{name}", None)
            for name in ("dice", "kappa", "ndcg", "psnr", "map", "mcc", "iou", "my_score", "neg_mean_squared_error")
        ),
    ],
)
def test_a_direction_is_known_by_keras_names_only(name, direction):
    assert known_direction(name) == direction
    assert known_direction(name, "max") == "max"
    if direction is None:
        line = f"^mode must be 'min' or 'max' for '{name}', whose better direction is unknown; received 'auto'"
        with pytest.raises(ValueError, match=line):
            better_direction(name)


class Dice(keras.metrics.Mean):
    """A metric that declares that more is better."""

    def __init__(self, name="dice", direction="up", **options):
        super().__init__(name=name, **options)
        if direction:
            self._direction = direction

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(1 - keras.ops.abs(y_true - y_pred))


def kappa(y_true, y_pred):
    return keras.ops.mean(y_true * y_pred)


@pytest.mark.parametrize(
    ("metrics", "outputs", "name", "direction"),
    [
        ([Dice()], None, "val_dice", "max"),
        ([Dice(direction="down")], None, "dice", "min"),
        ([Dice("accuracy", "down")], None, "val_accuracy", "min"),
        ([keras.losses.cosine_similarity], None, "val_cosine_similarity", "min"),
        (["cosine_similarity"], None, "val_cosine_similarity", "max"),
        ({"a": [Dice()], "b": ["mse", "accuracy"]}, ["a", "b"], "val_a_dice", "max"),
        ({"a": [Dice()], "b": ["mse", "accuracy"]}, ["a", "b"], "val_b_mean_squared_error", "min"),
        ({"a": [Dice()], "b": ["mse", "accuracy"]}, ["a", "b"], "b_accuracy", "max"),
        ({"a": [Dice()], "b": ["mse", "accuracy"]}, ["a", "b"], "val_b_loss", "min"),
    ],
)
def test_a_compiled_metric_declares_its_direction(metrics, outputs, name, direction):
    value = MonitoredValue(name)
    value.begin(compiled(metrics, outputs))
    assert value.best.direction == direction


def test_the_end_of_a_name_does_not_decide_its_direction():
    value = MonitoredValue("val_neg_mean_squared_error")
    with pytest.raises(ValueError, match="must be 'min' or 'max' for 'val_neg_mean_squared_error'"):
        value.begin(compiled(["mse"]))


@pytest.mark.parametrize("metrics", [[kappa], [Dice("kappa", None)], None])
def test_an_unknown_direction_is_an_error_before_the_first_epoch(tmp_path, metrics):
    epochs = []
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    plateau = LearningRate(plateau=Plateau(monitor="val_kappa"))
    for callback in (BestModel(tmp_path / "best.keras", "val_kappa"), plateau):
        with pytest.raises(
            ValueError, match=r"^mode must be 'min' or 'max' for 'val_kappa', whose better direction is un"
        ):
            compiled(metrics).fit(X, Y, validation_data=(X, Y), verbose=0, callbacks=[count, callback])
    assert epochs == []
    with pytest.raises(ValueError, match=r"^mode must be 'min' or 'max' for 'val_kappa'"):
        early_stopping(EarlyStoppingConfig(monitor="val_kappa"))
    assert early_stopping(EarlyStoppingConfig(monitor="val_kappa", mode="max")).mode == "max"


class Told(keras.callbacks.Callback):
    def __init__(self, name, values):
        super().__init__()
        self.name, self.values = name, values

    def on_epoch_end(self, epoch, logs=None):
        if self.values[epoch] is not None:
            logs[self.name] = self.values[epoch]


@pytest.mark.parametrize("metric", ["val_dice", "val_kappa", "val_ndcg", "val_psnr", "val_map", "val_mcc", "val_iou"])
def test_the_best_of_a_growing_metric_is_its_last(tmp_path, metric):
    best = BestModel(tmp_path / "best.keras", metric, mode="max")
    values = [0.1 * epoch for epoch in range(1, 10)]
    compiled().fit(X, Y, epochs=9, verbose=0, callbacks=[Told(metric, values), best])
    assert best.summary() == {"epoch": 9, "monitor": metric, "value": values[-1]}


def test_mode_is_one_of_three(tmp_path):
    with pytest.raises(ValueError, match=r"^mode must be one of auto, min, max; received 'maximum' \(did you"):
        BestModel(tmp_path / "best.keras", mode="maximum")


@pytest.mark.parametrize(
    ("direction", "values", "improved"),
    [
        ("min", [3.0, 2.95, 2.8, math.nan, -math.inf, 2.9], [True, False, True, False, False, False]),
        ("max", [math.inf, 1.0, 1.05, 1.2], [False, True, False, True]),
    ],
)
def test_best_value(direction, values, improved):
    best = BestValue(direction, min_delta=0.1)
    assert [best.update(value) for value in values] == improved


def test_a_direction_must_be_decided_before_values_are_compared():
    with pytest.raises(ValueError, match="direction must be 'min' or 'max' before values are compared, received None"):
        BestValue(None).update(1.0)


def test_epochs_without_validation_are_not_compared(tmp_path, caplog):
    best = BestModel(tmp_path / "best.keras")
    rate = LearningRate(learning_rate=0.5, plateau=Plateau(patience=1, factor=0.5))
    told = Told("val_loss", [None, 3.0, None, 2.0, None, 2.5])
    with caplog.at_level(logging.WARNING, "kerasnn"):
        history = compiled().fit(X, Y, epochs=6, verbose=0, callbacks=[told, best, rate]).history
    assert best.summary() == {"epoch": 4, "monitor": "val_loss", "value": 2.0}
    assert history["learning_rate"] == [0.5] * 6
    assert rate.plateau_factor == 0.5
    assert caplog.messages == ["val_loss is not logged in epoch 1: only epochs with validation are compared"] * 2


def test_validation_every_second_epoch(tmp_path):
    best = BestModel(tmp_path / "best.keras")
    model = compiled()
    history = model.fit(
        X, Y, epochs=5, verbose=0, validation_data=(X, Y), validation_freq=2,
        callbacks=[best, LearningRate(plateau=Plateau())],
    ).history  # fmt: skip
    assert len(history["val_loss"]) == 2
    assert best.summary() == {"epoch": 4, "monitor": "val_loss", "value": history["val_loss"][1]}


@pytest.mark.parametrize("make", [lambda path: BestModel(path), lambda path: LearningRate(plateau=Plateau())])
def test_a_validation_metric_that_is_never_logged_is_refused(tmp_path, make):
    with pytest.raises(ValueError, match=r"^monitor must be logged, received 'val_loss': give fit validation_data$"):
        compiled().fit(X, Y, epochs=2, verbose=0, callbacks=[make(tmp_path / "best.keras")])


def test_a_vector_cannot_be_monitored(tmp_path):
    best = BestModel(tmp_path / "best.keras", "val_f1_score")
    with pytest.raises(ValueError, match=r"^monitor 'val_f1_score' must be a single number, received .*0.5"):
        compiled().fit(X, Y, verbose=0, callbacks=[Told("val_f1_score", [np.array([0.5, 0.75])]), best])

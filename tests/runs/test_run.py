import csv
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest

from kerasnn.callbacks.divergence import DivergenceError
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.components import losses, optimizers
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import NetworkConfig
from kerasnn.data.loading import from_arrays, load_data
from kerasnn.models.building import build_model
from kerasnn.runs.evaluate import evaluate_run
from kerasnn.runs.record import plan
from kerasnn.runs.train import train
from kerasnn.timings import PHASES

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "golden.json").read_text())
QUIET = {"report.progress": "silent", "report.tensorboard": False}
SMALL = replace_at(RunConfig(), {"network.hidden": [12], "training.epochs": 3, "training.batch_size": 64, **QUIET})


def small(**changes):
    return replace_at(SMALL, {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = small(
        report__tensorboard=True, schedule={"name": "cosine", "per": "update"}, regularization={"dropout": 0.1}
    )
    return config, train(config, tmp_path_factory.mktemp("runs") / "run")


def test_run_folder_is_complete(finished):
    config, result = finished
    names = {path.name for path in result.run_dir.iterdir()}
    assert names == {
        "config.json", "model.keras", "best.keras", "history.csv", "result.json", "network.svg", "train", "validation",
        "state",
    }  # fmt: skip
    assert RunConfig.load(result.run_dir) == config
    record = json.loads((result.run_dir / "result.json").read_text())
    assert record["status"] == "finished"
    assert record["metrics"] == result.metrics
    assert record["epochs"] == 3
    assert record["parameters"] == 64 * 12 + 12 + 12 * 10 + 10
    assert record["best"]["value"] == min(result.history["val_loss"])
    assert record["versions"]["keras"] == keras.__version__
    total = record["timings"].pop("total")
    assert tuple(record["timings"]) == PHASES
    assert sum(record["timings"].values()) == pytest.approx(total, abs=0.01)
    assert min(record["timings"][name] for name in ("build", "trace", "compile", "epochs", "reports")) > 0
    rows = list(csv.DictReader((result.run_dir / "history.csv").read_text().splitlines()))
    assert {name: [float(row[name]) for row in rows] for name in result.history} == result.history


def test_config_of_a_run_folder_reruns_it_to_the_bit(finished, tmp_path):
    _, result = finished
    again = train(RunConfig.load(result.run_dir), tmp_path / "again")
    assert again.history == result.history
    assert again.metrics == result.metrics
    for first, second in zip(result.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("style", ["functional", "subclassed"])
def test_styles_train_to_the_same_numbers(finished, tmp_path, style):
    config, result = finished
    other = train(replace_at(config, {"style": style, **QUIET}), tmp_path / style)
    assert other.history == result.history
    assert other.metrics == result.metrics


def test_saved_model_takes_raw_examples_one_by_one_or_in_batches(finished):
    from sklearn.datasets import load_digits

    _, result = finished
    raw = load_digits().images[:20]
    model = keras.saving.load_model(result.run_dir / "model.keras")
    together = model.predict(raw, verbose=0)
    np.testing.assert_array_equal(together, result.model.predict(raw, verbose=0))
    single = np.concatenate([model.predict(raw[i : i + 1], verbose=0) for i in range(20)])
    np.testing.assert_allclose(single, together, atol=1e-6)
    np.testing.assert_array_equal(single.argmax(axis=1), together.argmax(axis=1))


def test_best_model_scores_what_was_logged(finished):
    config, result = finished
    data = load_data(config.data)
    model = keras.saving.load_model(result.run_dir / "best.keras")
    raw = data.x_validation.reshape(-1, 8, 8) * 16
    values = model.evaluate(raw, data.y_validation, verbose=0, return_dict=True)
    assert values["loss"] == pytest.approx(min(result.history["val_loss"]), abs=1e-5)


def test_learning_rate_of_each_epoch_is_in_the_history(finished):
    _, result = finished
    steps = math.ceil(1294 / 64)
    expected = [1e-3 * (1 + math.cos(math.pi * (epoch + (steps - 1) / steps) / 3)) / 2 for epoch in range(3)]
    np.testing.assert_allclose(result.history["learning_rate"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("task", "outputs", "changes"),
    [
        ("binary", 1, {}),
        ("binary", 1, {"loss.from_logits": True, "training.metrics": ["accuracy", "auc", "precision"]}),
        ("binary", 1, {"loss.name": "hinge", "network.output_activation": "tanh", "training.class_weight": "balanced"}),
        ("multiclass", 3, {"data.one_hot": True, "loss.label_smoothing": 0.1}),
        ("multiclass", 3, {"loss.label_smoothing": 0.1, "training.class_weight": {0: 1, 1: 2, 2: 1}}),
        ("multilabel", 3, {"training.metrics": ["accuracy", "f1_score"]}),
        ("regression", 2, {"data.scaling": "standardize", "loss.name": "huber", "loss.arguments": {"delta": 0.5}}),
    ],
)
def test_every_task_trains_and_evaluates(tmp_path, task, outputs, changes):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 4))
    y = {
        "binary": (x[:, 0] > 0).astype(int),
        "multiclass": np.arange(80) % 3,
        "multilabel": (x[:, :3] > 0).astype(int),
        "regression": x[:, :2],
    }[task]
    config = small(task=task, data__name="arrays", training__epochs=2)
    config = replace_at(config, changes)
    data = from_arrays(x, y, config=config.data, task=task)
    result = train(config, tmp_path / "run", data)
    assert result.model.output_shape == (None, outputs)
    assert set(result.metrics) >= {"loss"}
    np.savez(tmp_path / "test.npz", x=x, y=y)
    evaluation = evaluate_run(tmp_path / "run", tmp_path / "test.npz")
    assert np.isfinite(list(evaluation.metrics.values())).all()
    evaluation.write_csv(tmp_path / "predictions.csv")
    rows = list(csv.reader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 81
    assert str(evaluation)


def test_evaluation_of_a_run_agrees_with_its_result(finished):
    _, result = finished
    evaluation = evaluate_run(result.run_dir)
    assert evaluation.metrics == pytest.approx(result.metrics, abs=1e-5)
    assert evaluation.confusion.sum() == 359
    assert evaluation.confusion.trace() / 359 == pytest.approx(result.metrics["accuracy"])
    assert [row["class"] for row in evaluation.by_class] == [str(digit) for digit in range(10)]
    assert sum(row["support"] for row in evaluation.by_class) == 359


class Interrupt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_interrupted_run_leaves_a_valid_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, tmp_path / "run", callbacks=[Interrupt()])
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["status"] == "interrupted"
    assert record["epochs"] == 2
    assert 0 < evaluate_run(tmp_path / "run").metrics["accuracy"] <= 1
    assert 0 < evaluate_run(tmp_path / "run", model="best").metrics["accuracy"] <= 1


def test_divergence_is_an_error_and_the_folder_says_so(tmp_path):
    config = small(optimizer={"name": "sgd", "learning_rate": 1e12})
    with pytest.raises(DivergenceError, match="must stay finite"):
        train(config, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["status"] == "diverged"
    assert not (tmp_path / "run" / "model.keras").exists()


def test_early_stopping_restores_the_best_epoch(tmp_path):
    config = small(
        training__epochs=30,
        optimizer={"name": "adam", "learning_rate": 0.05},
        training__early_stopping={"patience": 2, "monitor": "val_accuracy"},
        training__monitor="val_accuracy",
    )
    result = train(config, tmp_path / "run")
    values = result.history["val_accuracy"]
    assert len(values) < 30
    assert len(values) - 1 - values.index(max(values)) == 2
    best = keras.saving.load_model(tmp_path / "run" / "best.keras")
    for first, second in zip(result.model.get_weights(), best.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_mode_decides_the_best_epoch(tmp_path):
    config = small(training__epochs=3, training__monitor="accuracy", training__monitor_mode="min")
    result = train(config, tmp_path / "run")
    best = json.loads((tmp_path / "run" / "result.json").read_text())["best"]
    values = result.history["accuracy"]
    assert best == {"epoch": 1 + values.index(min(values)), "monitor": "accuracy", "value": min(values)}


def test_plateau_lowers_the_rate(tmp_path):
    config = small(training__epochs=4, training__plateau={"patience": 1, "min_delta": 100.0, "factor": 0.5})
    rates = train(config, tmp_path / "run").history["learning_rate"]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 5e-4, 2.5e-4], rtol=1e-6)


def test_balanced_class_weights_are_inverse_frequencies(tmp_path, monkeypatch):
    seen = {}

    def spy(*arguments, class_weight, **options):
        seen.update(class_weight)
        raise KeyboardInterrupt

    monkeypatch.setattr("kerasnn.runs.train.fit", spy)
    x, y = np.random.default_rng(0).normal(size=(40, 2)), np.repeat([0, 1], [30, 10])
    config = small(task="binary", data__name="arrays", data__test_share=0, data__validation_share=0,
                   training__class_weight="balanced")  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", from_arrays(x, y, config=config.data, task="binary"))
    assert seen == {0: 40 / 60, 1: 40 / 20}


def test_refusals(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"run_dir must be a new or empty folder, received .*used"):
        train(SMALL, tmp_path / "used")
    data = load_data(SMALL.data)
    with pytest.raises(ValueError, match="data must be for the run's task 'binary', received data for 'multiclass'"):
        train(small(task="binary"), tmp_path / "a", data)
    with pytest.raises(ValueError, match="class_weight must give a weight to each class from 0 to 9, received"):
        train(small(training__class_weight={0: 1.0}), tmp_path / "b", data)
    config = small(data__name="arrays", data__validation_share=0, training__monitor="val_loss")
    unvalidated = from_arrays(data.x_test, data.y_test, config=config.data)
    with pytest.raises(ValueError, match="monitor must be one of loss, accuracy; received 'val_loss'"):
        train(config, tmp_path / "c", unvalidated)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.json").write_text(SMALL.to_json())
    with pytest.raises(FileNotFoundError, match=r"run folder must hold model.keras"):
        evaluate_run(tmp_path / "d")
    with pytest.raises(ValueError, match="model must be one of model, best"):
        evaluate_run(tmp_path / "d", model="bst")


def test_mixed_precision_is_used_and_left_behind(tmp_path):
    result = train(small(devices__precision="mixed_bfloat16", training__epochs=1), tmp_path / "run")
    assert result.model.get_layer("dense_1").compute_dtype == "bfloat16"
    assert result.model.get_layer("output").compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_missing_device_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"devices.device must be one of CPU:0.*; received 'GPU:7'"):
        train(small(devices__device="GPU:7"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_plan_counts_iterations_as_the_notes_do(tmp_path):
    golden = GOLDEN["iterations"]
    config = small(
        data__name="arrays", data__test_share=0, data__validation_share=0,
        training__batch_size=golden["batch_size"], training__epochs=golden["epochs"],
    )  # fmt: skip
    x = np.zeros((golden["examples"], 2))
    data = from_arrays(x, np.arange(golden["examples"]) % 10, config=config.data)
    network = build_model(config.network, (2,), 10)
    text = plan(config, data, network, LearningRate(learning_rate=0.01), "CPU:0", tmp_path)
    assert f"{golden['per_epoch']} an epoch of batch size 256, {golden['total']:,} in 10 epochs" in text
    assert "50,000 training" in text
    assert "2-12-10" in text


def test_worked_backpropagation():
    """The notes' 2-2-2 sigmoid network, one SGD step at rate 0.5, through the package's model and optimizer."""
    golden = GOLDEN["backprop"]
    network = NetworkConfig(hidden=(2,), activation="sigmoid", output_activation="sigmoid")
    model = build_model(network, (2,), 2)
    w1, w2 = (np.array(golden[key]).reshape(2, 2).T for key in ("w1_to_w4", "w5_to_w8"))
    model.set_weights([w1, np.full(2, golden["b1"]), w2, np.full(2, golden["b2"])])
    x, y = np.array([golden["inputs"]]), np.array([golden["targets"]])
    np.testing.assert_allclose(model.layers[0](x)[0], golden["h"], rtol=1e-6)
    np.testing.assert_allclose(model(x)[0], golden["o"], rtol=1e-6)
    # E sums ½(t - o)² over two outputs: the mean of the squares.
    model.compile(optimizers.get({"name": "sgd", "learning_rate": 0.5}), losses.get("mse"))
    loss = model.train_on_batch(x, y)
    assert float(loss) == pytest.approx(golden["E"], rel=1e-6)
    after = model.get_weights()
    np.testing.assert_allclose(after[0].T.ravel(), golden["w1_to_w4_after"], rtol=1e-6)
    np.testing.assert_allclose(after[2].T.ravel(), golden["w5_to_w8_after"], rtol=1e-6)
    assert (w2[0, 0] - after[2][0, 0]) / 0.5 == pytest.approx(golden["dE_dw5"], rel=1e-5)

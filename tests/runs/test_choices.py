"""Settings that follow from the data where the user gave none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kerasnn.config.data import DataConfig
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data, from_arrays, load_data
from kerasnn.runs.choices import choose


def table(rows: int, **settings: object) -> Data:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"a": random.random(rows), "b": random.random(rows)})
    config = DataConfig(name="arrays", **settings)
    return from_arrays(frame, pd.Series(random.random(rows), name="y"), config=config, task="regression")


@pytest.mark.parametrize(
    ("rows", "epochs", "patience", "penalty", "dropout"),
    [(50, 500, 50, 0.1, 0.2), (500, 250, 25, 0.01, 0.2), (2000, 67, 6, 0.003, 0.0), (20_000, 20, None, 0.0003, 0.0)],
)
def test_tables(rows: int, epochs: int, patience: int | None, penalty: float, dropout: float) -> None:
    config, lines = choose(RunConfig(task="regression", data=DataConfig(name="arrays")), table(rows), ())
    assert config.training.epochs == epochs
    stopping = config.training.early_stopping
    assert (stopping and stopping.patience) == patience
    regularization = config.regularization
    assert (regularization.l2, regularization.output_l2, regularization.dropout) == (penalty, penalty, dropout)
    assert f"regularization.l2 {penalty:g}" in "\n".join(lines)


@pytest.mark.parametrize(("classes", "penalty"), [(10, 0.006), (40, 0.001)])
def test_many_classes_are_penalized_less(classes: int, penalty: float) -> None:
    frame = pd.DataFrame({"a": np.random.default_rng(0).random(1000)})
    labels = pd.Series([f"class {number % classes}" for number in range(1000)], name="y")
    data = from_arrays(frame, labels, config=DataConfig(name="arrays"), task="multiclass")
    config, _ = choose(RunConfig(data=DataConfig(name="arrays")), data, ())
    assert (config.regularization.l2, config.regularization.output_l2) == (penalty, penalty)


def test_what_is_given_stays() -> None:
    run = RunConfig(task="regression", data=DataConfig(name="arrays"))
    assert choose(run, table(50), None) == (run, [])
    config, lines = choose(run, table(50), ("training.epochs", "regularization.l2"))
    assert (config, lines) == (run, [])
    config, lines = choose(run, table(50), ("regularization",))
    assert (config.training.epochs, config.regularization, len(lines)) == (500, run.regularization, 1)
    config, _ = choose(run, table(50), ("training.early_stopping.patience",))
    assert (config.training, config.regularization.dropout) == (run.training, 0.2)


def test_without_a_validation_part_the_rate_falls() -> None:
    run = RunConfig(task="regression", data=DataConfig(name="arrays", validation_share=0))
    config, lines = choose(run, table(50, validation_share=0), ())
    assert (config.schedule.name, config.training.epochs, config.training.early_stopping) == ("cosine", 500, None)
    assert lines[-1] == "schedule cosine, because no validation part says when to stop"


@pytest.mark.parametrize(
    ("side", "filters"), [(6, [16]), (32, [16, 32]), (128, [16, 32, 64, 64]), (512, [16, 32, 64, 64])]
)
def test_images_have_convolutions(tmp_path: Path, side: int, filters: list[int]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("L", (side, side)).save(tmp_path / name / f"{number}.png")
    run = RunConfig(data=DataConfig(path=str(tmp_path), image_size=(side, side)))
    config, lines = choose(run.with_task("binary"), load_data(run.data), ())
    *convolutions, dense = config.network.hidden
    assert [layer.filters for layer in convolutions] == filters
    assert dense.activation == "leaky_relu"
    assert (dense.units, config.data.flatten, len(lines)) == (64, False, 1)

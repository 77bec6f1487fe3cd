"""A folder of images from training to predictions of new images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kerasnn.config.run import RunConfig
from kerasnn.runs.evaluate import evaluate_run
from kerasnn.runs.predict import predict_file, write_predictions
from kerasnn.runs.train import train

QUIET = {"progress": "silent", "tensorboard": False, "health": False, "graph": False}


def draw(folder: Path, value: int, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (6, 4), (value + number, value, value)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw(folder / "animals" / "cat", 10, 12)
    draw(folder / "animals" / "dog", 200, 12)
    data = {"path": str(folder / "animals")}
    training = {"epochs": 30, "batch_size": 8, "save_state": False}
    train(RunConfig.model_validate({"data": data, "report": QUIET, "training": training}), folder / "run")
    return folder / "run"


def test_predictions_of_new_images_name_their_files(run_dir: Path, tmp_path: Path) -> None:
    draw(tmp_path / "new" / "more", 190, 2)
    Image.new("L", (12, 8), 15).save(tmp_path / "new" / "a.jpg")
    columns = predict_file(run_dir, tmp_path / "new")
    assert list(columns) == ["file", "predicted", "probability_cat", "probability_dog"]
    assert columns["file"].tolist() == ["a.jpg", "more/0.png", "more/1.png"]
    assert columns["predicted"].tolist() == ["cat", "dog", "dog"]
    one = predict_file(run_dir, tmp_path / "new" / "a.jpg")
    np.testing.assert_allclose(one["probability_cat"], columns["probability_cat"][:1], rtol=1e-6)
    write_predictions(columns, tmp_path / "predictions.csv")
    assert (tmp_path / "predictions.csv").read_text().splitlines()[1].startswith("a.jpg,cat,")
    (tmp_path / "new" / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"new/b.png must be an image; Pillow cannot identify it$"):
        predict_file(run_dir, tmp_path / "new")


def test_labelled_folders_are_evaluated(run_dir: Path, tmp_path: Path) -> None:
    draw(tmp_path / "new" / "dog", 190, 3)
    evaluation = evaluate_run(run_dir, tmp_path / "new")
    assert (evaluation.class_names, evaluation.confusion.tolist()) == (("cat", "dog"), [[0, 0], [0, 3]])
    draw(tmp_path / "new" / "cow", 190, 1)
    with pytest.raises(ValueError, match=r"a subfolder of .* must be one of cat, dog; received 'cow'"):
        evaluate_run(run_dir, tmp_path / "new")

"""A folder of images from training to predictions of new images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kerasnn.config.description import replace_at
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


@pytest.mark.parametrize("augment", [{}, {"flip": "both", "rotation": 0.1, "zoom": 0.1, "contrast": 0.2}])
def test_a_streamed_run_is_the_run_in_memory(tmp_path: Path, augment: dict[str, object]) -> None:
    for value, name in ((10, "cat"), (90, "cow"), (200, "dog")):
        draw(tmp_path / "animals" / name, value, 12)
    files: dict[str, tuple[bytes, bytes]] = {}
    for stream in (False, True):
        data = {"path": str(tmp_path / "animals"), "stream": stream, "flatten": False, "augment": augment}
        config = {
            "data": data,
            "report": QUIET,
            "network": {"hidden": [{"filters": 2}, 4]},
            "training": {"epochs": 2, "batch_size": 8},
        }
        run, once = RunConfig.model_validate(config), tmp_path / f"once-{stream}"
        result = train(run, once)
        # Ended after the first epoch, and resumed.
        twice = tmp_path / f"twice-{stream}"
        train(replace_at(run, {"training.epochs": 1}), twice)
        train(run, twice)
        assert evaluate_run(once).metrics["accuracy"] == result.metrics["accuracy"]
        for folder in (once, twice):
            files[folder.name] = ((folder / "history.csv").read_bytes(), evaluate_run(folder).outputs.tobytes())
    assert files["once-False"] == files["once-True"] == files["twice-False"] == files["twice-True"]


def test_predictions_and_scores_piece_by_piece_are_those_at_once(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "dog", 150, 7)
    at_once, evaluation = predict_file(run_dir, tmp_path, batch_size=2), evaluate_run(run_dir, tmp_path, batch_size=2)
    monkeypatch.setattr("kerasnn.runs.pieces.PIECE_BYTES", 1)
    monkeypatch.setattr("kerasnn.data.folders.memory_size", lambda: 1)
    pieces, streamed = predict_file(run_dir, tmp_path, batch_size=2), evaluate_run(run_dir, tmp_path, batch_size=2)
    assert (isinstance(evaluation.x, np.memmap), isinstance(streamed.x, np.memmap)) == (False, True)
    assert {name: each.tolist() for name, each in at_once.items()} == {
        name: each.tolist() for name, each in pieces.items()
    }
    assert streamed.metrics == pytest.approx(evaluation.metrics, rel=1e-6)
    np.testing.assert_array_equal(streamed.outputs, evaluation.outputs)

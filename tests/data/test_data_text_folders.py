"""Folders of texts."""

from pathlib import Path

import pytest

from kerasnn.config.data import DataConfig
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import load_data
from kerasnn.data.text_folders import read_text_folder
from kerasnn.runs.evaluate import evaluate_run
from kerasnn.runs.predict import predict_file
from kerasnn.runs.train import train

QUIET = {"progress": "silent", "tensorboard": False, "health": False, "graph": False}


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    for name, word in (("thanks", "wonderful"), ("complaint", "broken")):
        (tmp_path / "letters" / name).mkdir(parents=True)
        for number in range(20):
            text = f"Dear\nall, it was {word}{number % 3} and {word}."
            (tmp_path / "letters" / name / f"{number:02d}.txt").write_text(text)
    return tmp_path / "letters"


def test_from_training_to_predictions(letters: Path, tmp_path: Path) -> None:
    config = {"data": {"name": "texts", "path": str(letters)}, "report": QUIET, "training": {"save_state": False}}
    result = train(RunConfig.model_validate(config), tmp_path / "run")
    assert result.metrics["accuracy"] == 1
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.txt").write_text("broken again")
    (tmp_path / "new" / "b.txt").write_text("WONDERFUL!")
    columns = predict_file(tmp_path / "run", tmp_path / "new")
    assert list(columns) == ["file", "predicted", "probability_complaint", "probability_thanks"]
    assert columns["file"].tolist() == ["a.txt", "b.txt"]
    assert columns["predicted"].tolist() == ["complaint", "thanks"]
    assert predict_file(tmp_path / "run", tmp_path / "new" / "b.txt")["predicted"].tolist() == ["thanks"]
    assert evaluate_run(tmp_path / "run").metrics["accuracy"] == 1
    assert evaluate_run(tmp_path / "run", letters).confusion.tolist() == [[20, 0], [0, 20]]


def test_words_become_features(letters: Path) -> None:
    # dear, all, it, was, and; broken and wonderful, alone and with three numbers
    assert load_data(DataConfig(name="texts", path=str(letters))).layout.features == 13
    assert load_data(DataConfig(name="texts", path=str(letters), max_words=4)).layout.features == 4


def test_faults_are_named(letters: Path) -> None:
    (letters / "thanks" / "00.txt").write_bytes("schön".encode("latin-1"))
    assert read_text_folder(letters)["text"][20] == "schön"
    with pytest.raises(ValueError, match=r"thanks/00.txt must be text in the encoding utf-8$"):
        read_text_folder(letters, "utf-8")
    with pytest.raises(ValueError, match=r"^data.encoding must be an encoding that Python knows, received 'klingon'$"):
        read_text_folder(letters, "klingon")
    with pytest.raises(ValueError, match=r"thanks must have a subfolder of texts for each class; it has none$"):
        load_data(DataConfig(name="texts", path=str(letters / "thanks")))
    with pytest.raises(ValueError, match=r"it holds none; --data.name texts reads its .txt files$"):
        load_data(DataConfig(path=str(letters)))
    with pytest.raises(ValueError, match=r"^data.path must be a folder of texts, received nowhere"):
        load_data(DataConfig(name="texts", path="nowhere"))

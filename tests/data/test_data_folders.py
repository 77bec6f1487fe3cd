"""Folders of images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kerasnn.config.data import DataConfig
from kerasnn.data.loading import load_data


def draw(path: Path, value: int, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for number in range(10):
        draw(tmp_path / "animals" / "cat" / f"{number}.png", 10)
        draw(tmp_path / "animals" / "dog" / f"{number}.jpg", 200, (12, 8))
    (tmp_path / "animals" / "notes.txt").write_text("ignored")
    return tmp_path / "animals"


def test_classes_are_subfolders(animals: Path) -> None:
    data = load_data(DataConfig(path=str(animals), flatten=False))
    assert (data.task, data.class_names, data.raw_shape, data.image_shape) == (
        "binary", ("cat", "dog"), (4, 6, 3), (4, 6, 3),
    )  # fmt: skip
    assert [len(x) for x in (data.x_train, data.x_validation, data.x_test)] == [14, 2, 4]
    red = np.round(data.x_train[:, :, :, 0].mean(axis=(1, 2)) * 255 / 10)
    np.testing.assert_array_equal(red, np.where(data.y_train == 1, 20, 1))


def test_size_and_colour(animals: Path) -> None:
    data = load_data(DataConfig(path=str(animals), image_size=(3, 2), color="grayscale"))
    assert (data.raw_shape, data.input_shape) == ((3, 2), (6,))


def test_faults_are_named(animals: Path) -> None:
    (animals / "dog" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"dog/3.jpg must be an image; Pillow cannot identify it$"):
        load_data(DataConfig(path=str(animals)))
    (animals / "empty").mkdir()
    with pytest.raises(ValueError, match=r"animals/empty must hold images \(.png, .*\); it holds none$"):
        load_data(DataConfig(path=str(animals)))
    with pytest.raises(ValueError, match=r"must have a subfolder of images for each class; it has 0 subfolders$"):
        load_data(DataConfig(path=str(animals / "cat")))
    with pytest.raises(
        ValueError, match=r"^data.path must be a folder of images, received nowhere, which does not exist"
    ):
        load_data(DataConfig(path="nowhere"))

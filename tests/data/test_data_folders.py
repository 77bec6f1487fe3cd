"""Folders of images."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kerasnn.config.data import DataConfig
from kerasnn.data.folders import ImageReader
from kerasnn.data.loading import Data, load_data
from kerasnn.data.preparation import Preparation


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
    assert (data.x_train.dtype, data.streamed) == (np.uint8, False)
    red = np.round(data.x_train[:, :, :, 0].mean(axis=(1, 2)) / 10)
    np.testing.assert_array_equal(red, np.where(data.y_train == 1, 20, 1))


def test_size_and_colour(animals: Path) -> None:
    data = load_data(DataConfig(path=str(animals), image_size=(3, 2), color="grayscale"))
    assert (data.raw_shape, data.input_shape, data.layout.feature_shape) == ((3, 2), (3, 2), (3, 2, 1))


def test_without_a_size_large_images_are_reduced(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(4):
            draw(tmp_path / name / f"{number}.png", 10, (512, 256))
    assert load_data(DataConfig(path=str(tmp_path))).raw_shape == (64, 128, 3)


def test_images_are_turned_as_their_camera_says(animals: Path) -> None:
    image = Image.fromarray(np.array([[0, 0, 0], [255, 255, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(animals / "turned.png", exif=exif)
    turned = ImageReader((3, 2), "grayscale").read([animals / "turned.png"])
    np.testing.assert_array_equal(turned[0], [[255, 0]] * 3)


@pytest.mark.parametrize("scaling", ["unit", "standardize", "none"])
@pytest.mark.parametrize("color", ["rgb", "grayscale"])
def test_streamed_images_are_those_in_memory(animals: Path, scaling: str, color: str) -> None:
    def load(stream: bool) -> Data:
        return load_data(DataConfig(path=str(animals), stream=stream, scaling=scaling, color=color))

    streamed, resident = load(True), load(False)
    assert (streamed.streamed, resident.streamed) == (True, False)
    for part in ("x_train", "x_validation", "x_test", "y_train", "y_validation", "y_test"):
        np.testing.assert_array_equal(getattr(streamed, part), getattr(resident, part))
    assert streamed.layout == resident.layout
    # As the same images from an array are prepared.
    expected = Preparation.fit(resident.x_train, scaling, flatten=False)
    np.testing.assert_allclose(resident.features(resident.x_test), expected(resident.x_test), rtol=1e-5, atol=1e-6)


def test_images_stream_where_they_take_much_of_the_memory(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 20 * 4 * 6 * 3
    for memory, streamed in ((4 * size, False), (4 * size - 4, True)):
        monkeypatch.setattr("kerasnn.data.folders.memory_size", lambda memory=memory: memory)
        assert load_data(DataConfig(path=str(animals))).streamed == streamed
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match=r"the images take .* GiB and .* has 0\.0 free: set TMPDIR to a folder"):
        load_data(DataConfig(path=str(animals)))


def test_faults_are_named(animals: Path) -> None:
    (animals / "dog" / "3.jpg").write_bytes(b"no image")
    for stream in (False, True):
        with pytest.raises(ValueError, match=r"dog/3.jpg must be an image; Pillow cannot identify it$"):
            load_data(DataConfig(path=str(animals), stream=stream))
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(animals / "dog" / "3.png")
    (animals / "dog" / "3.jpg").unlink()
    with pytest.raises(ValueError, match=r"dog/3.png cannot be read .*its mode is I;16, and pixels must have 8 bits"):
        load_data(DataConfig(path=str(animals)))
    (animals / "dog" / "3.png").unlink()
    content = (animals / "dog" / "4.jpg").read_bytes()
    (animals / "dog" / "4.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"dog/4.jpg cannot be read as an image: "):
        load_data(DataConfig(path=str(animals)))
    with pytest.raises(ValueError, match=r"data.name images is for task binary or multiclass, received .*'regression'"):
        load_data(DataConfig(path=str(animals)), task="regression")
    (animals / "empty").mkdir()
    with pytest.raises(ValueError, match=r"animals/empty must hold images \(.png, .*\); it holds none$"):
        load_data(DataConfig(path=str(animals)))
    with pytest.raises(ValueError, match=r"must have a subfolder of images for each class; it has 0 subfolders$"):
        load_data(DataConfig(path=str(animals / "cat")))
    with pytest.raises(
        ValueError, match=r"^data.path must be a folder of images, received nowhere, which does not exist"
    ):
        load_data(DataConfig(path="nowhere"))
    with pytest.raises(ValueError, match=r"notes.txt, which is a file$"):
        load_data(DataConfig(name="images", path=str(animals / "notes.txt")))

"""Images from a folder with a subfolder for each class."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kerasnn.config.schema import one_of, short
from kerasnn.files import check_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def read_image_folder(
    path: str | Path,
    size: tuple[int, int] | None = None,
    color: str = "rgb",
    class_names: Sequence[str] | None = None,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Read the images of a folder, resized to one size, with the names of its subfolders as classes.

    Args:
        path: a folder with a subfolder of images for each class; files of other kinds are ignored.
        size: height and width in pixels; None: those of the first image.
        color: `rgb` or `grayscale`.
        class_names: the classes in order if they are known, of which the folder may lack some; None: its subfolders, at
            least two.

    Returns:
        `x_train`, uint8 `(examples, height, width, 3)` or `(examples, height, width)`, and `y_train`, int64
        `(examples,)`; the names of the classes.

    Raises:
        ValueError: one line: no folder, fewer than two classes, a class without images, a subfolder that is not one of
            the known classes, a damaged image (by name), or images that do not fit into the memory.

    Reference: `keras.utils.image_dataset_from_directory`, which needs TensorFlow before the devices are set up.
    """
    folder = _existing(path)
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < (2 if class_names is None else 1):
        raise ValueError(f"{folder} must have a subfolder of images for each class; it has {len(classes)} subfolders")
    names = tuple(each.name for each in classes) if class_names is None else tuple(class_names)
    for each in classes:
        if each.name not in names:
            raise ValueError(one_of(f"a subfolder of {folder}", each.name, names))
    files = [image_files(each) for each in classes]
    y = np.repeat([names.index(each.name) for each in classes], [len(found) for found in files])
    x = read_image_files([file for found in files for file in found], size, color)
    return {"x_train": x, "y_train": y}, names


def image_files(path: str | Path) -> list[Path]:
    """The images in a folder and its subfolders, sorted by name.

    Raises:
        ValueError: one line, for a folder without images.
    """
    folder = _existing(path)
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise ValueError(f"{folder} must hold images ({', '.join(SUFFIXES)}); it holds none")
    return found


def read_image_files(files: Sequence[Path], size: tuple[int, int] | None, color: str) -> np.ndarray:
    """Images resized to one size, uint8 `(examples, height, width, 3)` or, grey, `(examples, height, width)`.

    Args:
        files: the images, one or more.
        size: height and width in pixels; None: those of the first image.
        color: `rgb` or `grayscale`.

    Raises:
        ValueError: one line: a damaged image (by name), or images that do not fit into the memory.
    """
    mode = "RGB" if color == "rgb" else "L"
    height, width = size or _read(files[0], None, mode).shape[:2]
    shape = (len(files), height, width, *((3,) if mode == "RGB" else ()))
    check_size(files[0].parent, math.prod(shape))
    x = np.empty(shape, np.uint8)
    for row, file in enumerate(files):
        x[row] = _read(file, (height, width), mode)
    return x


def _existing(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.path must be a folder of images, received {folder}, which does not exist")
    return folder


def _read(file: Path, size: tuple[int, int] | None, mode: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            # Pillow only warns of images that take very much memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                converted = image.convert(mode)
                if size is not None and converted.size != size[::-1]:
                    converted = converted.resize(size[::-1], Image.Resampling.BILINEAR)
                return np.asarray(converted)
    except UnidentifiedImageError:
        raise ValueError(f"{file} must be an image; Pillow cannot identify it") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{file} cannot be read as an image: {short(str(error))}") from None

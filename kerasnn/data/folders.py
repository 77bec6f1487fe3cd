"""Images from a folder with a subfolder for each class."""

import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kerasnn.config.schema import short
from kerasnn.files import check_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def read_image_folder(
    path: str | Path, size: tuple[int, int] | None = None, color: str = "rgb"
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Read the images of a folder, resized to one size, with the names of its subfolders as classes.

    Args:
        path: a folder with at least two subfolders of images; files of other kinds are ignored.
        size: height and width in pixels; None: those of the first image.
        color: `rgb` or `grayscale`.

    Returns:
        `x_train`, uint8 `(examples, height, width, 3)` or `(examples, height, width)`, and `y_train`, int64
        `(examples,)`; the names of the classes.

    Raises:
        ValueError: one line: no folder, fewer than two classes, a class without images, a damaged image (by name), or
            images that do not fit into the memory.

    Reference: `keras.utils.image_dataset_from_directory`, which needs TensorFlow before the devices are set up.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.path must be a folder of images, received {folder}, which does not exist")
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"{folder} must have a subfolder of images for each class; it has {len(classes)} subfolders")
    files = [sorted(file for file in each.rglob("*") if file.suffix.lower() in SUFFIXES) for each in classes]
    for each, found in zip(classes, files, strict=True):
        if not found:
            raise ValueError(f"{each} must hold images ({', '.join(SUFFIXES)}); it holds none")
    mode = "RGB" if color == "rgb" else "L"
    height, width = size or _read(files[0][0], None, mode).shape[:2]
    shape = (sum(map(len, files)), height, width, *((3,) if mode == "RGB" else ()))
    check_size(folder, math.prod(shape))
    x = np.empty(shape, np.uint8)
    for row, file in enumerate(file for found in files for file in found):
        x[row] = _read(file, (height, width), mode)
    y = np.repeat(np.arange(len(classes)), [len(found) for found in files])
    return {"x_train": x, "y_train": y}, tuple(each.name for each in classes)


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

"""Images from a folder with a subfolder for each class, in memory or in a temporary file."""

import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kerasnn.config.schema import one_of, short
from kerasnn.files import memory_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LARGEST_SIDE = 128
"""Pixels to which images are reduced where no size is given."""
MEMORY_SHARE = 0.25
"""Fraction of the memory that images may take; while training, they are there twice."""
DISK_FOLDER = Path("/var/tmp")
"""Where temporary files lie on a disk, as POSIX has it, while /tmp may be in memory."""


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The images of a folder, not read yet.

    Args:
        path: the folder.
        files: its images.
        labels: the class of each, int64 `(files,)`.
        class_names: names of the classes.
    """

    path: Path
    files: list[Path] = field(repr=False)
    labels: np.ndarray = field(repr=False)
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class ImageReader:
    """Reads images as arrays of one size and kind.

    Args:
        size: height and width in pixels.
        color: `rgb` or `grayscale`.
    """

    size: tuple[int, int]
    color: str = "rgb"

    @classmethod
    def like(cls, file: Path, size: tuple[int, int] | None, color: str) -> "ImageReader":
        """A reader for images of a size; None: that of a file's image, reduced to `LARGEST_SIDE`.

        Raises:
            ValueError: one line, if the image is damaged.
        """
        if size is None:
            with _small_images_only():
                width, height = _opened(file, None, "RGB" if color == "rgb" else "L").size
            factor = min(1.0, LARGEST_SIDE / max(width, height))
            size = max(1, round(height * factor)), max(1, round(width * factor))
        return cls((int(size[0]), int(size[1])), color)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image: `(height, width, 3)` or, grey, `(height, width)`."""
        return (*self.size, 3) if self.color == "rgb" else self.size

    @property
    def nbytes(self) -> int:
        """Bytes of an image."""
        return math.prod(self.shape)

    def read(self, files: Sequence[Path], stream: bool = False) -> np.ndarray:
        """Images as an array, uint8 `(files, *shape)`; several are read at a time.

        Args:
            files: the images, one or more.
            stream: whether the array lies in a temporary file, which ends with the process.

        Raises:
            ValueError: one line with the name of the first damaged image; or the disk has no room.
        """
        mode = "RGB" if self.color == "rgb" else "L"
        x = (_array_on_disk if stream else partial(np.empty, dtype=np.uint8))((len(files), *self.shape))

        def read(row: int) -> None:
            x[row] = np.asarray(_opened(files[row], self.size, mode))

        with _small_images_only(), ThreadPoolExecutor(os.cpu_count()) as threads:
            try:
                for _ in threads.map(read, range(len(files))):
                    pass
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
        return x


def list_image_folder(path: str | Path, class_names: Sequence[str] | None = None) -> ImageFolder:
    """The images of a folder, with the names of its subfolders as classes.

    Args:
        path: a folder with a subfolder of images for each class; files of other kinds are ignored.
        class_names: the classes in order if they are known, of which the folder may lack some; None: its subfolders, at
            least two.

    Raises:
        ValueError: one line: no folder, fewer than two classes, a class without images, a subfolder that is not one of
            the known classes.

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
    labels = np.repeat([names.index(each.name) for each in classes], [len(found) for found in files])
    return ImageFolder(folder, [file for found in files for file in found], labels, names)


def image_files(path: str | Path) -> list[Path]:
    """The images in a folder and its subfolders, sorted by name.

    Raises:
        ValueError: one line, for a folder without images.
    """
    folder = _existing(path)
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise ValueError(f"{folder} must hold images ({', '.join(SUFFIXES)}); it holds none{_hint(folder)}")
    return found


def _hint(folder: Path) -> str:
    return "; --data.name texts reads its .txt files" if any(folder.rglob("*.txt")) else ""


def must_stream(size: int) -> bool:
    """Whether images of a size in bytes are too large to be kept in memory."""
    return size > MEMORY_SHARE * memory_size()


def _existing(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"data.path must be a folder of images, received {folder}, which {fault}")
    return folder


def _array_on_disk(shape: tuple[int, ...]) -> np.ndarray:
    """An array of bytes in a file without a name, which the system deletes when the process ends."""
    given = os.environ.get("TMPDIR")
    folder = given or (DISK_FOLDER if os.access(DISK_FOLDER, os.W_OK) else tempfile.gettempdir())
    needed, free = math.prod(shape), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"the images take {needed / 2**30:,.1f} GiB and {folder} has {free / 2**30:,.1f} free: set TMPDIR to a "
            "folder on a larger disk, or a smaller data.image_size"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        # A full disk is an error here, and a fatal signal where a mapped page has no room.
        os.posix_fallocate(file.fileno(), 0, needed)
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _opened(file: Path, size: tuple[int, int] | None, mode: str) -> Image.Image:
    """An image, upright, in a mode of Pillow's and of a size `(height, width)`."""
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"its mode is {image.mode}, and pixels must have 8 bits")
            if size is not None:
                # JPEG decodes to a fraction of its size much faster.
                image.draft(None, (2 * max(size), 2 * max(size)))
            upright = ImageOps.exif_transpose(image).convert(mode)
            if size is not None and upright.size != size[::-1]:
                upright = upright.resize(size[::-1], Image.Resampling.BILINEAR)
            return upright
    except UnidentifiedImageError:
        raise ValueError(f"{file} must be an image; Pillow cannot identify it") from None
    except Exception as error:  # The decoders raise errors of many kinds on damaged files.
        raise ValueError(f"{file} cannot be read as an image: {short(str(error))}") from None


@contextmanager
def _small_images_only() -> Iterator[None]:
    """Within it, an image that takes very much memory is an error, of which Pillow only warns; for all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield

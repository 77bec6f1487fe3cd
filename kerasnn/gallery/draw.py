"""Draws the gallery into files and for TensorBoard."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from kerasnn import figures
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import one_of
from kerasnn.files import replacing
from kerasnn.gallery.pictures import PICTURES
from kerasnn.tensorboard import event_files


def draw(
    gallery_dir: str | Path = "logs/gallery", config: RunConfig | None = None, pictures: Sequence[str] = ()
) -> list[Path]:
    """Draw the gallery: a PNG for each picture, a GIF for the animation, and all of them for TensorBoard.

    Args:
        gallery_dir: the folder, made where it is missing. Pictures in it are replaced.
        config: a run whose data and network `examples` and `builders` show; None is the default run.
        pictures: names out of `kerasnn.gallery.PICTURES`; all where it is empty.

    Returns:
        The files that were written, in order.

    Raises:
        ValueError: one line, for an unknown name.
    """
    for name in pictures:
        if name not in PICTURES:
            raise ValueError(one_of("picture", name, PICTURES))
    folder, config = Path(gallery_dir), config or RunConfig()
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in pictures or PICTURES:
        module, _, function = PICTURES[name].partition(".")
        picture = getattr(importlib.import_module(f"kerasnn.gallery.{module}"), function)(config)
        encoded = picture if isinstance(picture, bytes) else figures.to_png(picture)
        path = folder / f"{name}.{'gif' if isinstance(picture, bytes) else 'png'}"
        with replacing(path) as temporary:
            temporary.write_bytes(encoded)
        files.append(path)
        print(path, flush=True)
    # Pictures of earlier calls too, because the event file is replaced.
    paths = [folder / f"{name}.{suffix}" for name in PICTURES for suffix in ("png", "gif")]
    images = [event_files.image(path.stem, path.read_bytes()) for path in paths if path.exists()]
    event_files.write(folder, [(0, [image]) for image in images])
    return files

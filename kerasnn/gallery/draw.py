"""The gallery as files and for TensorBoard."""

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
        gallery_dir: folder; made where it is missing. Pictures that are there are replaced.
        config: a run, whose data and network are shown in `examples` and `builders`; None is the default run.
        pictures: names out of `kerasnn.gallery.PICTURES`; none draws all.

    Returns:
        The files, in order.

    Raises:
        ValueError: one line, for an unknown name.
    """
    for name in pictures:
        if name not in PICTURES:
            raise ValueError(one_of("picture", name, PICTURES))
    folder, config = Path(gallery_dir), config or RunConfig()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in pictures or PICTURES:
        module, _, function = PICTURES[name].partition(".")
        drawn = getattr(importlib.import_module(f"kerasnn.gallery.{module}"), function)(config)
        encoded = drawn if isinstance(drawn, bytes) else figures.to_png(drawn)
        path = folder / f"{name}.{'gif' if isinstance(drawn, bytes) else 'png'}"
        with replacing(path) as temporary:
            temporary.write_bytes(encoded)
        written.append(path)
        print(path, flush=True)
    # Those of an earlier call too: the event file is written whole.
    there = [path for name in PICTURES for path in (folder / f"{name}.png", folder / f"{name}.gif") if path.exists()]
    event_files.write(folder, [(0, [event_files.image(path.stem, path.read_bytes())]) for path in there])
    return written

"""TensorBoard's event files, written whole: the same file name every time, so that writing again replaces it."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb

from kerasnn.files import replacing

FILE = "events.out.tfevents.0.kerasnn"


def scalar(tag: str, value: float) -> Summary.Value:
    """A number that TensorBoard draws by step."""
    return Summary.Value(tag=tag, simple_value=float(value))


def image(tag: str, encoded: bytes) -> Summary.Value:
    """A picture.

    Args:
        tag: its name.
        encoded: the bytes of a PNG or GIF file.
    """
    if encoded.startswith(b"GIF8"):
        width, height = (int.from_bytes(encoded[at : at + 2], "little") for at in (6, 8))
    else:
        # A PNG file tells its width and height at bytes 16 and 20.
        width, height = (int.from_bytes(encoded[at : at + 4], "big") for at in (16, 20))
    return Summary.Value(tag=tag, image=Summary.Image(width=width, height=height, encoded_image_string=encoded))


def text(tag: str, markdown: str) -> Summary.Value:
    """Text in Markdown."""
    value: Summary.Value = Summary.FromString(text_pb(tag, markdown).SerializeToString()).value[0]
    return value


def write(folder: Path, steps: Iterable[tuple[int, Sequence[Summary.Value]]]) -> None:
    """Write an event file.

    Args:
        folder: its folder, TensorBoard's name of the run; made where it is missing.
        steps: step and values, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / FILE) as temporary, tf.io.TFRecordWriter(str(temporary)) as file:
        file.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for step, values in steps:
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
            file.write(event.SerializeToString())

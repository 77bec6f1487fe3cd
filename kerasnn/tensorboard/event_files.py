"""TensorBoard's event files."""

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.metadata import create_summary_metadata as histogram_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from kerasnn.files import replacing

BUCKETS = 30
"""Number of buckets in a histogram."""
_EDGES = np.arange(BUCKETS + 1) / BUCKETS
FILE = "events.out.tfevents.0.kerasnn"


def scalar(tag: str, value: float) -> Summary.Value:
    """A number, which TensorBoard draws by step."""
    return Summary.Value(tag=tag, simple_value=float(value))


def image(tag: str, encoded: bytes) -> Summary.Value:
    """An image.

    Args:
        tag: its name.
        encoded: the bytes of a PNG or GIF file.
    """
    if encoded.startswith(b"GIF8"):
        width, height = (int.from_bytes(encoded[at : at + 2], "little") for at in (6, 8))
    else:
        # A PNG file holds its width and height at bytes 16 and 20.
        width, height = (int.from_bytes(encoded[at : at + 4], "big") for at in (16, 20))
    return Summary.Value(tag=tag, image=Summary.Image(width=width, height=height, encoded_image_string=encoded))


def histogram(tag: str, values: NDArray[Any]) -> list[Summary.Value]:
    """A histogram of the finite values with equal buckets, rows of left edge, right edge and count."""
    values = values.astype("float64").ravel()
    if not math.isfinite(values.sum()):
        values = values[np.isfinite(values)]
    if not len(values):
        return []
    low, high = values.min(), values.max()
    if high > low:
        # As numpy.histogram up to rounding at the edges, and several times faster.
        bucket = ((values - low) * (BUCKETS / (high - low))).astype("int64")
        buckets = np.empty((BUCKETS, 3))
        edges = low + _EDGES * (high - low)
        edges[-1] = high
        buckets[:, 0], buckets[:, 1] = edges[:-1], edges[1:]
        buckets[:, 2] = np.bincount(np.minimum(bucket, BUCKETS - 1, out=bucket), minlength=BUCKETS)
    else:
        buckets = np.array([[low, high, len(values)]])
    return [Summary.Value(tag=tag, metadata=histogram_metadata(None, None), tensor=make_tensor_proto(buckets))]


def text(tag: str, markdown: str) -> Summary.Value:
    """Text in Markdown."""
    value: Summary.Value = Summary.FromString(text_pb(tag, markdown).SerializeToString()).value[0]
    return value


class EventFile:
    """An open event file, written by TensorFlow's record writer, which has no thread to wait for at exit.

    Args:
        path: the file; its folder is made where it is missing.

    Raises:
        OSError: where it can't be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._file = tf.io.TFRecordWriter(str(path))
        self.write_event(Event(file_version="brain.Event:2"))

    def write_event(self, event: Event) -> None:
        """Write an event, with the present time."""
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())

    def write(self, step: int, values: Iterable[Summary.Value]) -> None:
        """Write the values of a step."""
        self.write_event(Event(step=step, summary=Summary(value=values)))

    def write_series(self, tag: str, first_step: int, values: NDArray[Any]) -> None:
        """Write one scalar at each of many steps, reusing one event, which takes microseconds per step."""
        event = Event(wall_time=time.time(), summary=Summary(value=[scalar(tag, 0)]))
        slot = event.summary.value[0]
        for step, value in enumerate(values.tolist(), first_step):
            event.step = step
            slot.simple_value = value
            self._file.write(event.SerializeToString())

    def flush(self) -> None:
        """Hand the events written so far to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write(
    folder: Path, steps: Iterable[tuple[int, Sequence[Summary.Value]]], name: str = FILE, durable: bool = True
) -> None:
    """Write a whole event file; the same file name every time, so that writing again replaces it.

    Args:
        folder: its folder, TensorBoard's name of the run; made where it is missing.
        steps: step and values, in order.
        name: the file's name.
        durable: whether the file replaces an old one only once it is on disk, which takes milliseconds. Without, a kill
            may leave a part of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / name) if durable else nullcontext(folder / name) as path, closing(EventFile(path)) as file:
        for step, values in steps:
            file.write(step, values)

"""The callback that writes a training for TensorBoard."""

import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, get_args

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb

from kerasnn import figures
from kerasnn.callbacks.layer_probe import Probe
from kerasnn.callbacks.logs import learning_rate_of, numbers_of
from kerasnn.callbacks.measurement import Measurement
from kerasnn.callbacks.traced_step import as_batch, variable_path
from kerasnn.components.values import values_of
from kerasnn.config.schema import one_of, short
from kerasnn.config.sections import Task
from kerasnn.tensorboard.event_files import EventFile, histogram, image, scalar
from kerasnn.timings import TimeShare

DRAWING_SECONDS = 0.2
"""Seconds that the first images take, approximately."""
ROWS = 1024
"""Number of examples per prediction."""
_FOLDERS = ("train", "validation")
_FILE = re.compile(r"events\.out\.tfevents\.file(\d{6,})\.kerasnn")
"""Names of our event files; they sort by number, and after the names of other writers, which begin with the time."""
log = logging.getLogger(__name__)


class Rates(Protocol):
    """A learning rate that may change with every update."""

    per: str

    def rates(self, epoch: int, updates: int) -> NDArray[Any]:
        """The learning rate of every update of an epoch, `(updates,)`."""


class TensorBoard(keras.callbacks.Callback):
    """Write a training for TensorBoard, in milliseconds per epoch and without an effect on the training.

    Training values go to `log_dir/train`, validation values to `log_dir/validation`, with the tags of Keras's callback
    (`epoch_loss`, `epoch_accuracy`, …), so that TensorBoard draws both in one chart. The step of a value is its epoch:

    - `learning_rate` at the end of the epoch; `learning_rate_per_update`, whose step is the global update.
    - `gradient_norm`, `gradient_norm/<layer>`, `gradient_ratio/<layer>` = ‖g‖ / ‖w‖, `update_ratio/<layer>` =
      ‖Δw‖ / ‖w‖, `outputs_mean/<layer>`, `outputs_std/<layer>`, `outputs_gradient_norm/<layer>`,
      `units_dead/<layer>`, `outputs_saturated/<layer>`: from one training step on the probe after each epoch, with
      dropout, penalties and optimizer, which is undone bit for bit. The norms are those before clipping.
    - Histograms: `weights/<layer>/<variable>` and, of the probe, `gradients/<layer>/<variable>` and
      `activations/<layer>`. Also `graph` and `config`.
    - Images: `confusion_matrix` and `mistakes` of classifiers, `predicted_against_true` of regressions.

    Args:
        log_dir: folder of the run, created if missing.
        histograms_every: epochs between histograms; 0: none. None: as often as they take at most a twentieth of the
            training's time, and when training ends.
        images_every: epochs between images, which are also written when training ends; 0: none. None: as often as
            they take at most a twentieth of the training's time.
        graph: whether the model's graph is written.
        config_text: the run's configuration, as JSON.
        probe: a fixed batch `(x,)`, `(x, y)` or `(x, y, sample_weight)` as for `fit`, or a `Probe` that callbacks
            share; None measures nothing.
        validation: examples `(x, y)` for the images, with integer or one-hot labels; None: no images.
        class_names: one name per class; None: the classes' numbers.
        image_shape: `(height, width)` or `(height, width, channels)` of an example; None if examples are not images.
        task: "binary", "multiclass", "multilabel" or "regression"; required with `validation`. Multilabel: no images.
        learning_rate: an object with `rates(epoch, updates)` and `per` ("epoch" or "update"), such as `LearningRate`.

    Raises:
        ValueError: for arguments that contradict each other, and when `fit` begins, if `log_dir` is not writable.

    Reference: `keras.callbacks.TensorBoard`; Karpathy, "A Recipe for Training Neural Networks" (the update ratio).

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> board = TensorBoard(tempfile.mkdtemp(), graph=False)
    >>> history = model.fit(np.zeros((8, 2)), np.ones(8), verbose=0, validation_split=0.5, callbacks=[board])
    >>> sorted(path.name for path in board.log_dir.iterdir())
    ['train', 'validation']
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        histograms_every: int | None = None,
        images_every: int | None = None,
        graph: bool = True,
        config_text: str | None = None,
        probe: Probe | tuple[Any, ...] | None = None,
        validation: tuple[Any, Any] | None = None,
        class_names: Sequence[str] | None = None,
        image_shape: tuple[int, ...] | None = None,
        task: str | None = None,
        learning_rate: Rates | None = None,
    ) -> None:
        super().__init__()
        for name, every in (("histograms_every", histograms_every or 0), ("images_every", images_every or 0)):
            if not isinstance(every, int) or every < 0:
                raise ValueError(f"{name} must be a number of epochs, or 0 for never; received {every!r}")
        if (validation is not None or task is not None) and task not in get_args(Task):
            raise ValueError(one_of("task", task, get_args(Task)))
        self.log_dir = Path(log_dir)
        self.histograms_every = histograms_every
        self.images_every = images_every
        self.graph = graph
        self.config_text = config_text
        self.probe = probe if probe is None or isinstance(probe, Probe) else Probe(probe)
        self.validation = validation
        self.class_names = class_names
        self.image_shape = image_shape
        self.task = task
        self.learning_rate = learning_rate
        self._train: EventFile | None = None
        self._validation: EventFile | None = None
        self._rates: NDArray[Any] | None = None
        self._epoch: int | None = None
        # The step of the first epoch; a run that an earlier version began, whose files count from 0, goes on so.
        self._first_step = 1
        self._drawn: int | None = None
        self._written: int | None = None
        self._images_time, self._histograms_time = TimeShare(DRAWING_SECONDS), TimeShare()
        self._measured: Measurement | None = None

    def __repr__(self) -> str:
        return f"TensorBoard({str(self.log_dir)!r})"

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._epoch = self._drawn = self._written = None
        self._images_time, self._histograms_time = TimeShare(DRAWING_SECONDS), TimeShare()
        self._close()
        self._train = self._open("train")
        self._validation = None
        try:
            if self.config_text is not None:
                self._train.write(0, text_pb("config", f"```json\n{self.config_text}\n```").value)
            if self.graph:
                self._write_graph(self._train)
            self._train.flush()
        except tf.errors.OpError as error:
            raise ValueError(_unwritable(self.log_dir, error.message)) from None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._rates = None
        if self.learning_rate is not None and self.learning_rate.per == "update":
            updates = self.params["steps"]
            if not updates:
                raise ValueError("a rate per update needs the number of updates: give fit steps_per_epoch")
            # Before the epoch, because at its end a plateau may already have lowered the rate of the next epoch.
            self._rates = self.learning_rate.rates(epoch, updates)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        with self._lossy():
            self._write_epoch(epoch, logs)

    def _write_epoch(self, epoch: int, logs: dict[str, Any] | None) -> None:
        if self._train is None:
            return
        numbers = numbers_of(logs)
        self._epoch = epoch
        rate = numbers.pop("learning_rate") if "learning_rate" in numbers else learning_rate_of(self.model)
        values = [] if rate is None else [scalar("learning_rate", rate)]
        values += [scalar(f"epoch_{name}", value) for name, value in numbers.items() if not name.startswith("val_")]
        if self.probe is not None:
            self._measured = self.probe.measure(self.model)
            values += [scalar(tag, value) for tag, value in self._measured.scalars().items()]
        if _is_due(self.histograms_every, self._histograms_time, epoch):
            values += self._histograms(epoch)
        self._train.write(self._first_step + epoch, values)
        if self._rates is not None:
            self._train.write_series("learning_rate_per_update", epoch * len(self._rates), self._rates)

        held_out = [
            scalar(f"epoch_{name.removeprefix('val_')}", value)
            for name, value in numbers.items()
            if name.startswith("val_")
        ]
        if held_out:
            self._validation_file.write(self._first_step + epoch, held_out)
        if _is_due(self.images_every, self._images_time, epoch):
            self._draw(epoch)
        for file in (self._train, self._validation):
            if file is not None:
                file.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        with self._lossy():
            epoch = self._epoch
            if self._train is not None and epoch is not None:
                if self.histograms_every is None and epoch != self._written:
                    self._train.write(self._first_step + epoch, self._histograms(epoch))
                if self.images_every != 0 and epoch != self._drawn:
                    self._draw(epoch)
            self._close()
        self._measured = None
        if self.probe is not None:
            self.probe.forget()

    @contextmanager
    def _lossy(self) -> Iterator[None]:
        """An error in writing ends the writing, not the training."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            log.warning(
                "TensorBoard's events cannot be written any more, training continues: %s", short(str(error), 160)
            )
            # Closing would write the rest and fail again.
            self._train = self._validation = None

    def get_state(self) -> dict[str, Any]:
        """The sizes of the event files, the number of the next one, and the last epochs written and drawn."""
        sizes = {name: _sizes(self.log_dir / name) for name in _FOLDERS}
        next_file = _next_number(name for names in sizes.values() for name in names)
        counts = {"first_step": self._first_step, "next_file": next_file}
        return {"sizes": sizes, **counts, "epoch": self._epoch, "drawn": self._drawn, "written": self._written}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `get_state`: restore the event files as they were then, and open a new one."""
        self._close()
        self._epoch, self._drawn, self._written = state["epoch"], state["drawn"], state.get("written", state["epoch"])
        self._first_step = state.get("first_step", 0)
        next_file = state.get("next_file", self._next_file())
        for name in _FOLDERS:
            sizes = state["sizes"][name]
            for path in _files(self.log_dir / name):
                if path.name not in sizes and _number(path.name) >= next_file:
                    path.unlink()
                elif path.stat().st_size > sizes.get(path.name, math.inf):
                    os.truncate(path, sizes[path.name])
        self._train = self._open("train")

    def _next_file(self) -> int:
        """The number for the next event file."""
        return _next_number(path.name for path in event_files(self.log_dir))

    def _open(self, name: str) -> EventFile:
        path = self.log_dir / name / f"events.out.tfevents.file{self._next_file():06d}.kerasnn"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
            return EventFile(path)
        except OSError as error:
            raise ValueError(_unwritable(self.log_dir, error.strerror)) from None

    def _close(self) -> None:
        for file in (self._train, self._validation):
            if file is not None:
                file.close()
        self._train = self._validation = None

    @property
    def _validation_file(self) -> EventFile:
        # Created with the first value, so that a run without validation is not listed twice.
        if self._validation is None:
            self._validation = self._open("validation")
        return self._validation

    def _histograms(self, epoch: int) -> list[Summary.Value]:
        """The histograms of the weights and of the probe."""
        self._written = epoch
        with self._histograms_time.counted():
            weights = zip(self.model.weights, values_of(self.model), strict=True)
            samples = [(f"weights/{variable_path(self.model, weight)}", value) for weight, value in weights]
            if self._measured is not None:
                samples += self._measured.samples()
            return [value for tag, sample in samples for value in histogram(tag, sample)]

    def _draw(self, epoch: int) -> None:
        with self._images_time.counted():
            self._write_images(epoch)

    def _write_images(self, epoch: int) -> None:
        self._drawn = epoch
        if self.validation is None or self.task == "multilabel":
            return
        x, y = self.validation
        step = self._first_step + epoch
        outputs = np.concatenate([self._predict(x[at : at + ROWS]) for at in range(0, len(x), ROWS)])
        if self.task == "regression":
            self._validation_file.write(
                step, [_picture("predicted_against_true", figures.predicted_against_true(y, outputs))]
            )
            return
        y_true, probabilities = _classified(
            np.asarray(y), outputs, self.task == "binary", getattr(self.model.loss, "from_logits", False)
        )
        y_predicted = probabilities.argmax(axis=1)
        classes = probabilities.shape[1]
        names = self.class_names or [str(index) for index in range(classes)]
        matrix = np.zeros((classes, classes), int)
        np.add.at(matrix, (y_true, y_predicted), 1)
        page = figures.mistakes(x, y_true, y_predicted, probabilities, names, self.image_shape)
        self._validation_file.write(
            step, [_picture("confusion_matrix", figures.confusion_matrix(matrix, names)), _picture("mistakes", page)]
        )

    def _predict(self, x: Any) -> Any:
        if self.model.distribute_strategy.num_replicas_in_sync > 1:
            # predict would need all replicas, but only the chief calls this.
            return keras.ops.convert_to_numpy(self.model(x, training=False))
        # predict's data pipeline takes longer to build than a small network takes to predict.
        return self.model.predict_on_batch(x)

    def _write_graph(self, file: EventFile) -> None:
        example = self.probe.data if self.probe is not None else self.validation
        inputs: Any
        if example is not None:
            inputs = keras.tree.map_structure(
                lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), as_batch(example[0])
            )
        elif getattr(self.model, "inputs", None):
            tensors = self.model.inputs[0] if len(self.model.inputs) == 1 else self.model.inputs
            inputs = keras.tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), tensors)
        else:
            shape = (self.model.get_build_config() or {}).get("input_shape")
            inputs = shape and tf.TensorSpec((None, *shape[1:]), keras.config.floatx())
        if inputs is None:
            log.info("no graph for TensorBoard: the shape of the model's inputs is not known; give a probe")
            return

        @tf.function
        def forward(x: Any) -> Any:
            return self.model(x, training=False)

        try:
            graph = forward.get_concrete_function(inputs).graph
        except Exception as error:  # A model may run any Python code, which may fail without input data.
            log.info("no graph for TensorBoard: the model can't be traced: %s", short(error))
            return
        file.write_event(Event(graph_def=graph.as_graph_def(add_shapes=True).SerializeToString()))


def _is_due(every: int | None, time_share: TimeShare, epoch: int) -> bool:
    """Whether an epoch has its turn: each `every`-th, none where it is 0, and where it is None as the time allows."""
    if every is None:
        return time_share.due
    return every > 0 and (epoch + 1) % every == 0


def event_files(log_dir: Path) -> list[Path]:
    """The event files that the callback has written to a folder; links are left out."""
    return [path for name in _FOLDERS for path in _files(log_dir / name) if _number(path.name) >= 0]


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in _sizes(folder)]


def _sizes(folder: Path) -> dict[str, int]:
    """The event files of a folder, by name, with their sizes; links are left out."""
    try:
        with os.scandir(folder) as entries:
            sizes = {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if entry.name.startswith("events.out.tfevents.") and entry.is_file(follow_symlinks=False)
            }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return dict(sorted(sizes.items()))


def _next_number(names: Iterable[str]) -> int:
    """The number for the event file after files with these names."""
    return 1 + max(map(_number, names), default=-1)


def _number(name: str) -> int:
    """The number of one of our event files; -1 for the file of another writer."""
    match = _FILE.fullmatch(name)
    return -1 if match is None else int(match[1])


def _unwritable(folder: Path, reason: str | None) -> str:
    return f"log_dir must be writable, received {str(folder)!r} ({reason})"


def _picture(tag: str, figure: Figure) -> Summary.Value:
    return image(tag, figures.to_png(figure))


def _classified(
    y: NDArray[Any], outputs: NDArray[Any], binary: bool, from_logits: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """True classes `(examples,)` and the probability of each class `(examples, classes)`."""
    if binary:
        y = y.reshape(-1) > 0.5
        positive = outputs.reshape(-1).astype("float64")
        if from_logits:
            positive = 1 / (1 + np.exp(-np.clip(positive, -700, 700)))
        # argmax takes the first of equal values: exactly one half is class 0, as in Keras's binary accuracy.
        return y.astype(int), np.stack([1 - positive, positive], axis=1)
    if y.ndim == 2 and y.shape[1] > 1:
        y = y.argmax(axis=1)
    if from_logits:
        outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        outputs = outputs / outputs.sum(axis=1, keepdims=True)
    return y.reshape(-1).astype(int), outputs

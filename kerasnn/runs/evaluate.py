"""Evaluation of a trained run: metrics, a table by class, the confusion matrix, every prediction."""

import csv
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from kerasnn import figures
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import one_of, readable
from kerasnn.data.folders import ImageReader, list_image_folder, must_stream
from kerasnn.data.loading import load_data, read_examples, read_test_images, read_test_table
from kerasnn.data.parts import final_targets
from kerasnn.data.table_examples import labelled_rows, read_rows
from kerasnn.engine.fit import evaluate
from kerasnn.files import inside, write_text
from kerasnn.models.from_config import compile_model
from kerasnn.models.loading import load_model
from kerasnn.models.table_model import TableModel
from kerasnn.runs.pieces import batch_rows, memory_share, predict_pieces
from kerasnn.runs.scores import constant_scores, described, scores


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A trained model's predictions on examples, and their scores.

    Args:
        metrics: loss and metrics by name.
        y_true: targets, `(examples,)` or `(examples, outputs)`.
        y_predicted: predicted classes, `(examples,)`; 0 or 1 for each label, `(examples, labels)`; or predicted values,
            `(examples, outputs)`.
        outputs: the network's outputs, `(examples, outputs)`.
        class_names: names of classes or labels; None for regression.
        confusion: counts by true class (rows) and predicted class (columns), `(classes, classes)`; None unless each
            example has one class.
        by_class: a row per class or label with precision, recall, f1 and support; empty for regression.
        x: raw examples, `(examples, ...)`; None if they were not kept.
        scores: further scores: R² of a regression, AUC and F1 of a classifier.
        constant: the score of the best constant prediction.
    """

    metrics: dict[str, float]
    y_true: np.ndarray = field(repr=False)
    y_predicted: np.ndarray = field(repr=False)
    outputs: np.ndarray = field(repr=False)
    class_names: tuple[str, ...] | None
    confusion: np.ndarray | None = field(repr=False)
    by_class: list[dict[str, Any]] = field(repr=False)
    x: np.ndarray | None = field(default=None, repr=False)
    scores: dict[str, float] = field(default_factory=dict)
    constant: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = ["  ".join(f"{name} {readable(value)}" for name, value in self.metrics.items())]
        lines += filter(None, [described(self.scores, self.constant)])
        if self.by_class:
            lines += ["", self.table()]
        if self.confusion is not None and self.class_names is not None:
            width = max(len(str(self.confusion.max())), *(len(name) for name in self.class_names)) + 1
            lines += ["", "confusion (rows true, columns predicted)"]
            lines.append(" " * width + "".join(f"{name:>{width}}" for name in self.class_names))
            for name, row in zip(self.class_names, self.confusion.tolist(), strict=True):
                lines.append(f"{name:>{width}}" + "".join(f"{count:>{width}}" for count in row))
        return "\n".join(lines)

    def table(self) -> str:
        """Precision, recall, F1 and the number of examples of each class or label as text; empty for regression."""
        if not self.by_class:
            return ""
        width = max(5, *(len(row["class"]) for row in self.by_class))
        lines = [f"{'class':>{width}}  precision  recall      f1  support"]
        lines += [
            f"{row['class']:>{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}"
            f"  {row['support']:7d}"
            for row in self.by_class
        ]
        return "\n".join(lines)

    def figure(self) -> Figure:
        """The confusion matrix of a classifier, or the predicted against the true values of a regression.

        Raises:
            ValueError: for examples with several labels, which have neither.
        """
        if self.confusion is not None and self.class_names is not None:
            return figures.confusion_matrix(self.confusion, self.class_names)
        if self.class_names is not None:
            raise ValueError(
                "figure() needs one class an example, or a regression; table() has the scores of each label"
            )
        return figures.predicted_against_true(self.y_true, self.y_predicted)

    def write_csv(self, path: str | Path) -> None:
        """Write a row per example: its number, its target, its prediction and the network's outputs.

        Args:
            path: the CSV file.
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        names = self.class_names if self.outputs.shape[1] > 1 and self.class_names else range(self.outputs.shape[1])
        single = self.y_predicted.ndim == 1
        suffixes = [""] if single else [f"_{name}" for name in names]
        table.writerow(
            ["example", *(f"true{suffix}" for suffix in suffixes), *(f"predicted{suffix}" for suffix in suffixes)]
            + [f"output_{name}" for name in names]
        )
        for number, row in enumerate(zip(self.y_true, self.y_predicted, self.outputs, strict=True)):
            true, predicted = ([self._name(value)] if single else np.ravel(value).tolist() for value in row[:2])
            table.writerow([number, *true, *predicted, *(f"{value:.8g}" for value in row[2].tolist())])
        write_text(path, text.getvalue())

    def _name(self, label: Any) -> str:
        return str(int(label)) if self.class_names is None else safe_cell(self.class_names[int(label)])


def evaluate_run(
    run_dir: str | Path, data_path: str | Path | None = None, *, model: str = "model", batch_size: int | None = None
) -> Evaluation:
    """Evaluate a run's model on its own test data, or on a file's.

    Args:
        run_dir: a run folder.
        data_path: a table with the target, an npz file, or a folder of images with a subfolder for each class; None
            takes the run's test part.
        model: "model" for the final weights, "best" for those of the best epoch.
        batch_size: examples per batch; None: up to 1024 where they are small. The result does not depend on it.

    Returns:
        Metrics, predictions, and a table by class for classifiers.

    Raises:
        FileNotFoundError: the folder holds no such model.
        ValueError: one line, if data and model don't fit together.

    >>> import tempfile
    >>> from kerasnn.runs.train import train
    >>> settings = {"training": {"epochs": 1, "compiled": "off"}, "report": {"progress": "silent", "health": False}}
    >>> result = train(RunConfig.model_validate(settings), tempfile.mkdtemp())
    >>> evaluation = evaluate_run(result.run_dir)
    >>> evaluation.metrics["accuracy"] == result.metrics["accuracy"], evaluation.confusion.shape
    (True, (10, 10))
    """
    config = _with_data(RunConfig.load(run_dir), run_dir)
    network = load_run_model(run_dir, model)
    compile_model(network, config)
    x: Any
    if isinstance(network, TableModel):
        x, y = _rows(config, data_path, network)
        class_names = network.encoder.encoding.class_names
    else:
        x, y, class_names = _examples(config, data_path, network, recorded_class_names(run_dir))
        if x.shape[1:] != tuple(network.input_shape[1:]):
            raise ValueError(f"examples must have shape {tuple(network.input_shape[1:])}, received {x.shape[1:]}")
    batch_size = batch_size or (1024 if isinstance(x, dict) else batch_rows(x.shape[1:]))
    if isinstance(x, np.memmap):
        options: dict[str, Any] = {"verbose": 0, "return_dict": True, "memory_share": memory_share(x)}
        metrics = evaluate(network, x, y, batch_size, **options)
        outputs = predict_pieces(network, x, batch_size)
    else:
        metrics = network.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
        outputs = network.predict(x, batch_size=batch_size, verbose=0)
    found = describe(config, y, outputs, class_names, {name: float(value) for name, value in metrics.items()})
    return replace(found, x=None if isinstance(x, dict) else x)


def image_reader(config: RunConfig, network: keras.Model) -> ImageReader:
    """Reads images as a run's model takes them."""
    height, width = network.input_shape[1:3]
    return ImageReader((int(height), int(width)), config.data.color)


def load_run_model(run_dir: str | Path, model: str) -> keras.Model:
    """Load a run's model.

    Args:
        run_dir: a run folder.
        model: "model" for the final weights, "best" for those of the best epoch.
    """
    if model not in ("model", "best"):
        raise ValueError(one_of("model", model, ("model", "best")))
    file = inside(run_dir, f"{model}.keras")
    if not file.is_file():
        raise FileNotFoundError(f"run folder must hold {file.name}, received {run_dir}")
    return load_model(file)


def recorded_class_names(run_dir: str | Path) -> tuple[str, ...] | None:
    """The names of a run's classes in `result.json`, or None."""
    names = _recorded(run_dir, "class_names")
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _recorded(run_dir: str | Path, key: str) -> Any:
    """A value in a run's `result.json`, or None."""
    try:
        return json.loads(inside(run_dir, "result.json").read_text(encoding="utf-8")).get(key)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _with_data(config: RunConfig, run_dir: str | Path) -> RunConfig:
    """The config with its data's paths taken from the folder in which the run was trained, where they lead nowhere
    from here."""
    folder = _recorded(run_dir, "working_folder")
    if not isinstance(folder, str):
        return config
    changes = {}
    for key in ("path", "test_path"):
        path = getattr(config.data, key)
        if path is not None and not Path(path).expanduser().exists() and (there := Path(folder, path)).exists():
            changes[key] = str(there)
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def safe_cell(text: str) -> str:
    """A text for a csv file, with an apostrophe in front where a spreadsheet would compute it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def predicted_values(config: RunConfig, outputs: np.ndarray) -> np.ndarray:
    """Predictions from a network's outputs.

    Args:
        config: the run; its task and loss determine the meaning of the outputs.
        outputs: `(examples, outputs)`.

    Returns:
        Classes, `(examples,)`; 0 or 1 for each label, `(examples, labels)`; or values, `(examples, outputs)`.
    """
    if config.known_task == "regression":
        return outputs
    if config.known_task == "multiclass":
        return outputs.argmax(axis=1)
    predicted = (outputs > (0.0 if config.loss.from_logits else 0.5)).astype(int)
    return predicted if config.known_task == "multilabel" else predicted[:, 0]


def describe(
    config: RunConfig,
    y: np.ndarray,
    outputs: np.ndarray,
    class_names: tuple[str, ...] | None,
    metrics: dict[str, float],
) -> Evaluation:
    """Make an evaluation from a network's outputs.

    Args:
        config: the run; its task and loss determine the meaning of the outputs.
        y: targets, `(examples,)` or `(examples, outputs)`.
        outputs: the network's outputs, `(examples, outputs)`.
        class_names: names of classes or labels.
        metrics: loss and metrics by name.

    Returns:
        The evaluation.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted = predicted_values(config, outputs)
    more: dict[str, Any] = {"scores": scores(config, y, outputs), "constant": constant_scores(config, y)}
    if config.known_task == "regression":
        return Evaluation(metrics, y, predicted, outputs, None, None, [], **more)
    if config.known_task == "multiclass" and y.ndim == 2:
        y = y.argmax(axis=1)
    labels = [0, 1] if config.known_task == "binary" else list(range(outputs.shape[1]))
    names = class_names or tuple(str(label) for label in labels)
    y = y.astype(int)
    by_class = precision_recall_fscore_support(y, predicted, labels=labels, zero_division=0.0)
    table = [
        {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(names, *by_class, strict=True)
    ]
    confusion = None if config.known_task == "multilabel" else confusion_matrix(y, predicted, labels=labels)
    return Evaluation(metrics, y, predicted, outputs, names, confusion, table, **more)


def _rows(config: RunConfig, data_path: str | Path | None, model: TableModel) -> tuple[dict[str, Any], Any]:
    """Raw rows of a table, and their targets in the form that the loss takes."""
    encoding = model.encoder.encoding
    if data_path is not None:
        source = Path(data_path).name
        raw, labels = labelled_rows(read_rows(data_path, config.data, encoding), encoding, config.known_task, source)
        y = final_targets(labels, config.known_task, "test")
    elif config.data.name == "arrays":
        raise ValueError("a run on data frames has no data to load: give a table with test examples")
    else:
        found = read_test_table(config.data, config.known_task, encoding)
        if found is None:
            raise ValueError("the run has no test part (data.test_share is 0): give a table with test examples")
        raw, y = found
    outputs = int(model.output_shape[-1] or 0)
    return model.encoder.tensors(raw), np.eye(outputs, dtype=np.float32)[y] if config.data.one_hot else y


def _examples(
    config: RunConfig, data_path: str | Path | None, network: keras.Model, names: tuple[str, ...] | None
) -> tuple[np.ndarray, Any, tuple[str, ...] | None]:
    """Raw examples, their targets in the form that the loss takes, and the names of the classes."""
    if config.data.name == "images" and (data_path is None or Path(data_path).is_dir()):
        found = _labelled_images(config, data_path, network, names)
        if found is None:
            raise ValueError("the run has no test part (data.test_share is 0): give a folder with test images")
        x, y = found
    elif data_path is None:
        if config.data.name == "arrays":
            raise ValueError("a run on arrays has no data to load: give an npz file with test examples")
        data = load_data(config.data.model_copy(update={"scaling": "none", "flatten": False}), config.known_task)
        if data.x_test is None:
            raise ValueError("the run has no test part (data.test_share is 0): give an npz file with test examples")
        return data.x_test.reshape(-1, *data.raw_shape), data.y_test, data.class_names
    else:
        x, y = read_examples(data_path, config.known_task, names)
    return x, np.eye(network.output_shape[-1], dtype=np.float32)[y] if config.data.one_hot else y, names


def _labelled_images(
    config: RunConfig, data_path: str | Path | None, network: keras.Model, names: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Images of a folder, or of the run's test part, and their targets; None where there is no such part."""
    reader = image_reader(config, network)
    if data_path is None:
        return read_test_images(config.data, config.known_task, reader)
    folder = list_image_folder(data_path, names)
    x = reader.read(folder.files, must_stream(len(folder.files) * reader.nbytes))
    return x, final_targets(folder.labels, config.known_task, "test")

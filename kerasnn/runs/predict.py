"""Predictions of a trained run for unlabelled examples."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.config.run import RunConfig
from kerasnn.data.folders import image_files
from kerasnn.data.npz import read_npz
from kerasnn.data.table_examples import read_rows
from kerasnn.data.text_folders import text_files
from kerasnn.files import existing_file, write_text
from kerasnn.models.table_model import TableModel
from kerasnn.runs.evaluate import image_reader, load_run_model, predicted_values, recorded_class_names, safe_cell
from kerasnn.runs.pieces import batch_rows, piece_rows
from kerasnn.runs.scores import probabilities_of


def predict_file(
    run_dir: str | Path, data_path: str | Path, *, model: str = "model", batch_size: int | None = None
) -> dict[str, np.ndarray]:
    """Predict for the rows of a file.

    Args:
        run_dir: a run folder.
        data_path: a table with the training table's columns, in any order; for a model of images or texts, a folder of
            them, or one; for a model that takes arrays, an npz file with x.
        model: "model" for the final weights, "best" for those of the best epoch.
        batch_size: examples per batch; None: up to 1024 where they are small. The result does not depend on it.

    Returns:
        Columns by name: for images and texts `file`; for classes `predicted` with their names and
        `probability_<class>`; for numbers `predicted_<target>`.

    Raises:
        FileNotFoundError: the folder holds no such model.
        ValueError: one line, if the file does not suit the model.
    """
    config = RunConfig.load(run_dir)
    network = load_run_model(run_dir, model)
    class_names = recorded_class_names(run_dir)
    names: tuple[str, ...] = ()
    first: dict[str, np.ndarray] = {}
    if isinstance(network, TableModel):
        encoding = network.encoder.encoding
        names, class_names = encoding.targets, encoding.class_names
        x: Any = network.inputs_of(read_rows(data_path, config.data, encoding), Path(data_path).name)
        if config.data.name == "texts":
            first = _names(text_files(data_path), data_path)
    elif config.data.name == "images" and Path(data_path).suffix != ".npz":
        files = image_files(data_path) if Path(data_path).is_dir() else [existing_file(data_path)]
        outputs = _outputs_of_images(config, network, files, batch_size)
        return {**_names(files, data_path), **_columns(config, outputs, class_names, names)}
    else:
        x = _array(data_path, network)
    outputs = network.predict(x, batch_size=batch_size or 1024, verbose=0)
    return {**first, **_columns(config, outputs, class_names, names)}


def _names(files: Sequence[Path], data_path: str | Path) -> dict[str, np.ndarray]:
    """A column of files, by their names in the folder."""
    root = Path(data_path).expanduser()
    root = root if root.is_dir() else root.parent
    return {"file": np.array([str(file.relative_to(root)) for file in files], dtype=object)}


def _outputs_of_images(
    config: RunConfig, network: keras.Model, files: Sequence[Path], batch_size: int | None
) -> np.ndarray:
    """The model's outputs for images, of which only some are in memory at a time."""
    reader = image_reader(config, network)
    batch_size = batch_size or batch_rows(reader.shape)
    count = piece_rows(reader.shape, batch_size)
    pieces = [
        network.predict(reader.read(files[start : start + count]), batch_size=batch_size, verbose=0)
        for start in range(0, len(files), count)
    ]
    return np.concatenate(pieces)


def write_predictions(columns: dict[str, np.ndarray], path: str | Path) -> None:
    """Write predictions as a csv file, a row for each example."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([safe_cell(name) for name in columns])
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        table.writerow([safe_cell(value) if isinstance(value, str) else f"{value:.8g}" for value in row])
    write_text(path, text.getvalue())


def _array(data_path: str | Path, network: keras.Model) -> np.ndarray:
    if Path(data_path).suffix != ".npz":
        raise ValueError(f"data file must end in .npz for a model that takes arrays; received {str(data_path)!r}")
    arrays = read_npz(data_path)
    x = next((arrays[key] for key in ("x", "x_test") if key in arrays), None)
    if x is None or x.shape[1:] != tuple(network.input_shape[1:]):
        shape = ", ".join(["examples", *map(str, network.input_shape[1:])])
        raise ValueError(f"{data_path} must hold x of shape ({shape}), received {None if x is None else x.shape}")
    return x


def _columns(
    config: RunConfig, outputs: np.ndarray, class_names: tuple[str, ...] | None, targets: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Predictions by the name of their column."""
    count = outputs.shape[1]
    if config.known_task == "regression":
        names = targets if len(targets) == count else [str(index) for index in range(count)]
        return {f"predicted_{name}": outputs[:, index] for index, name in enumerate(names)}
    predicted = predicted_values(config, outputs)
    labels = class_names or tuple(str(index) for index in range(2 if config.known_task == "binary" else count))
    probabilities = probabilities_of(config, outputs)
    shown = {f"probability_{name}": probabilities[:, index] for index, name in enumerate(labels)}
    if config.known_task == "multilabel":
        return {**{f"predicted_{name}": predicted[:, index] for index, name in enumerate(labels)}, **shown}
    return {"predicted": np.array(labels, dtype=object)[predicted], **shown}

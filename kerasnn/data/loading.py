"""Data sets, files and arrays as `Data`: checked, split into parts and prepared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasnn.config.data import DataConfig
from kerasnn.config.schema import short
from kerasnn.data.checks import as_numbers, check_examples
from kerasnn.data.encoding import Raw, TableEncoding, take_rows
from kerasnn.data.examples import Data as Data
from kerasnn.data.examples import fingerprint as fingerprint
from kerasnn.data.folders import ImageReader, list_image_folder, must_stream
from kerasnn.data.images import CLASS_NAMES, read_images
from kerasnn.data.npz import read_npz_parts, read_npz_test
from kerasnn.data.parts import check_like_train, final_targets, output_count, split_rows
from kerasnn.data.pixels import Pixels
from kerasnn.data.preparation import Preparation
from kerasnn.data.splits import leaks, split_table
from kerasnn.data.table_examples import (
    TableExamples,
    balance,
    joined,
    labelled_rows,
    numbered_labels,
    read_rows,
    read_table_examples,
    table_examples,
)

if TYPE_CHECKING:
    import pandas as pd

TABLE_KEYS: tuple[str, ...] = (
    "target",
    "columns",
    "drop",
    "delimiter",
    "decimal",
    "thousands",
    "encoding",
    "header",
    "missing_values",
)
TABLE_KEYS += ("max_categories", "max_words", "target_scaling", "group", "time", "split")
SOURCE_KEYS = {
    "digits": (),
    "mnist": ("path",),
    "fashion_mnist": ("path",),
    "table": ("path", "test_path", *TABLE_KEYS),
    "images": ("path", "image_size", "color", "stream"),
    "texts": ("path", "encoding", "max_words"),
    "npz": ("path", "test_path"),
    "arrays": TABLE_KEYS,
}
"""The keys of `DataConfig` that each source uses."""


def load_data(config: DataConfig, task: str = "auto") -> Data:
    """Load a data set or file, split it into parts and prepare it.

    The test part is `test_share` of all examples if the source has none; the validation part is `validation_share` of
    the remaining examples. Both have at least one example if the share is above 0, and are stratified by class if every
    class has enough examples.

    Args:
        config: source, files, scaling, shares and seed.
        task: binary, multiclass, multilabel or regression; auto: a table's target implies it, other data is multiclass.

    Returns:
        The data; the labels of a table become integers in the order of `class_names`.

    Raises:
        ValueError, TypeError: one line with the fault and its file, row, column or value.

    >>> load_data(DataConfig(name="digits")).x_train.shape
    (1294, 64)
    """
    check_source(config)
    if config.name in ("table", "texts"):
        return _table_data(read_table_examples(config, task), config)
    if config.name == "images":
        return _image_data(config, task)
    task = "multiclass" if task == "auto" else task
    names: Sequence[str] | None = None
    full_scale = None
    match config.name:
        case "digits":
            from sklearn.datasets import load_digits

            digits = load_digits()
            arrays = {"x_train": digits.images, "y_train": digits.target}
            names, full_scale = tuple("0123456789"), 16.0
        case "mnist" | "fashion_mnist":
            arrays = read_images(config.name, config.path)
            names = CLASS_NAMES[config.name]
        case "npz":
            assert config.path is not None
            arrays, names = read_npz_parts(config.path, config.test_path)
        case "arrays":
            raise ValueError("data.name 'arrays' has no file to load; pass the arrays to kerasnn.from_arrays")
    if config.name in ("digits", "mnist", "fashion_mnist") and task != "multiclass":
        names = None
    return _data(arrays, config, task, names, full_scale)


def check_source(config: DataConfig) -> None:
    """Refuse a key that the data source does not use."""
    for key in ("path", "test_path", "image_size", "color", "stream", *TABLE_KEYS):
        value = getattr(config, key)
        if value != DataConfig.model_fields[key].default and key not in SOURCE_KEYS[config.name]:
            users = ", ".join(name for name, keys in SOURCE_KEYS.items() if key in keys)
            raise ValueError(f"data.{key} is for {users}; received {value!r} with data.name {config.name!r}")


def from_arrays(
    x: Any,
    y: Any,
    x_test: Any = None,
    y_test: Any = None,
    x_validation: Any = None,
    y_validation: Any = None,
    config: DataConfig | None = None,
    task: str = "multiclass",
    class_names: Sequence[str] | None = None,
) -> Data:
    """Check arrays or data frames, split them into parts and prepare them.

    Args:
        x: raw features, `(examples, …)`: tables `(examples, features)`, images `(examples, height, width)` or
            `(examples, height, width, channels)`. Anything that numpy converts to numbers. A data frame is encoded by
            columns, as a table file is.
        y: targets as in `check_examples`; multiclass labels are 0 to classes - 1, and each occurs unless `class_names`
            gives their number. Labels may also be texts, or any values with a data frame.
        x_test, y_test: a test part; None: `config.test_share` of x and y.
        x_validation, y_validation: a validation part; None: `config.validation_share` of the remaining examples.
        config: scaling, flatten, one-hot, shares and seed; its name must be `"arrays"`.
        task: binary, multiclass, multilabel or regression; with a data frame also auto, which infers it from y.
        class_names: names of the classes or labels, in order.

    Raises:
        ValueError: one line: x without y, parts of different shapes or scales, and all that `check_examples` refuses.
        TypeError: one line, if x or y are not numbers.

    >>> from_arrays(np.arange(40).reshape(20, 2), np.arange(20) % 2, task="binary")
    Data(task='binary', outputs=1, class_names=None)
    >>> from_arrays(np.arange(40).reshape(20, 2), ["no", "yes"] * 10, task="binary")
    Data(task='binary', outputs=1, class_names=('no', 'yes'))
    """
    config = config or DataConfig(name="arrays")
    if config.name != "arrays":
        raise ValueError(f"data.name must be 'arrays' for arrays; received {config.name!r}")
    arrays = {"x_train": x, "y_train": y, "x_validation": x_validation, "y_validation": y_validation}
    arrays |= {"x_test": x_test, "y_test": y_test}
    arrays = {key: value for key, value in arrays.items() if value is not None}
    if hasattr(x, "columns") and hasattr(x, "dtypes"):
        return _frame_data(arrays, config, task, class_names)
    if task in ("binary", "multiclass"):
        arrays, class_names = numbered_labels(arrays, task, class_names)
    return _data(arrays, config, task, class_names)


def read_examples(
    path: str | Path, task: str = "multiclass", class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read raw examples of an npz file, neither split nor scaled, for a trained model that includes its preprocessing.

    Args:
        path: an npz file with x and y (or x_test and y_test).
        task: binary, multiclass, multilabel or regression.
        class_names: the model's classes in order.

    Returns:
        Raw x, `(examples, …)`, and y as in `Data`, multiclass as integer labels.

    Raises:
        ValueError, TypeError: one line with the fault and its row, column or value.
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"data file must end in .npz for a model that takes arrays; received {str(path)!r}")
    x, y = read_npz_test(path)
    check_examples(x, y, task, _count(class_names, task), "test")
    return x, final_targets(y, task, "test")


def read_test_table(config: DataConfig, task: str, encoding: TableEncoding) -> tuple[Raw, np.ndarray] | None:
    """Raw values and targets of the test part of a table; None if it has none.

    Args:
        config: source and split.
        task: binary, multiclass, multilabel or regression.
        encoding: the encoding of the model that is to be tested.
    """
    if config.test_path is not None:
        raw, y = labelled_rows(
            read_rows(config.test_path, config, encoding), encoding, task, Path(config.test_path).name
        )
        return raw, final_targets(y, task, "test")
    examples = read_table_examples(config, task)
    targets = final_targets(examples.y, task, "test")
    taken = split_table(examples, targets, config).get("test")
    if taken is None:
        return None
    if missing := [column.name for column in encoding.columns if column.name not in examples.raw]:
        raise ValueError(f"{config.path} must be the table of the training; it lacks the column {missing[0]!r}")
    return take_rows(examples.raw, taken), targets[taken]


def _frame_data(arrays: dict[str, Any], config: DataConfig, task: str, class_names: Sequence[str] | None) -> Data:
    """`Data` from data frames."""
    if class_names is not None:
        raise ValueError("class_names must be None for a data frame, whose labels name the classes; received names")
    frames = {part: joined(arrays, part) for part in ("train", "validation", "test") if f"x_{part}" in arrays}
    train, targets = frames.pop("train")
    examples = table_examples(train, config.model_copy(update={"target": targets}), task, "the data frame")
    return _table_data(examples, config, {part: frame for part, (frame, _) in frames.items()})


def _table_data(
    examples: TableExamples, config: DataConfig, frames: Mapping[str, "pd.DataFrame"] | None = None
) -> Data:
    """`Data` from the rows of a table, and of further tables for the validation and test parts."""
    task = examples.task
    if config.one_hot and task != "multiclass":
        raise ValueError(f"data.one_hot is for task multiclass; received task {task!r}")
    count = _count(examples.class_names, task)
    check_examples(np.zeros((len(examples.y), 1)), examples.y, task, count)
    y = final_targets(examples.y, task, "train")
    frames = dict(frames or {})
    rows = split_table(examples, y, config.model_copy(update={f"{part}_share": 0.0 for part in frames}))
    targets = {part: y[taken] for part, taken in rows.items()}
    encoding = examples.encoding(rows["train"], targets["train"], config)
    x_parts = {part: encoding.compact(examples.raw, taken) for part, taken in rows.items()}
    if config.test_path is not None:
        frames["test"] = read_rows(config.test_path, config, encoding)
    for part, frame in frames.items():
        source = Path(config.test_path).name if config.test_path is not None else f"x_{part}"
        raw, labels = labelled_rows(frame, encoding, task, source)
        x_parts[part], targets[part] = encoding.compact(raw), final_targets(labels, task, part)
    if encoding.target_scale:
        center, scale = (np.asarray(each, np.float32) for each in (encoding.target_center, encoding.target_scale))
        targets = {part: (y - center) / scale for part, y in targets.items()}
    about = examples.report(encoding, leaks(examples, rows))
    outputs = targets["train"].shape[1] if task in ("regression", "multilabel") else len(examples.class_names or ())
    return _made(x_parts, targets, config, task, outputs, examples.class_names, encoding, about)


def read_test_images(config: DataConfig, task: str, reader: ImageReader) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and targets of the test part of a folder; None if it has none.

    Args:
        config: source and split.
        task: binary or multiclass.
        reader: reads images as the model that is to be tested takes them.
    """
    assert config.path is not None
    folder = list_image_folder(config.path)
    targets = final_targets(folder.labels, task, "test")
    rows = _split(targets, config, task).get("test")
    if rows is None:
        return None
    files = [folder.files[row] for row in rows]
    return reader.read(files, must_stream(len(files) * reader.nbytes)), targets[rows]


def _image_data(config: DataConfig, task: str) -> Data:
    """`Data` from a folder of images."""
    assert config.path is not None
    folder = list_image_folder(config.path)
    names = folder.class_names
    task = ("binary" if len(names) == 2 else "multiclass") if task == "auto" else task
    if task not in ("binary", "multiclass"):
        raise ValueError(f"data.name images is for task binary or multiclass, received task {task!r}")
    outputs = _count(names, task)
    assert outputs is not None
    y = final_targets(folder.labels, task, "train")
    rows = _split(y, config, task)
    reader = ImageReader.like(folder.files[0], config.image_size, config.color)
    size = len(y) * reader.nbytes
    stream = must_stream(size) if config.stream is None else config.stream
    x_parts = {part: reader.read([folder.files[row] for row in taken], stream) for part, taken in rows.items()}
    about = [
        f"images      {folder.path}: {len(y):,} images of {len(names)} classes, as {reader.size[0]}×{reader.size[1]} "
        f"{'RGB' if config.color == 'rgb' else 'grey'} pixels",
        f"            {size / 2**20:,.0f} MiB {'in a temporary file' if stream else 'in memory'}",
        *balance(folder.labels, names, "images"),
        "",
    ]
    pixels = Pixels.fit(x_parts["train"], config.scaling or "unit")
    targets = {part: y[taken] for part, taken in rows.items()}
    return _made(x_parts, targets, config, task, outputs, names, pixels, "\n".join(about))


def _split(y: np.ndarray, config: DataConfig, task: str) -> dict[str, np.ndarray]:
    """Positions of each part's examples; a part without a share is left out."""
    rows = {"train": np.arange(len(y))}
    for part, share in (("test", config.test_share), ("validation", config.validation_share)):
        if share:
            left = rows["train"]
            rest, taken = split_rows(part, share, y[left], config.seed, task)
            rows["train"], rows[part] = left[rest], left[taken]
    return rows


def _data(
    arrays: dict[str, Any],
    config: DataConfig,
    task: str,
    class_names: Sequence[str] | None,
    full_scale: float | None = None,
) -> Data:
    """`Data` from raw arrays named x_train, y_train and so on."""
    if config.one_hot and task != "multiclass":
        raise ValueError(f"data.one_hot is for task multiclass; received task {task!r}")
    outputs = _count(class_names, task)
    raw: dict[str, np.ndarray] = {}
    targets: dict[str, np.ndarray] = {}
    for part in ("train", "validation", "test"):
        x, y = arrays.get(f"x_{part}"), arrays.get(f"y_{part}")
        if x is None and y is None:
            continue
        if x is None or y is None:
            missing = f"{'x' if x is None else 'y'}_{part}"
            raise ValueError(f"x_{part} and y_{part} belong together; {missing} is missing")
        check_examples(x, y, task, outputs, part)
        raw[part] = as_numbers(x, f"x_{part}")
        targets[part] = final_targets(as_numbers(y, f"y_{part}"), task, part)
        if part == "train":
            outputs = output_count(targets["train"], np.asarray(y), task) if outputs is None else outputs
        else:
            check_like_train(raw[part], raw["train"], part)
    given = {f"{part}_share": 0.0 for part in raw if part != "train"}
    rows = _split(targets["train"], config.model_copy(update=given), task)
    if len(rows) > 1:
        for parts in (raw, targets):
            parts |= {part: parts["train"][taken] for part, taken in rows.items()}
    assert outputs is not None
    preparation = Preparation.fit(raw["train"], config.scaling or "unit", config.flatten, full_scale)
    x_parts = {part: preparation(x) for part, x in raw.items()}
    return _made(x_parts, targets, config, task, outputs, class_names, preparation)


def _made(
    x_parts: dict[str, np.ndarray],
    targets: dict[str, np.ndarray],
    config: DataConfig,
    task: str,
    outputs: int,
    class_names: Sequence[str] | None,
    preparation: Preparation | TableEncoding | Pixels,
    about: str = "",
) -> Data:
    """`Data` from prepared parts."""
    if config.one_hot:
        targets = {part: np.eye(outputs, dtype=np.float32)[y] for part, y in targets.items()}
    return Data(
        x_train=x_parts["train"],
        y_train=targets["train"],
        x_validation=x_parts.get("validation"),
        y_validation=targets.get("validation"),
        x_test=x_parts.get("test"),
        y_test=targets.get("test"),
        task=task,
        outputs=1 if task == "binary" else outputs,
        class_names=None if class_names is None else tuple(class_names),
        preparation=preparation,
        about=about,
    )


def _count(class_names: Sequence[str] | None, task: str) -> int | None:
    """The number of classes or labels that have names, or None."""
    if class_names is None:
        return None
    if task == "regression":
        raise ValueError("class_names must be None for task regression, which has no classes")
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise TypeError(f"class_names must be a sequence of text; received {short(class_names)}")
    if len(set(class_names)) != len(class_names):
        raise ValueError(f"class_names must differ from each other; received {short(tuple(class_names))}")
    if task == "binary" and len(class_names) != 2:
        raise ValueError(f"class_names must be two for task binary; received {len(class_names)}")
    return len(class_names)

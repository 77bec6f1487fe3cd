"""Data sets, files and arrays as `Data`: checked, split into parts and prepared."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasnn.config.schema import short
from kerasnn.config.sections import DataConfig
from kerasnn.data.checks import as_numbers, check_examples
from kerasnn.data.images import CLASS_NAMES, read_images
from kerasnn.data.parts import check_like_train, final_targets, output_count, split_off
from kerasnn.data.preparation import Preparation
from kerasnn.data.tables import read_csv, read_npz

if TYPE_CHECKING:
    import keras

SOURCE_KEYS = {
    "digits": (),
    "mnist": ("path",),
    "fashion_mnist": ("path",),
    "csv": ("path", "test_path", "target"),
    "npz": ("path", "test_path"),
    "arrays": (),
}
"""The keys of `DataConfig` that each source uses."""


@dataclass(frozen=True, eq=False)
class Data:
    """Examples in three parts, prepared for a network.

    Args:
        x_train, x_validation, x_test: features, float32 `(examples, *input_shape)`; None for a part without examples.
        y_train, y_validation, y_test: targets. Multiclass: int32 `(examples,)`, or float32 `(examples, classes)` if
            one-hot. Binary: float32 `(examples,)`. Multilabel and regression: float32 `(examples, outputs)`.
        task: binary, multiclass, multilabel or regression.
        outputs: number of output units: 1 for binary, else the number of classes, labels or values.
        class_names: names of the classes (binary: of 0 and 1) or labels, or None.
        preparation: the preparation of the features, fitted to the training part.
    """

    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_validation: np.ndarray | None = field(repr=False)
    y_validation: np.ndarray | None = field(repr=False)
    x_test: np.ndarray | None = field(repr=False)
    y_test: np.ndarray | None = field(repr=False)
    task: str
    outputs: int
    class_names: tuple[str, ...] | None
    preparation: Preparation = field(repr=False)

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """Shape of one raw example."""
        return self.preparation.raw_shape

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one prepared example."""
        return self.preparation.input_shape

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """`(height, width)` or `(height, width, channels)` if raw examples are images, else None."""
        grey = len(self.raw_shape) == 2
        coloured = len(self.raw_shape) == 3 and self.raw_shape[2] in (1, 3, 4)
        return self.raw_shape if grey or coloured else None

    def prepare(self, x: Any) -> np.ndarray:
        """Prepare raw examples `(examples, *raw_shape)`: float32 of shape `(examples, *input_shape)`.

        Raises:
            ValueError: one line: another shape, no examples, NaN or infinity.
            TypeError: one line, if the examples are not numbers.
        """
        return self.preparation(x)

    def preprocessing(self) -> "list[keras.layers.Layer]":
        """New Keras layers with the effect of `prepare`, for a model that takes raw examples."""
        return self.preparation.layers()


def fingerprint(data: Data, some: int | None = None) -> str:
    """A digest of the training and validation examples, their shapes and dtypes.

    Args:
        data: the data.
        some: approximate number of bytes to read of each larger array, at equal intervals; None reads all.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in ("x_train", "y_train", "x_validation", "y_validation"):
        array = getattr(data, part)
        if array is not None:
            stride = 1 if some is None else max(1, math.ceil(array.nbytes / some))
            digest.update(str((array.dtype.name, array.shape)).encode() + array[::stride].tobytes())
    return digest.hexdigest()


def load_data(config: DataConfig, task: str = "multiclass") -> Data:
    """Load a data set or file, split it into parts and prepare it.

    The test part is `test_share` of all examples if the source has none; the validation part is `validation_share` of
    the remaining examples. Both have at least one example if the share is above 0, and are stratified by class if every
    class has enough examples.

    Args:
        config: source, files, scaling, shares and seed.
        task: binary, multiclass, multilabel or regression.

    Returns:
        The data; csv labels become integers in the order of `class_names`.

    Raises:
        ValueError, TypeError: one line with the fault and its file, row, column or value.

    >>> load_data(DataConfig(name="digits")).x_train.shape
    (1294, 64)
    """
    for key in ("path", "test_path", "target"):
        if getattr(config, key) is not None and key not in SOURCE_KEYS[config.name]:
            users = ", ".join(name for name, keys in SOURCE_KEYS.items() if key in keys)
            raise ValueError(
                f"data.{key} is for {users}; received {getattr(config, key)!r} with data.name {config.name!r}"
            )
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
        case "csv":
            arrays, names = _csv(config, task)
        case "npz":
            arrays, names = _npz(config)
        case "arrays":
            raise ValueError("data.name 'arrays' has no file to load; pass the arrays to kerasnn.from_arrays")
    if config.name in ("digits", "mnist", "fashion_mnist") and task != "multiclass":
        names = None
    return _data(arrays, config, task, names, full_scale)


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
    """Check arrays, split them into parts and prepare them.

    Args:
        x: raw features, `(examples, …)`: tables `(examples, features)`, images `(examples, height, width)` or
            `(examples, height, width, channels)`. Anything that numpy converts to numbers.
        y: targets as in `check_examples`; multiclass labels are 0 to classes - 1, and each occurs unless `class_names`
            gives their number.
        x_test, y_test: a test part; None: `config.test_share` of x and y.
        x_validation, y_validation: a validation part; None: `config.validation_share` of the remaining examples.
        config: scaling, flatten, one-hot, shares and seed; its name must be `"arrays"`.
        task: binary, multiclass, multilabel or regression.
        class_names: names of the classes or labels, in order.

    Raises:
        ValueError: one line: x without y, parts of different shapes or scales, and all that `check_examples` refuses.
        TypeError: one line, if x or y are not numbers.

    >>> from_arrays(np.arange(40).reshape(20, 2), np.arange(20) % 2, task="binary")
    Data(task='binary', outputs=1, class_names=None)
    """
    config = config or DataConfig(name="arrays")
    if config.name != "arrays":
        raise ValueError(f"data.name must be 'arrays' for arrays; received {config.name!r}")
    arrays = {"x_train": x, "y_train": y, "x_validation": x_validation, "y_validation": y_validation}
    arrays |= {"x_test": x_test, "y_test": y_test}
    return _data({key: value for key, value in arrays.items() if value is not None}, config, task, class_names)


def read_examples(
    path: str | Path,
    task: str = "multiclass",
    target: str | tuple[str, ...] | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read raw examples, neither split nor scaled, for a trained model that includes its preprocessing.

    Args:
        path: a csv file, or an npz file with x and y (or x_test and y_test).
        task: binary, multiclass, multilabel or regression.
        target: target columns of a csv file; None: the last column.
        class_names: the model's classes in order; the labels of a csv file must be among them.

    Returns:
        Raw x, `(examples, …)`, and y as in `Data`, multiclass as integer labels.

    Raises:
        ValueError, TypeError: one line with the fault and its row, column or value.
    """
    if Path(path).suffix == ".npz":
        x, y = _npz_test(path)
    elif Path(path).suffix == ".csv":
        table = read_csv(path, task, target, class_names)
        x, y = table.x, table.y
    else:
        raise ValueError(f"data file must end in .csv or .npz; received {str(path)!r}")
    check_examples(x, y, task, _count(class_names, task), "test")
    return x, final_targets(y, task, "test")


def _csv(config: DataConfig, task: str) -> tuple[dict[str, Any], Sequence[str] | None]:
    assert config.path is not None
    table = read_csv(config.path, task, config.target)
    arrays = {"x_train": table.x, "y_train": table.y}
    if config.test_path is not None:
        test = read_csv(config.test_path, task, config.target, class_names=table.class_names)
        if test.columns != table.columns:
            raise ValueError(
                f"{config.test_path} must have the columns of {config.path}, {short(', '.join(table.columns))}; "
                f"received {short(', '.join(test.columns))}"
            )
        arrays |= {"x_test": test.x, "y_test": test.y}
    return arrays, table.class_names


def _npz(config: DataConfig) -> tuple[dict[str, Any], Sequence[str] | None]:
    assert config.path is not None
    arrays: dict[str, Any] = read_npz(config.path)
    _rename(arrays, "train", config.path)
    if config.test_path is not None:
        if "x_test" in arrays:
            raise ValueError(f"{config.path} has a test part; data.test_path must be null")
        x_test, y_test = _npz_test(config.test_path)
        arrays |= {"x_test": x_test, "y_test": y_test}
    names = arrays.pop("class_names", None)
    if names is not None and names.dtype.kind != "U":
        raise ValueError(f"{config.path}: class_names must be text; received dtype {names.dtype}")
    return arrays, None if names is None else tuple(names.ravel().tolist())


def _npz_test(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The only part of an npz file, as a test part."""
    arrays = read_npz(path)
    _rename(arrays, "test", path)
    if extra := [key for key in arrays if key not in ("x_test", "y_test", "class_names")]:
        raise ValueError(f"{path} must hold x and y, or x_test and y_test; it also has {', '.join(extra)}")
    return arrays["x_test"], arrays["y_test"]


def _rename(arrays: dict[str, Any], part: str, path: str | Path) -> None:
    """Rename x and y to the x and y of a part."""
    for kind in ("x", "y"):
        if kind in arrays:
            if f"{kind}_{part}" in arrays:
                raise ValueError(f"{path} must hold {kind} or {kind}_{part}; it has both")
            arrays[f"{kind}_{part}"] = arrays.pop(kind)
    for key in (f"x_{part}", f"y_{part}"):
        if key not in arrays:
            raise ValueError(f"{path} must hold x and y, or x_{part} and y_{part}; {key} is missing")


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
    if "test" not in raw:
        split_off("test", config.test_share, raw, targets, config.seed, task)
    if "validation" not in raw:
        split_off("validation", config.validation_share, raw, targets, config.seed, task)
    assert outputs is not None
    if config.one_hot:
        targets = {part: np.eye(outputs, dtype=np.float32)[y] for part, y in targets.items()}
    preparation = Preparation.fit(raw["train"], config.scaling, config.flatten, full_scale)
    x_parts = {part: preparation(x) for part, x in raw.items()}
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

"""Data as a network takes it: loaded, checked, split into parts and prepared.

`load_data(DataConfig)` reads a named data set or a file, `from_arrays` takes arrays; both give `Data`.
"""

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
"""The keys of `DataConfig` that each source reads."""


@dataclass(frozen=True, eq=False)
class Data:
    """Examples in three parts, prepared for a network; validation and test are None where their share is 0.

    Args:
        x_train, x_validation, x_test: features, float32 `(examples, *input_shape)`, scaled and shaped.
        y_train, y_validation, y_test: targets. Multiclass: int32 `(examples,)`, or float32 `(examples, classes)` if
            one-hot. Binary: float32 `(examples,)`. Multilabel and regression: float32 `(examples, outputs)`.
        task: binary, multiclass, multilabel or regression.
        outputs: units that the task needs: 1 for binary, else the number of classes, labels or values.
        class_names: names of the classes (binary: of 0 and 1) or labels, or None where they have none.
        preparation: what was done to the features, fitted on the training part.
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
        """Shape of one example as its user has it."""
        return self.preparation.raw_shape

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one prepared example."""
        return self.preparation.input_shape

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """`(height, width)` or `(height, width, channels)` where raw examples are images, else None."""
        grey = len(self.raw_shape) == 2
        coloured = len(self.raw_shape) == 3 and self.raw_shape[2] in (1, 3, 4)
        return self.raw_shape if grey or coloured else None

    def prepare(self, x: Any) -> np.ndarray:
        """Raw examples `(examples, *raw_shape)` as the network takes them, `(examples, *input_shape)`, float32.

        Raises:
            ValueError: another shape; empty, NaN or infinite.
            TypeError: not numbers.
        """
        return self.preparation(x)

    def preprocessing(self) -> "list[keras.layers.Layer]":
        """New Keras layers that prepare raw examples as `prepare` does; put in front of the network they let it
        predict from data as its user has it. None where nothing is to be done."""
        return self.preparation.layers()


def fingerprint(data: Data, some: int | None = None) -> str:
    """A digest of the examples that are learned from, and of their shapes and types.

    Args:
        data: the data.
        some: about how many bytes of a larger part are looked at, evenly spread; None looks at all.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in ("x_train", "y_train", "x_validation", "y_validation"):
        array = getattr(data, part)
        if array is not None:
            stride = 1 if some is None else max(1, math.ceil(array.nbytes / some))
            digest.update(str((array.dtype.name, array.shape)).encode() + array[::stride].tobytes())
    return digest.hexdigest()


def load_data(config: DataConfig, task: str = "multiclass") -> Data:
    """The data that a config describes, split by its seed and prepared by its training part.

    Args:
        config: source, files, scaling, shares and seed. Shares: `test_share` of all examples where the source has no
            test part, then `validation_share` of the others; at least one example each if above 0; stratified by
            class where every class has enough examples.
        task: binary, multiclass, multilabel or regression.

    Returns:
        The data; csv labels become integers in the order of `class_names`.

    Raises:
        ValueError, TypeError: in one line, what is wrong with which file, row, column or value.
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
            raise ValueError("data.name 'arrays' has no file to load; give the arrays to kerasnn.data.from_arrays")
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
    """Arrays as `Data`: checked, split as `config` says where parts are missing, and prepared.

    Args:
        x: raw features, `(examples, …)`: tables `(examples, features)`, images `(examples, height, width)` or
            `(examples, height, width, channels)`. Anything that numpy takes for numbers.
        y: targets as `check_examples` describes them; multiclass labels are 0 to classes - 1, each of them used unless
            `class_names` tells how many there are.
        x_test, y_test: a test part; None takes `config.test_share` of x and y.
        x_validation, y_validation: a validation part; None takes `config.validation_share` of what is left.
        config: scaling, flatten, one-hot, shares and seed; its name must be `"arrays"`.
        task: binary, multiclass, multilabel or regression.
        class_names: names of the classes or labels, in order.

    Raises:
        ValueError: a part without its other half; parts that don't fit together; all that `check_examples` refuses.
        TypeError: not numbers.
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
    """Further examples for a trained model, neither split nor scaled: for one that does its own preprocessing.

    Args:
        path: a csv file, or an npz file with x and y (or x_test and y_test).
        task: binary, multiclass, multilabel or regression.
        target: target columns of a csv file; None takes the last.
        class_names: the model's classes, in its order; a csv file's labels must be among them.

    Returns:
        Raw x, `(examples, …)`, and y as in `Data`, multiclass as integer labels.

    Raises:
        ValueError, TypeError: in one line, what is wrong with which row, column or value.
    """
    if Path(path).suffix == ".npz":
        x, y = _npz_test(path)
    elif Path(path).suffix == ".csv":
        table = read_csv(path, task, target, class_names)
        x, y = table.x, table.y
    else:
        raise ValueError(f"data file must end in .csv or .npz; received {str(path)!r}")
    check_examples(x, y, task, _named(class_names, task), "test")
    return x, _targets(y, task, "test")


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
            raise ValueError(f"{config.path} has a test part of its own; data.test_path must be null")
        x_test, y_test = _npz_test(config.test_path)
        arrays |= {"x_test": x_test, "y_test": y_test}
    names = arrays.pop("class_names", None)
    if names is not None and names.dtype.kind != "U":
        raise ValueError(f"{config.path}: class_names must be text; received dtype {names.dtype}")
    return arrays, None if names is None else tuple(names.ravel().tolist())


def _npz_test(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The only part of a file, as a test part."""
    arrays = read_npz(path)
    _rename(arrays, "test", path)
    if extra := [key for key in arrays if key not in ("x_test", "y_test", "class_names")]:
        raise ValueError(f"{path} must hold x and y, or x_test and y_test; it also has {', '.join(extra)}")
    return arrays["x_test"], arrays["y_test"]


def _rename(arrays: dict[str, Any], part: str, path: str | Path) -> None:
    """x and y of a file become x and y of a part."""
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
    """Data from raw arrays named x_train, y_train and so on."""
    if config.one_hot and task != "multiclass":
        raise ValueError(f"data.one_hot is for task multiclass; received task {task!r}")
    outputs = _named(class_names, task)
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
        targets[part] = _targets(as_numbers(y, f"y_{part}"), task, part)
        if part == "train":
            outputs = _outputs(targets["train"], np.asarray(y), task) if outputs is None else outputs
        else:
            _check_like_train(raw[part], raw["train"], part)
    if "test" not in raw:
        _split("test", config.test_share, raw, targets, config.seed, task)
    if "validation" not in raw:
        _split("validation", config.validation_share, raw, targets, config.seed, task)
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


def _named(class_names: Sequence[str] | None, task: str) -> int | None:
    """How many outputs the class names speak of."""
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


def _targets(y: np.ndarray, task: str, part: str) -> np.ndarray:
    """Checked targets in their final dtype and shape, multiclass as integer labels."""
    if task == "multiclass":
        if y.ndim == 2 and y.shape[1] > 1:
            if not (y.max(axis=1) == 1).all():
                raise ValueError(f"y_{part}'s one-hot rows must hold one 1 and else 0; soft labels are not supported")
            return y.argmax(axis=1).astype(np.int32)
        return y.reshape(-1).astype(np.int32)
    y = y.astype(np.float32)
    return y.reshape(-1) if task == "binary" else y.reshape(len(y), -1)


def _outputs(targets: np.ndarray, y: np.ndarray, task: str) -> int:
    """How many outputs the training part's targets ask for."""
    if task == "binary":
        return 1
    if task != "multiclass":
        return targets.shape[1]
    if y.ndim == 2 and y.shape[1] > 1:
        return y.shape[1]
    found = np.unique(targets)
    if len(found) <= found[-1]:
        missing = int((found != np.arange(len(found))).argmax())
        raise ValueError(
            f"y_train's labels must be 0 to {found[-1]} without gaps; {missing} is missing: number the classes without "
            "gaps, or give class_names"
        )
    return len(found)


def _check_like_train(x: np.ndarray, x_train: np.ndarray, part: str) -> None:
    if x.shape[1:] != x_train.shape[1:]:
        raise ValueError(f"x_{part}'s examples must have x_train's shape {x_train.shape[1:]}; received {x.shape[1:]}")
    if (x.dtype == np.uint8) != (x_train.dtype == np.uint8):
        raise ValueError(
            f"x_{part} must be on x_train's scale; one holds unsigned bytes and the other not "
            f"({x.dtype}, x_train {x_train.dtype})"
        )


def _split(
    part: str, share: float, raw: dict[str, np.ndarray], targets: dict[str, np.ndarray], seed: int, task: str
) -> None:
    """Move a share of the training part's examples to another part, in place."""
    if share == 0:
        return
    from sklearn.model_selection import train_test_split

    y = targets["train"]
    count = max(1, round(share * len(y)))
    if count >= len(y):
        raise ValueError(f"data.{part}_share {share:g} of {len(y)} examples leaves none to train on")
    labels = None
    if task in ("binary", "multiclass"):
        sizes = np.unique_counts(y).counts
        # scikit-learn stratifies only where both parts can hold every class.
        if sizes.min() > 1 and len(sizes) <= min(count, len(y) - count):
            labels = y
    # A sequence a part: the test part stays the same whatever the validation share is.
    state = np.random.SeedSequence([seed, ("validation", "test").index(part)]).generate_state(1)
    rest, taken = train_test_split(np.arange(len(y)), test_size=count, random_state=int(state[0]), stratify=labels)
    for parts in (raw, targets):
        parts[part], parts["train"] = parts["train"][taken], parts["train"][rest]

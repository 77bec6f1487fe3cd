"""Examples of a table: its rows as raw values, its targets as numbers, and what was found in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasnn.config.data import DataConfig
from kerasnn.config.schema import readable
from kerasnn.data.columns import FoundColumn, columns_table, find_columns
from kerasnn.data.encoding import Raw, TableEncoding, raw_values
from kerasnn.data.tables import WITH_ZEROS, read_table
from kerasnn.data.targets import infer_task, target_names, target_values
from kerasnn.data.text_folders import CLASS, TEXT, read_text_folder
from kerasnn.data.values import Texts, as_texts, counted

if TYPE_CHECKING:
    import pandas as pd


WORDS, TEXTS_WORDS = 200, 2000
"""Words that become features at most: of a table's column, and of a folder's texts."""
RARE = 0.4
"""A class is rare below this fraction of the share that it had if all classes were equally frequent."""


@dataclass(frozen=True, eq=False)
class TableExamples:
    """The rows of a table.

    Args:
        raw: values by column, of the columns that are not left out.
        y: labels `(rows,)` or numbers `(rows, targets)`.
        found: what each column holds.
        targets: names of the target columns.
        task: binary, multiclass, multilabel or regression.
        class_names: names of classes or labels; None for a regression.
        about: lines about source, target and task.
        grouping: texts of the column of groups or parts.
        decimal: the decimal mark of its file.
    """

    raw: Raw
    y: np.ndarray
    found: list[FoundColumn]
    targets: tuple[str, ...]
    task: str
    class_names: tuple[str, ...] | None
    about: list[str]

    grouping: Mapping[str, Texts]
    decimal: str = "."

    def texts_of(self, column: str) -> Texts:
        """The texts of the column of groups or parts."""
        return self.grouping[column]

    @property
    def features(self) -> list[FoundColumn]:
        """The columns that are not left out."""
        return [column for column in self.found if column.kind != "drop"]

    def encoding(self, rows: np.ndarray, y: np.ndarray, config: DataConfig) -> TableEncoding:
        """Fit the encoding to the training part.

        Args:
            rows: positions of the training part's rows.
            y: its targets.
            config: scaling of features and targets.
        """
        fields: dict[str, Any] = {"targets": self.targets, "class_names": self.class_names, "decimal": self.decimal}
        if self.task == "regression" and config.target_scaling != "none":
            center, scale = y.mean(axis=0, dtype=np.float64), y.std(axis=0, dtype=np.float64)
            scale = np.where(scale > 0, scale, 1.0)
            fields["target_center"] = np.float32(center).tolist()
            fields["target_scale"] = np.float32(scale).tolist()
        scaling = config.scaling or "standardize"
        most = (config.max_categories, config.max_words or (TEXTS_WORDS if config.name == "texts" else WORDS))
        encoding = TableEncoding.fit(self.features, self.raw, scaling, most, rows, **fields)
        if not encoding.columns:
            raise ValueError("the table must have a column to learn from; no category in it occurs twice")
        return encoding

    def report(self, encoding: TableEncoding, warnings: Sequence[str] = ()) -> str:
        """What was found in the table, as lines of text, with warnings."""
        lines = list(self.about)
        if encoding.target_scale:
            center, scale = encoding.target_center[0], encoding.target_scale[0]
            lines.append(f"            losses while training are of (target - {readable(center)}) / {readable(scale)}")
        lines += [f"warning     {line}" for line in warnings]
        widths = {column.name: column.width for column in encoding.columns}
        why = "no value occurs twice in the training part"
        found = [
            each if each.kind == "drop" or each.name in widths else each._replace(kind="drop", why=why)
            for each in self.found
        ]
        return "\n".join([*lines, "", columns_table(found, widths, len(self.y)), ""])


def table_examples(
    frame: "pd.DataFrame", config: DataConfig, task: str, source: str, layout: str = ""
) -> TableExamples:
    """Find out what a table holds, for training.

    Args:
        frame: the table.
        config: its target, and what is given about its columns.
        task: the task, or `auto`, which infers it from the target.
        source: the table's name.
        layout: format of its file, in words.

    Raises:
        ValueError: one line, for a column that is missing, or whose values do not suit its kind or the task.
    """
    names = target_names(frame, config.target, task, source)
    frame, rows = counted(frame), len(frame)
    if (absent := frame[list(names)].isna().any(axis=1).to_numpy()).any():
        if absent.all():
            raise ValueError(f"target {names[0]!r} of {source} must hold a value in some rows; all are missing")
        frame = frame[~absent]
    reason = ""
    if task == "auto":
        task, reason = infer_task(frame, names)
    y, class_names = target_values(frame, names, task, source)
    found = find_columns(frame, config, names)
    used = [column for column in found if column.kind != "drop"]
    if not used:
        raise ValueError(f"{source} must have a column to learn from; all are left out: {found[0].why}")
    raw = {
        column.name: raw_values(frame[column.name], column.kind, column.written, f"column {column.name!r} of {source}")
        for column in used
    }
    about = [f"table       {source}: {rows:,} rows, {len(frame.columns):,} columns" + (f", {layout}" if layout else "")]
    if absent.any():
        about.append(f"            {absent.sum():,} rows without a target are left out")
    chosen = "" if config.target is not None else ", the last column"
    why = f", inferred from {reason} (--task chooses another)" if reason else ""
    about.append(f"target      {', '.join(names)}{chosen}: {task}{why}")
    if task in ("binary", "multiclass") and class_names is not None:
        about += balance(y, class_names)
        about += _alike(class_names)
    grouping = {name: as_texts(frame[name]) for name in (config.group, config.split) if name is not None}
    return TableExamples(raw, y, found, names, task, class_names, about, grouping)


def balance(y: np.ndarray, class_names: Sequence[str], examples: str = "rows") -> list[str]:
    """A line about the shares of the classes, where one is rare."""
    shares = np.bincount(y, minlength=len(class_names)) / len(y)
    rarest, largest = int(shares.argmin()), int(shares.argmax())
    if shares[rarest] * len(class_names) > RARE:
        return []
    return [
        f"            {class_names[rarest]!r} is {100 * shares[rarest]:.2g}% of the {examples}, "
        f"{class_names[largest]!r} {shares[largest]:.1%}; --training.class_weight balanced weighs classes equally"
    ]


def _alike(class_names: Sequence[str]) -> list[str]:
    """A line about classes that differ only in case, which are rarely meant."""
    known: dict[str, str] = {}
    for name in class_names:
        if (other := known.setdefault(name.lower(), name)) != name:
            return [f"warning     the classes {other!r} and {name!r} differ only in case"]
    return []


def labelled_rows(
    frame: "pd.DataFrame",
    encoding: TableEncoding,
    task: str,
    source: str,
) -> tuple[Raw, np.ndarray]:
    """Raw values and targets of further labelled rows of a table that an encoding was fitted to.

    Raises:
        ValueError: one line, for a missing column or target, values of another kind, and an unknown label.
    """
    frame = counted(frame)
    names = target_names(frame, encoding.targets, task, source)
    absent = frame[list(names)].isna().any(axis=1).to_numpy()
    if absent.any():
        raise ValueError(
            f"target {names[0]!r} of {source} must hold a value in each row; row {absent.argmax() + 1} has none"
        )
    y, _ = target_values(frame, names, task, source, encoding.class_names)
    return encoding.raw(frame, source), y


def read_rows(path: str | Path, config: DataConfig, encoding: TableEncoding) -> "pd.DataFrame":
    """Read a further file of a table that an encoding was fitted to."""
    decimal = {"decimal": encoding.decimal} if config.decimal is None and encoding.decimal == "," else {}
    codes = [column.name for column in encoding.columns if any(map(WITH_ZEROS.fullmatch, column.levels))]
    return _read(path, config.model_copy(update=decimal), codes)[0]


def read_table_examples(config: DataConfig, task: str) -> TableExamples:
    """Read a table's file and find out what it holds."""
    path = config.path
    assert path is not None
    frame, layout = _read(path, config)
    if config.name == "texts":
        if CLASS not in frame.columns:
            raise ValueError(f"{path} must have a subfolder of texts for each class; it has none")
        config = config.model_copy(update={"target": CLASS, "columns": {TEXT: "text"}})
    examples = table_examples(frame, config, task, Path(path).name, layout)
    return replace(examples, decimal="," if "decimal comma" in layout else ".")


def _read(path: str | Path, config: DataConfig, codes: Sequence[str] = ()) -> tuple["pd.DataFrame", str]:
    """A table, or a folder of texts as one, and what was found about its format."""
    return (read_text_folder(path, config.encoding), "") if config.name == "texts" else read_table(path, config, codes)


def joined(arrays: dict[str, Any], part: str) -> tuple["pd.DataFrame", tuple[str, ...]]:
    """A data frame of features and targets, and the names of the targets."""
    import pandas as pd

    x, y = arrays[f"x_{part}"], arrays.get(f"y_{part}")
    if y is None:
        raise ValueError(f"x_{part} and y_{part} belong together; y_{part} is missing")
    if len(y) != len(x):
        raise ValueError(f"x_{part} has {len(x)} examples and y_{part} has {len(y)}; each example needs one target")
    frame = x.set_axis([str(name) for name in x.columns], axis=1)
    y = pd.DataFrame(y) if not isinstance(y, pd.Series | pd.DataFrame) else y
    y = y.to_frame() if isinstance(y, pd.Series) else y
    names = [str(name) if isinstance(name, str) else f"target_{index}" for index, name in enumerate(y.columns, 1)]
    names = ["target"] if names == ["target_1"] else names
    for name, column in zip(names, y.columns, strict=True):
        if name in frame.columns:
            raise ValueError(f"x_{part} must not hold the target; received the column {name!r}")
        frame[name] = y[column].array
    if frame.columns.duplicated().any():
        raise ValueError(
            f"x_{part} must name each column once; received {list(frame.columns[frame.columns.duplicated()])}"
        )
    return frame, tuple(names)


def numbered_labels(
    arrays: dict[str, Any], task: str, class_names: Sequence[str] | None
) -> tuple[dict[str, Any], Sequence[str] | None]:
    """Arrays by part with labels that are texts as integers, and the names of the classes."""
    labels = np.asarray(arrays.get("y_train"))
    if (
        labels.dtype.kind not in "OUST"
        or labels.ndim != 1
        or not all(isinstance(each, str) for each in labels.tolist())
    ):
        return arrays, class_names
    import pandas as pd

    for part in ("train", "validation", "test"):
        if (y := arrays.get(f"y_{part}")) is not None:
            frame = pd.DataFrame({f"y_{part}": np.asarray(y, dtype=object)})
            codes, class_names = target_values(frame, list(frame.columns), task, "the arrays", class_names)
            arrays = {**arrays, f"y_{part}": codes}
    return arrays, class_names

"""The data section of a run: source, reading, preparation and split."""

from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from kerasnn.config.schema import Schema

Fraction = Annotated[float, Field(ge=0, lt=1)]
Kind = Literal["number", "boolean", "category", "date", "text", "drop"]
"""What a column of a table holds; `drop` leaves it out."""


class AugmentConfig(Schema):
    """Random changes of each image in each epoch of training; evaluation and predictions have none.

    >>> AugmentConfig().layers, AugmentConfig(flip="horizontal", rotation=0.05).layers
    (0, 2)
    """

    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    """Directions in which half of the images are flipped; `horizontal` suits most photos."""
    rotation: float = Field(default=0.0, ge=0, le=0.5)
    """Largest rotation in full turns, either way; 0.05 is 18 degrees."""
    zoom: Fraction = 0.0
    """Largest zoom in or out, as a fraction of height and width, in [0, 1)."""
    translation: Fraction = 0.0
    """Largest shift in each direction, as a fraction of height and width, in [0, 1)."""
    contrast: Fraction = 0.0
    """Largest change of the contrast, as a fraction, in [0, 1)."""
    brightness: Fraction = 0.0
    """Largest change of the brightness, as a fraction of the full scale, in [0, 1)."""

    @property
    def layers(self) -> int:
        """Number of Keras layers that the changes take."""
        return sum(getattr(self, key) != field.default for key, field in type(self).model_fields.items())


class DataConfig(Schema):
    """The data set, its preparation and its split into parts.

    >>> DataConfig(path="flowers.csv", target="species", scaling="standardize").name
    'table'
    """

    name: Literal["digits", "mnist", "fashion_mnist", "table", "images", "texts", "npz", "arrays"] = "digits"
    """Data set: scikit-learn's 8x8 `digits` (no download), `mnist`, `fashion_mnist`, a `table` (csv, parquet, …),
    a folder of `images` or an `npz` file (meant wherever `path` names one), a folder of `texts`, or `arrays` passed to
    `train` in Python."""
    path: str | None = None
    """File for table and npz; for images and texts a folder with a subfolder for each class; for mnist and
    fashion_mnist a folder of IDX or npz files (null: Keras's cache)."""
    test_path: str | None = None
    """Separate test file for table and npz; null: `test_share` of the examples."""
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width in pixels to which a folder's images are resized; null: the first image's, reduced to at most
    128 pixels."""
    color: Literal["rgb", "grayscale"] = "rgb"
    """Colours of a folder's images."""
    stream: bool | None = None
    """Whether a folder's images are read from a temporary file while training, instead of kept in memory; null: where
    they would take more than a quarter of the memory."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of images during training."""
    target: str | tuple[str, ...] | None = None
    """Target column or columns of a table; null: the last column."""
    columns: dict[str, Kind] = Field(default={})
    """Kinds of columns of a table that are not to be inferred, `{"zip": "category"}`."""
    drop: tuple[str, ...] = ()
    """Columns of a table to leave out."""
    delimiter: str | None = None
    r"""Character between the cells of a table, `\s+` for spaces; null: found from the file's first lines."""
    decimal: Literal[".", ","] | None = None
    """Decimal mark of a table; null: found from the file's first lines."""
    thousands: str | None = None
    """Mark between thousands in the numbers of a table; null: found in each column."""
    encoding: str | None = None
    """Character encoding of a table; null: utf-8 or utf-16, else Windows's and ISO's for Western Europe."""
    header: bool | None = None
    """Whether a table's first line names its columns; null: found from the file's first lines."""
    missing_values: tuple[str, ...] = ()
    """Words for a missing value in a table, in addition to empty cells, `NA`, `NaN`, `null`, `?` and the like."""
    max_categories: int = Field(default=64, ge=4)
    """Features that the categories of a column become at most; of more categories, rare ones share features."""
    max_words: PositiveInt | None = None
    """Most frequent words of texts that become features; null: 200 of a table's column, 2,000 of a folder's texts."""
    group: str | None = None
    """Column of a table whose rows of equal value stay in one part (patients, customers); it is no feature."""
    time: str | None = None
    """Column of a table whose latest rows become the test part, and the latest of the rest the validation part."""
    split: str | None = None
    """Column of a table that says `train`, `validation` or `test` in each row; it is no feature."""
    scaling: Literal["none", "unit", "standardize"] | None = None
    """`unit` scales features to [0, 1], `standardize` to mean 0 and standard deviation 1 over the training part. null:
    `standardize` for tables, where one outlier would squeeze all other values together; `unit` for other data."""
    target_scaling: Literal["none", "standardize"] | None = None
    """`standardize` trains a regression on targets of mean 0 and standard deviation 1; the saved model predicts in the
    target's own units. null: `standardize` for tables, `none` for other data."""
    flatten: bool = True
    """Whether images become vectors; false keeps (height, width, channels) for convolutional layers."""
    one_hot: bool = False
    """Whether class labels are one-hot encoded; false keeps integers."""
    validation_share: Fraction = 0.1
    """Fraction of the training examples kept for validation, in [0, 1)."""
    test_share: Fraction = 0.2
    """Fraction of the examples kept for testing if the source has no test part, in [0, 1)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split into parts; separate from the run's seed, so that runs with other seeds use the same split."""

    @model_validator(mode="before")
    @classmethod
    def _name_of_path(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        name, path = value.get("name", "digits"), value.get("path")
        if name == "digits" and isinstance(path, str):
            suffix = PurePath(path).suffix
            name = {".npz": "npz", "": "images"}.get(suffix, "table")
        return {**value, "name": "table" if name == "csv" else name}

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _file_given(self) -> Self:
        if (given := [key for key in ("group", "time", "split") if getattr(self, key) is not None])[1:]:
            raise ValueError(f"one of group, time and split may be given, received {' and '.join(given)}")
        if self.name in ("table", "images", "texts", "npz") and self.path is None:
            raise ValueError(f"path must name the file when name is {self.name!r}, received null")
        return self

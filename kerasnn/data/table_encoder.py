"""The encoding of a table as a Keras layer."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.data.encoding import Raw, TableEncoding
from kerasnn.data.features import DAYS_A_SECOND, Column, circle
from kerasnn.data.values import Texts

_DATE = r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?"


@keras.saving.register_keras_serializable(package="kerasnn")
class TableEncoder(keras.layers.Layer):
    """Encodes the raw columns of a table, in TensorFlow, exactly as `TableEncoding` does for training.

    Args:
        encoding: the fields of a `TableEncoding`.

    Call arguments:
        inputs: a tensor `(batch,)` or `(batch, 1)` by column name: numbers and booleans as floats (NaN where they are
            missing); categories and texts as strings (empty where they are missing); dates as strings like
            `2026-11-26` or `2026-11-26T18:00:00`.

    Returns:
        Features, float32 `(batch, width)`.

    Reference: Keras's `StringLookup` and `TextVectorization`, which it is made of. `keras.utils.FeatureSpace` has no
    missing values and no dates.
    """

    def __init__(self, encoding: dict[str, Any], **options: Any) -> None:
        super().__init__(**{"dtype": "float32", **options})
        self.encoding = TableEncoding.model_validate(encoding)
        # Strings are beyond XLA.
        self.supports_jit = False
        self._lookups = {column.name: _lookup(column) for column in self.encoding.columns if column.levels}
        self.built = True

    def call(self, inputs: dict[str, Any]) -> Any:
        """The features of a batch of rows."""
        features = []
        for column in self.encoding.columns:
            values = tf.reshape(tf.convert_to_tensor(inputs[column.name]), [-1])
            match column.kind:
                case "number" | "boolean":
                    values = tf.cast(values, tf.float32)
                    missing = tf.math.is_nan(values)
                    features.append(_scaled(column, values, missing))
                case "date":
                    missing = ~tf.strings.regex_full_match(values, _DATE)
                    features += _dates(column, values, missing)
                case _:
                    missing = tf.equal(values, "")
                    if column.levels:
                        features.append(self._coded(column, values))
            if column.indicator:
                features.append(tf.cast(missing, tf.float32)[:, None])
        return tf.concat(features, axis=1)

    def _coded(self, column: Column, values: Any) -> Any:
        found = self._lookups[column.name](values)
        if column.kind == "text":
            # The first feature stands for all other words.
            return tf.cast(found, tf.float32)[:, 1:]
        places = tf.constant([-1, *column.places])
        return tf.one_hot(tf.gather(places, found), max(column.places) + 1, dtype=tf.float32)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the features of a batch."""
        return (None, *self.encoding.input_shape)

    def get_config(self) -> dict[str, Any]:
        """The encoding."""
        return {**super().get_config(), "encoding": self.encoding.model_dump(mode="json")}

    def tensors(self, raw: Raw) -> dict[str, np.ndarray]:
        """Raw values as arrays that Keras takes for the inputs."""
        arrays = {}
        for name, values in raw.items():
            if isinstance(values, Texts):
                arrays[name] = values.strings()
            elif values.dtype.kind == "M":
                written = np.datetime_as_string(values, unit="s").astype(object)
                arrays[name] = np.where(np.isnat(values), "", written).astype(object)
            else:
                arrays[name] = values.astype(np.float32)
        return arrays


def _lookup(column: Column) -> keras.layers.Layer:
    if column.kind == "text":
        return keras.layers.TextVectorization(vocabulary=list(column.levels), output_mode="multi_hot")
    return keras.layers.StringLookup(vocabulary=list(column.levels))


def _scaled(column: Column, values: Any, missing: Any) -> Any:
    """`(value - center) * factor`, as a column `(batch, 1)`."""
    values = tf.where(missing, column.fill, values)
    return ((values - column.center) * column.factor)[:, None]


def _dates(column: Column, texts: Any, missing: Any) -> list[Any]:
    """The scaled days since 1970 of dates, and their points on circles."""
    whole = tf.strings.join([tf.where(missing, "1970-01-01", texts), "T00:00:00"])
    year, month, day, hour, minute, second = (
        tf.strings.to_number(tf.strings.substr(whole, start, size), tf.int32)
        for start, size in ((0, 4), (5, 2), (8, 2), (11, 2), (14, 2), (17, 2))
    )
    days = _days_since_1970(year, month, day)
    fraction = tf.cast(hour * 3600 + minute * 60 + second, tf.float32) * DAYS_A_SECOND
    features = [_scaled(column, tf.cast(days, tf.float32) + fraction, missing)]
    positions = {"month": month - 1, "weekday": (days + 3) % 7, "hour": hour}
    for cycle in column.cycles:
        points = tf.gather(tf.constant(circle(cycle)), positions[cycle])
        features.append(tf.where(missing[:, None], 0.0, points))
    return features


def _days_since_1970(year: Any, month: Any, day: Any) -> Any:
    """Days between 1970-01-01 and a date of the Gregorian calendar.

    Reference: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    """
    year = tf.where(month <= 2, year - 1, year)
    era_year = year % 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = era_year * 365 + era_year // 4 - era_year // 100 + day_of_year
    return year // 400 * 146097 + day_of_era - 719468

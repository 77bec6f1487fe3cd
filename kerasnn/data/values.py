"""Values of a table's columns as numbers, dates or texts."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasnn.config.schema import short

if TYPE_CHECKING:
    import pandas as pd

MISSING_WORDS = frozenset(
    ("", "-", "--", "---", ".", "..", "*", "?", "missing", "unknown", "none", "na", "n.a.", "n/a")
)
"""Words, in lower case, that mean a missing value in a column of numbers or dates."""
PLAIN = " ."
"""The style of numbers without a mark between thousands and with a decimal point."""
STYLES = (PLAIN, ",.", ".,", " .", " ,", "'.")
"""Styles of written numbers, the mark between thousands and the decimal mark; ambiguous numbers have the first."""

_UNITS = re.compile(r"[$€£¥% ]")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_DAYS = (
    *("%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y"),
    *("%b %d %Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%b %Y", "%B %Y"),
)
DATE_FORMATS = ("ISO8601", *(day + time for day, time in itertools.product(_DAYS, _TIMES)))
"""Formats of dates; ambiguous dates have the first that fits the whole column."""
_LIKE_DATE = re.compile(
    r"\d{4}-\d\d\b.*|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b.*|[A-Za-z]{3,9} [\d, ]{3,}.*|\d+[- ][A-Za-z]{3,9}[- ]\d+.*"
)


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts of a column, each distinct one kept once.

    Args:
        codes: the position of each row's text in `distinct`, -1 where it is missing, `(rows,)`.
        distinct: the distinct texts, without white space around and within them.
    """

    codes: np.ndarray
    distinct: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray | slice) -> "Texts":
        """The texts of some rows."""
        return Texts(self.codes[rows], self.distinct)

    def strings(self) -> np.ndarray:
        """The text of each row, empty where it is missing."""
        return np.array([*self.distinct, ""], dtype=object)[self.codes]


def counted(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A frame whose index counts its rows from 0, so that a message names the right row after rows are left out."""
    import pandas as pd

    return frame.set_axis(pd.RangeIndex(len(frame)))


def as_texts(values: "pd.Series[Any]") -> Texts:
    """The values of a column as texts; a number that is whole is written without a decimal point.

    >>> import pandas as pd
    >>> as_texts(pd.Series([3.0, None, 3.5])).strings().tolist()
    ['3', '', '3.5']
    """
    import pandas as pd

    codes, distinct = pd.factorize(values, use_na_sentinel=True)
    texts = [_text(value) for value in pd.Index(distinct).tolist()]
    known = {text: position for position, text in enumerate(dict.fromkeys(texts))}
    if len(known) < len(texts) or "" in known:
        known.pop("", None)
        known = {text: position for position, text in enumerate(known)}
        codes = np.array([*(known.get(text, -1) for text in texts), -1])[codes]
    return Texts(codes.astype(np.int32), tuple(known))


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return " ".join(str(value).split())


def is_missing(text: str) -> bool:
    """Whether a text in a column of numbers or dates means a missing value."""
    return text.lower() in MISSING_WORDS


def style_of(texts: Sequence[str], thousands: str | None = None) -> str | None:
    """The first of `STYLES` in which all texts are numbers, or None.

    >>> style_of(["1,234.5", "12"]), style_of(["1.234,5", "12"]), style_of(["1_000"])
    (',.', '.,', None)
    """
    styles = STYLES if thousands is None else [f"{thousands}{',' if thousands == '.' else '.'}"]
    for style in styles:
        pattern = _pattern(style)
        if all(pattern.fullmatch(text) for text in texts):
            return style
    return None


def _pattern(style: str) -> re.Pattern[str]:
    thousands, decimal = re.escape(style[0]), re.escape(style[1])
    whole = r"\d+" if style == PLAIN else rf"(\d+|\d{{1,3}}({thousands}\d{{3}})+)"
    number = rf"({whole}({decimal}\d*)?|{decimal}\d+)([eE][-+]?\d{{1,4}})?"
    return re.compile(rf"[-+−]?([$€£¥] ?)?{number}( ?[%$€£¥])?", re.ASCII)


def as_floats(values: "pd.Series[Any]", name: str, style: str = PLAIN) -> np.ndarray:
    """The values of a column as float64, NaN where they are missing.

    Args:
        values: numbers, booleans or texts; the index counts the rows from 0.
        name: name of the column in the error message, with its table.
        style: style of numbers that are texts.

    Raises:
        ValueError: one line, with the first row whose value is neither a number nor missing, or is infinite.
    """
    import pandas as pd

    numeric = pd.api.types.is_numeric_dtype(values.dtype) and values.dtype.kind != "c"
    if numeric and not isinstance(values.dtype, pd.CategoricalDtype):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        texts = as_texts(values)
        parsed = np.array([*(_number(text, style) for text in texts.distinct), np.nan])
        wrong = [p for p, text in enumerate(texts.distinct) if np.isnan(parsed[p]) and not is_missing(text)]
        if wrong:
            row = int(np.isin(texts.codes, wrong).argmax())
            raise ValueError(
                f"{name} must hold numbers; row {values.index[row] + 1} has {short(texts.strings()[row], 40)}"
            )
        numbers = parsed[texts.codes]
    infinite = np.abs(numbers) > 1e38
    if infinite.any():
        row = int(infinite.argmax())
        raise ValueError(
            f"{name} must hold finite numbers up to 1e38; row {values.index[row] + 1} has {numbers[row]:g}"
        )
    return numbers


def _number(text: str, style: str) -> float:
    if _pattern(style).fullmatch(text):
        digits = _UNITS.sub("", text.replace(style[0], "").replace(style[1], ".").replace("−", "-"))
        return float(digits)
    return {"true": 1.0, "false": 0.0}.get(text.lower(), np.nan)


def date_format(texts: Sequence[str]) -> str | None:
    """The first of `DATE_FORMATS` in which all texts are dates, or None.

    >>> date_format(["2020-02-29", "2021-12-01"]), date_format(["31/12/2020"]), date_format(["3.14"])
    ('ISO8601', '%d/%m/%Y', None)
    """
    if not texts or not all(_LIKE_DATE.fullmatch(text) for text in texts):
        return None
    few = texts[:50]
    for each in DATE_FORMATS:
        if not np.isnat(_dates(few, each)).any() and not np.isnat(_dates(texts, each)).any():
            return each
    return None


def as_dates(values: "pd.Series[Any]", name: str, written: str = "ISO8601") -> np.ndarray:
    """The values of a column as datetime64 in seconds, NaT where they are missing.

    Args:
        values: dates or texts; the index counts the rows from 0.
        name: name of the column in the error message, with its table.
        written: format of dates that are texts.

    Raises:
        ValueError: one line, with the first row whose value is neither a date nor missing.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        dates = values.dt.tz_convert(None) if values.dt.tz is not None else values
        return dates.to_numpy(dtype="datetime64[s]")
    texts = as_texts(values)
    parsed = np.append(_dates(texts.distinct, written), np.datetime64("NaT", "s"))
    wrong = [p for p, text in enumerate(texts.distinct) if np.isnat(parsed[p]) and not is_missing(text)]
    if wrong:
        row = int(np.isin(texts.codes, wrong).argmax())
        received = f"row {values.index[row] + 1} has {short(texts.strings()[row], 40)}"
        raise ValueError(f"{name} must hold dates written as {written}; {received}")
    return parsed[texts.codes]


def _dates(texts: Sequence[str], written: str) -> np.ndarray:
    import pandas as pd

    dates = pd.to_datetime(list(texts), format=written, errors="coerce", utc=True)
    return dates.tz_localize(None).to_numpy(dtype="datetime64[s]")

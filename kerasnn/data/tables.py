"""Tables from files, read by pandas: csv and its relatives, compressed or not, parquet, feather and xlsx."""

import bz2
import csv
import gzip
import io
import itertools
import lzma
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from kerasnn.config.data import DataConfig
from kerasnn.config.schema import one_of, short
from kerasnn.files import check_size, existing_file, memory_size

if TYPE_CHECKING:
    import pandas as pd

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".data", ".dat", ".test")
BINARY_SUFFIXES = (".parquet", ".feather", ".xlsx")
COMPRESSIONS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open, ".zip": open}
UNNAMED = "Unnamed: "
"""How pandas begins the name of a column whose header is empty."""
MISSING_WORD = "?"
"""A missing value in many public tables that pandas does not know as one."""
SAMPLE = 2**16
"""Bytes at the beginning of a file from which its format is found."""

WITH_ZEROS = re.compile(r"\s*0\d+\s*")
"""Digits with zeros in front."""

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", r"\s+": "spaces"}
_NUMBER = re.compile(r"\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*")
_SINGLE_QUOTED = re.compile(r"\s*'[^']*'\s*[,;\t| ]\s*'[^']*'")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?(\d+|\d{1,3}(\.\d{3})+)?,(\d{1,2}|\d{4,})\s*")
_DECIMAL_POINT = re.compile(r"\s*[-+]?(\d+|\d{1,3}(,\d{3})+)?\.(\d{1,2}|\d{4,})\s*")


class Format(NamedTuple):
    """How the text of a table is laid out.

    Args:
        encoding: character encoding.
        delimiter: what stands between cells; `\\s+` is any number of spaces.
        decimal: the decimal mark.
        skip: lines before the header or the first row.
        names: column names; None: the first line that is not skipped has them.
        quote: what stands around cells that hold a delimiter.
        codes: columns of digits with zeros in front, as postal codes have, which stay text.
    """

    encoding: str
    delimiter: str
    decimal: str
    skip: int
    names: tuple[str, ...] | None
    quote: str = '"'
    codes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"delimiter {_DELIMITERS.get(self.delimiter, repr(self.delimiter))}", self.encoding]
        parts += ["decimal comma"] if self.decimal == "," else []
        parts += ["no header"] if self.names is not None else []
        parts += [f"{self.skip} lines skipped at its beginning"] if self.skip else []
        return ", ".join(parts)


def read_table(
    path: str | Path, config: DataConfig | None = None, codes: Sequence[str] = ()
) -> tuple["pd.DataFrame", str]:
    """Read a table without running code from its file.

    Args:
        path: a file whose name ends in one of `TEXT_SUFFIXES`, perhaps followed by one of `COMPRESSIONS`, or in one of
            `BINARY_SUFFIXES`.
        config: delimiter, decimal mark, encoding, header and words for missing values; null values are found from the
            file's first lines.
        codes: columns that are text, also where all their cells are digits.

    Returns:
        The table, with the text of its column names stripped, and the format that was found.

    Raises:
        ValueError: one line: no file, another kind of file, a damaged file, no rows, rows longer than the header, or
            content larger than the machine's memory.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     _ = file.write("height;kind\\n1,5;a\\n2,25;b\\n"), file.flush()
    ...     table, found = read_table(file.name)
    >>> table.height.tolist(), found
    ([1.5, 2.25], 'delimiter semicolon, utf-8, decimal comma')
    """
    config = DataConfig() if config is None else config
    file = existing_file(path)
    suffix = file.suffix.lower()
    inner = Path(file.stem).suffix.lower() if suffix in COMPRESSIONS else suffix
    if inner not in TEXT_SUFFIXES and (inner not in BINARY_SUFFIXES or suffix in COMPRESSIONS):
        choices = [*TEXT_SUFFIXES, *BINARY_SUFFIXES, *COMPRESSIONS]
        raise ValueError(one_of(f"the ending of table {file}", suffix, choices))
    check_size(file, file.stat().st_size)
    import pandas as pd

    expected = (OSError, EOFError, MemoryError, OverflowError, NotImplementedError, RuntimeError, ValueError, TypeError)
    damaged = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, csv.Error, KeyError, pd.errors.ParserWarning)
    try:
        frame, found = _read_binary(file, inner) if inner in BINARY_SUFFIXES else _read_text(file, config, codes)
    except ImportError as error:
        package = "openpyxl" if inner == ".xlsx" else "pyarrow"
        raise ValueError(f"{file} needs the package {package}: pip install 'kerasnn[tables]'") from error
    except _UnreadableError as error:
        raise ValueError(f"{file} {error}") from None
    except (*expected, *damaged) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{file} cannot be read as a table: {short(reason, 120)}") from None
    frame.columns = pd.Index([" ".join(str(name).split()) for name in frame.columns])
    if not len(frame):
        raise ValueError(f"{file} has a header and no rows")
    if len(set(frame.columns)) < len(frame.columns):
        name = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"{file} must name each column once; it has two columns {name!r}")
    return frame, found


class _UnreadableError(ValueError):
    """A fault of a file, in words that follow its name."""


def _read_binary(file: Path, suffix: str) -> tuple["pd.DataFrame", str]:
    import pandas as pd

    if suffix == ".parquet":
        import pyarrow.parquet

        content = pyarrow.parquet.ParquetFile(file).metadata
        check_size(file, sum(content.row_group(group).total_byte_size for group in range(content.num_row_groups)))
        frame = pd.read_parquet(file, engine="pyarrow")
    elif suffix == ".feather":
        frame = pd.read_feather(file)
    else:
        with zipfile.ZipFile(file) as archive:
            check_size(file, sum(member.file_size for member in archive.infolist()))
        frame = pd.read_excel(file, engine="openpyxl", na_values=[MISSING_WORD])
    if frame.index.name is not None or not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    return frame, suffix[1:]


def _read_text(file: Path, config: DataConfig, codes: Sequence[str]) -> tuple["pd.DataFrame", str]:
    found = sniff(file, config)
    encodings = [found.encoding] if config.encoding or found.encoding != "utf-8" else ["utf-8", "cp1252", "latin-1"]
    for encoding in encodings:
        found = found._replace(encoding=encoding)
        try:
            return _parse(file, found, config, codes), str(found)
        except UnicodeDecodeError:
            if encoding == encodings[-1]:
                raise
    raise AssertionError


def _parse(file: Path, found: Format, config: DataConfig, codes: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    options: dict[str, Any] = {"sep": found.delimiter, "decimal": found.decimal, "encoding": found.encoding}
    options |= {
        "quotechar": found.quote,
        "header": 0 if found.names is None else None,
        "names": found.names,
        "skiprows": found.skip,
    }
    with _opened(file) as stream, warnings.catch_warnings():
        # Pandas would cut off cells beyond the header; two types in a column are looked at later.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(
            stream,
            index_col=False,
            skipinitialspace=True,
            na_values=[MISSING_WORD, *config.missing_values],
            low_memory=False,
            dtype=dict.fromkeys((*found.codes, *codes), str),
            **options,
        )
    # A delimiter at the end of every line makes a last column without name and content.
    last = str(frame.columns[-1])
    if last.startswith(UNNAMED) and frame[frame.columns[-1]].isna().all():
        frame = frame.drop(columns=frame.columns[-1])
    if frame.shape[1] < 2:
        name = frame.columns[0] if len(frame.columns) else ""
        raise _UnreadableError(
            f"must have features and a target, in columns; its only column is {short(str(name))} (set data.delimiter)"
        )
    return frame


def sniff(file: Path, config: DataConfig) -> Format:
    """Find the format of a table's text from its first lines; what the config gives is taken as it is."""
    with _opened(file) as stream:
        sample = stream.read(SAMPLE)
    encoding = config.encoding or _encoding(sample)
    complete = len(sample) < SAMPLE
    try:
        lines = sample.decode(encoding, errors="replace").removeprefix("\ufeff").splitlines()
    except LookupError:
        raise _UnreadableError(
            f"needs another data.encoding, received {encoding!r}, which Python doesn't know"
        ) from None
    lines = lines if complete or len(lines) < 2 else lines[:-1]
    skip = 0
    while skip < len(lines) and (not lines[skip].strip() or lines[skip].lstrip().startswith("#")):
        skip += 1
    lines = [line for line in lines[skip:] if line.strip()][:200]
    if not lines:
        raise _UnreadableError("is empty")
    quote = "'" if _SINGLE_QUOTED.match(lines[0]) else '"'
    delimiter = config.delimiter or _delimiter(lines, quote)
    rows = _cells(lines, delimiter, quote)
    width = max((len(row) for row in rows[1:]), default=len(rows[0]))
    header = _has_header(rows) if config.header is None else config.header
    names: tuple[str, ...] | None = None
    if not header:
        names = tuple(f"column_{number}" for number in range(1, max(width, len(rows[0])) + 1))
    elif len(rows) > 1 and len(rows[0]) == width - 1 and all(len(row) == width for row in rows[1:]) and rows[1][-1]:
        # R writes row names without a header of their own.
        names, skip = (f"{UNNAMED}0", *rows[0]), skip + 1
    decimal = config.decimal or _decimal([cell for row in rows for cell in row], delimiter)
    codes = tuple(name for index, name in enumerate(names or rows[0]) if _is_code(rows[names is None :], index))
    return Format(encoding, delimiter, decimal, skip, names, quote, codes)


def _is_code(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Whether a column holds digits with zeros in front, which a number would lose."""
    return any(len(row) > column and WITH_ZEROS.fullmatch(row[column]) for row in rows)


def _encoding(sample: bytes) -> str:
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "utf-8-sig" if sample.startswith(b"\xef\xbb\xbf") else "utf-8"


def _cells(lines: Sequence[str], delimiter: str, quote: str) -> list[list[str]]:
    if delimiter == r"\s+":
        return [line.split() for line in lines]
    if len(delimiter) != 1:
        raise _UnreadableError(rf"needs a data.delimiter of one character or '\s+', received {delimiter!r}")
    return [row for row in csv.reader(lines, delimiter=delimiter, quotechar=quote, skipinitialspace=True) if row]


def _delimiter(lines: Sequence[str], quote: str) -> str:
    """The delimiter that gives most rows the same number of cells above one; of several, that with most cells."""
    best, score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        try:
            widths = [len(row) for row in _cells(lines[:50], delimiter, quote)]
        except csv.Error:
            continue
        common = max(set(widths), key=widths.count)
        found = (round(widths.count(common) / len(widths), 1), common)
        # Spaces also separate the words of a text.
        if common > 1 and found > score and (delimiter != r"\s+" or score[0] < 0.9):
            best, score = delimiter, found
    return best


def _decimal(cells: Sequence[str], delimiter: str) -> str:
    commas = sum(_DECIMAL_COMMA.fullmatch(cell) is not None for cell in cells)
    points = sum(_DECIMAL_POINT.fullmatch(cell) is not None for cell in cells)
    return "," if delimiter != "," and commas > points else "."


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row differs from the others: text above numbers, or numbers that rise evenly, such as years."""
    first, rest = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    numbers = [_NUMBER.fullmatch(cell) is not None for cell in first]
    if not any(numbers):
        return True
    below = [all(_NUMBER.fullmatch(row[i]) or not row[i] for row in rest) for i in range(len(first))]
    if any(numeric and not above for numeric, above in zip(below, numbers, strict=True) if rest):
        return True
    labels = [cell.strip() for cell, number in zip(first, numbers, strict=True) if number]
    if all(numbers) or len(labels) < 3 or not all(label.isdigit() for label in labels):
        return False
    steps = {int(b) - int(a) for a, b in itertools.pairwise(labels)}
    return len(steps) == 1 and min(steps) > 0


def _opened(file: Path) -> IO[bytes]:
    """A file's content, decompressed, that ends with an error where it exceeds the machine's memory."""
    suffix = file.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise _UnreadableError(f"must hold one file, received a zip archive of {len(members)}")
            check_size(file, members[0].file_size)
            raw: Any = archive.open(members[0])
    else:
        raw = COMPRESSIONS.get(suffix, open)(file, "rb")
    return cast(IO[bytes], io.BufferedReader(_Limited(raw, memory_size()), SAMPLE))


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than a number of bytes."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        super().__init__()
        self._stream, self._left, self._limit = stream, limit, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise _UnreadableError(f"unpacks to more than this machine's memory, {self._limit / 2**30:,.1f} GiB")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()

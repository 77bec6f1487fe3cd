"""Table files: what pandas reads of them, in which format, and what is refused."""

import bz2
import gzip
import lzma
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kerasnn.config.data import DataConfig
from kerasnn.data.loading import load_data
from kerasnn.data.tables import read_table

FLOWERS = """length, width, kind
1.0,2,setosa
2.5,3,virginica
1e1,4,setosa

-3,5,versicolor
"""


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read(tmp_path: Path, content: str | bytes, name: str = "a.csv", **fields: object):
    return read_table(write(tmp_path / name, content), DataConfig(name="arrays", **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (FLOWERS, "delimiter comma, utf-8"),
        ("\ufeff" + FLOWERS, "delimiter comma, utf-8-sig"),
        (FLOWERS.replace(",", ";"), "delimiter semicolon, utf-8"),
        (FLOWERS.replace(",", "\t"), "delimiter tab, utf-8"),
        (FLOWERS.replace(", ", " ").replace(",", "  "), "delimiter spaces, utf-8"),
        (FLOWERS.replace(",", ";").replace(".", ","), "delimiter semicolon, utf-8, decimal comma"),
        (FLOWERS.encode("utf-16"), "delimiter comma, utf-16"),
        ("# a comment, with a comma\n\n" + FLOWERS, "delimiter comma, utf-8, 2 lines skipped at its beginning"),
        (re.sub("(.)$", r"\1,", FLOWERS, flags=re.M), "delimiter comma, utf-8"),
    ],
)
def test_formats(tmp_path: Path, content: str | bytes, found: str) -> None:
    frame, layout = read(tmp_path, content)
    assert layout == found
    assert frame.columns.tolist() == ["length", "width", "kind"]
    assert frame.length.tolist() == [1, 2.5, 10, -3]
    assert frame.kind.tolist() == ["setosa", "virginica", "setosa", "versicolor"]


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_compressed(tmp_path: Path, suffix: str, compress) -> None:
    assert read(tmp_path, compress(FLOWERS.encode()), "a.csv" + suffix)[0].width.tolist() == [2, 3, 4, 5]


def test_zipped(tmp_path: Path) -> None:
    for count in (1, 2):
        with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
            for number in range(count):
                archive.writestr(f"{number}.csv", FLOWERS)
        if count == 1:
            assert read_table(tmp_path / "a.csv.zip")[0].width.tolist() == [2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"a.csv.zip must hold one file, received a zip archive of 2$"):
        read_table(tmp_path / "a.csv.zip")


def test_latin_1_is_read_where_utf_8_fails(tmp_path: Path) -> None:
    frame, layout = read(tmp_path, "a,b\n1,caf\u00e9\n".encode("latin-1"))
    assert (frame.b.tolist(), layout) == (["caf\u00e9"], "delimiter comma, cp1252")


@pytest.mark.parametrize(
    ("content", "columns", "rows"),
    [
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", ["column_1", "column_2", "column_3"], 2),
        ("country,1990,1991,1992\nFrance,1,2,3\n", ["country", "1990", "1991", "1992"], 1),
        (",a\n0,1\n1,5\n", ["Unnamed: 0", "a"], 2),
        ('"a","b"\n"1",2,3\n"2",4,5\n', ["Unnamed: 0", "a", "b"], 2),
    ],
)
def test_headers(tmp_path: Path, content: str, columns: list[str], rows: int) -> None:
    frame, _ = read(tmp_path, content)
    assert (frame.columns.tolist(), len(frame)) == (columns, rows)


def test_given_format(tmp_path: Path) -> None:
    frame, _ = read(
        tmp_path, "1!x\n2!none\n", delimiter="!", header=False, missing_values=["none"], encoding="ascii", decimal="."
    )
    assert frame.column_1.tolist() == [1, 2]
    assert frame.column_2.isna().tolist() == [False, True]


def test_numbers_are_read_exactly_and_literally(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=2000) * 10.0 ** np.arange(-100, 100, 0.1)
    frame, _ = read(tmp_path, "a,b\n" + "".join(f"{number!r},1\n" for number in numbers.tolist()))
    np.testing.assert_array_equal(frame.a, numbers)
    assert read(tmp_path, "a,b\n1_000,=1+1\n")[0].iloc[0].tolist() == ["1_000", "=1+1"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", " is empty"),
        ("a,b\n", " has a header and no rows"),
        ("a\n1\n2\n", " must have features and a target, in columns; its only column is 'a' (set data.delimiter)"),
        ("a,b\n1,2,3\n1,2\n", " cannot be read as a table: 'Length of header or names does not match length of data"),
        (
            "a,b\n1,2\n3,4,5\n",
            " cannot be read as a table: 'Error tokenizing data. C error: Expected 2 fields in line 3",
        ),
        ('a,b\n1,"x\n', " cannot be read as a table: 'Error tokenizing data. C error: EOF inside string"),
    ],
)
def test_refused_content(tmp_path: Path, content: str, line: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(ValueError, match="^" + re.escape(path + line)) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_refused_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "flowers.csv", FLOWERS)
    with pytest.raises(ValueError, match=r"^no file .*/flower.csv \(did you mean 'flowers.csv'\?\)$"):
        read_table(tmp_path / "flower.csv")
    with pytest.raises(ValueError, match=r"must be a file; received a folder$"):
        read_table(tmp_path)
    with pytest.raises(ValueError, match=r"^the ending of table .* must be one of .csv, .tsv, .* received '.pkl'$"):
        read_table(write(tmp_path / "a.pkl", b"x"))
    with pytest.raises(ValueError, match=r"cannot be read as a table: .*Compressed file ended before"):
        read_table(write(tmp_path / "a.csv.gz", gzip.compress(os.urandom(1000))[:-20]))
    bomb = write(tmp_path / "b.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 10**6))
    monkeypatch.setattr("kerasnn.data.tables.memory_size", lambda: 2**20)
    with pytest.raises(ValueError, match=r"unpacks to more than this machine's memory, 0.0 GiB"):
        read_table(bomb)


def test_clean_table_keeps_its_numbers(tmp_path: Path) -> None:
    train = "v,kind\n" + "".join(f"{value},{'ab'[value % 2]}\n" for value in range(20))
    config = {"name": "csv", "path": write(tmp_path / "train.csv", train), "validation_share": 0.2}
    data = load_data(DataConfig(**config, test_path=write(tmp_path / "test.csv", "kind,v\nb,19\nb,38\n")))
    assert (len(data.x_train), len(data.x_validation), data.class_names, data.task) == (16, 4, ("a", "b"), "binary")
    assert data.y_test.tolist() == [1, 1]
    column = data.preparation.columns[0]
    np.testing.assert_allclose(data.x_test[:, 0], (np.array([19, 38]) - column.center) * column.factor, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^target 'kind' of test.csv, row 1: label must be one of a, b; received 'c'"):
        load_data(DataConfig(**config, test_path=write(tmp_path / "test.csv", "v,kind\n19,c\n")))
    with pytest.raises(ValueError, match=r"^test.csv must have the training table's columns; it lacks 'v'"):
        load_data(DataConfig(**config, test_path=write(tmp_path / "test.csv", "w,kind\n19,a\n")))

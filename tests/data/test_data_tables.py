"""csv and npz files: what they become, and what is refused."""

import io
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kerasnn.config.sections import DataConfig
from kerasnn.data.loading import load_data, read_examples
from kerasnn.data.tables import read_csv, read_npz

FLOWERS = """length, width, kind
1.0,2,setosa
2.5,3,virginica
1e1,4,setosa

-3,5,versicolor
"""


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_csv_text_labels(tmp_path: Path) -> None:
    x, y, names, columns = read_csv(write(tmp_path / "a.csv", FLOWERS), "multiclass")
    assert x.tolist() == [[1, 2], [2.5, 3], [10, 4], [-3, 5]]
    assert y.tolist() == [0, 2, 0, 1]
    assert names == ("setosa", "versicolor", "virginica")
    assert columns == ("length", "width", "kind")


def test_csv_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read_csv(write(tmp_path / "a.csv", "\ufeff" + FLOWERS), "multiclass").columns == ("length", "width", "kind")


def test_csv_integer_labels_are_sorted_by_size(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", "k,v\n10,1\n9,2\n10.0,3\n-1,4\n"), "multiclass", target="k")
    assert table.class_names == ("-1", "9", "10")
    assert table.y.tolist() == [2, 1, 2, 0]
    assert table.x.tolist() == [[1], [2], [3], [4]]


def test_csv_targets_by_task(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '"a ""q""",b,c\r\n1,0,1\r\n2,1,1\r\n')
    assert read_csv(path, "binary", "b").class_names == ("0", "1")
    several = read_csv(path, "multilabel", ("c", "b"))
    assert several.class_names == ("c", "b")
    assert several.y.tolist() == [[1, 0], [1, 1]]
    assert several.columns == ('a "q"', "b", "c")
    number = read_csv(path, "regression")
    assert (number.y.tolist(), number.class_names) == ([[1], [1]], None)


@pytest.mark.parametrize(
    ("content", "task", "target", "line"),
    [
        ("", "multiclass", None, " is empty"),
        ("a,b\n", "multiclass", None, " has a header and no rows"),
        ("1,2\n3,4\n", "multiclass", None, " must start with a header of column names; its first line is ['1', '2']"),
        (
            "a;b\n1;2\n",
            "multiclass",
            None,
            " must have features and a target, separated by commas; its header is 'a;b'",
        ),
        ("a,,b\n", "multiclass", None, ": column 2 of the header has no name"),
        ("a,b,a\n", "multiclass", None, " has two columns 'a'"),
        ("a,b\n1,2,3\n", "multiclass", None, " line 2 has 3 cells; the header has 2"),
        ("a,b\n\n1,x\n2\n", "multiclass", None, " line 4 has 1 cells; the header has 2"),
        ("a,b\n1,x\nfoo,y\n", "multiclass", None, " line 3, column 'a' must be a number; received 'foo'"),
        ("a,b\n1,x\n,y\n", "multiclass", None, " line 3, column 'a' must be a number; received ''"),
        ("a,b\n1,x\nnan,y\n", "multiclass", None, " line 3, column 'a' must be a finite number; received nan"),
        ("a,b\n1,x\n2,-inf\n", "regression", None, " line 2, column 'b' must be a number; received 'x'"),
        ("a,b\n1,x\n2, \n", "multiclass", None, " column 'b' has no label in line 3; received ''"),
        ("a,b\n1,x\n2,NaN\n", "multiclass", None, " column 'b' has no label in line 3; received 'NaN'"),
        (
            "a,b\n1,1\n2,1.5\n",
            "multiclass",
            None,
            " column 'b' must hold integers or text to be classes; line 3 has '1.5'",
        ),
        (
            "a,b\n1,x\n2,y\n3,z\n",
            "binary",
            None,
            " column 'b' must hold two labels for task binary; it holds 3: 'x, y, z'",
        ),
        ("a,b\n1,\xff\n".encode("latin-1"), "multiclass", None, " cannot be read as csv: "),
        ('a,b\n1,"x\n', "multiclass", None, " cannot be read as csv: 'unexpected end of data'"),
        (
            "a,b\n1," + "x" * 200_000,
            "multiclass",
            None,
            " cannot be read as csv: 'field larger than field limit (131072)'",
        ),
        ("a,b\n1,2\n", "multilabel", ("a", "b"), " must have a feature beside its targets; all columns are targets"),
    ],
)
def test_refused_csv(tmp_path: Path, content: str | bytes, task: str, target: str | None, line: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(ValueError, match="^" + re.escape(path + line)) as caught:
        read_csv(path, task, target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (
            "widht",
            r"target column of .* must be one of length, width, kind; received 'widht' \(did you mean 'width'\?\)",
        ),
        (("kind", "width"), "target must be one column for task multiclass; received kind, width"),
        (("kind", "kind"), r"target must name each column once, at least one; received \('kind', 'kind'\)"),
        ((), r"target must name each column once, at least one; received \(\)"),
    ],
)
def test_refused_targets(tmp_path: Path, target: str | tuple[str, ...], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        read_csv(write(tmp_path / "a.csv", FLOWERS), "multiclass", target)


def test_refused_paths(tmp_path: Path) -> None:
    write(tmp_path / "flowers.csv", FLOWERS)
    with pytest.raises(ValueError, match=r"^no file .*/flower.csv \(did you mean 'flowers.csv'\?\)$"):
        read_csv(tmp_path / "flower.csv", "multiclass")
    with pytest.raises(ValueError, match=r"must be a file; received a folder$"):
        read_csv(tmp_path, "multiclass")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"must be a file; received a special file$"):
        read_npz(tmp_path / "pipe")


def test_csv_load_with_test_file(tmp_path: Path) -> None:
    train = "v,kind\n" + "".join(f"{value},{'ab'[value % 2]}\n" for value in range(20))
    config = {"name": "csv", "path": write(tmp_path / "train.csv", train), "validation_share": 0.2}
    data = load_data(DataConfig(**config, test_path=write(tmp_path / "test.csv", "v,kind\n19,b\n38,b\n")))
    assert (len(data.x_train), len(data.x_validation), data.class_names) == (16, 4, ("a", "b"))
    assert data.y_test.tolist() == [1, 1]
    low, high = data.preparation.center[0], 1 / data.preparation.factor[0]
    np.testing.assert_allclose(data.x_test[:, 0], [(19 - low) / high, (38 - low) / high], rtol=1e-6)
    with pytest.raises(ValueError, match=r"test.csv column 'kind' line 2: label must be one of a, b; received 'c'"):
        load_data(DataConfig(**config, test_path=write(tmp_path / "test.csv", "v,kind\n19,c\n")))
    with pytest.raises(
        ValueError, match=r"test.csv must have the columns of .*train.csv, 'v, kind'; received 'w, kind'"
    ):
        load_data(DataConfig(**config, test_path=write(tmp_path / "test.csv", "w,kind\n19,a\n")))


def savez(path: Path, **arrays: object) -> str:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return str(path)


X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2


def test_npz_parts(tmp_path: Path) -> None:
    data = load_data(DataConfig(name="npz", path=savez(tmp_path / "a.npz", x=X, y=Y, class_names=["no", "yes"])))
    assert (len(data.x_train), len(data.x_validation), len(data.x_test)) == (14, 2, 4)
    assert data.class_names == ("no", "yes")
    own = savez(
        tmp_path / "b.npz", x_train=X, y_train=Y, x_test=X[:3], y_test=Y[:3], x_validation=X[:1], y_validation=[1]
    )
    data = load_data(DataConfig(name="npz", path=own, scaling="none"))
    np.testing.assert_array_equal(data.x_train, X)
    assert data.x_validation.tolist() == [[0, 1]]
    assert data.y_validation.tolist() == [1]
    only = savez(tmp_path / "c.npz", x_train=X, y_train=Y)
    data = load_data(DataConfig(name="npz", path=only, test_path=savez(tmp_path / "d.npz", x=X[:5], y=Y[:5])))
    assert (len(data.x_train), len(data.x_validation), len(data.x_test)) == (18, 2, 5)


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"x": X}, "must hold x and y, or x_train and y_train; y_train is missing"),
        ({"x": X, "y": Y, "x_train": X}, "must hold x or x_train; it has both"),
        ({"x": X, "Y": Y}, "key must be one of x, y, x_train"),
        ({"x": X, "y": Y, "x_tset": X}, "received 'x_tset' (did you mean 'x_test'?)"),
        ({"x": X, "y": Y, "x_test": X}, "x_test and y_test belong together; y_test is missing"),
        ({"x": X, "y": Y, "class_names": [1, 2]}, "class_names must be text; received dtype int64"),
        ({"x": X.astype(str), "y": Y}, "x_train must be an array of numbers; received dtype <U32 (first value"),
    ],
)
def test_refused_npz_content(tmp_path: Path, arrays: dict[str, object], line: str) -> None:
    path = savez(tmp_path / "a.npz", **arrays)
    with pytest.raises((ValueError, TypeError), match=re.escape(line)) as caught:
        load_data(DataConfig(name="npz", path=path))
    assert "\n" not in str(caught.value)


def npz_of(path: Path, npy: bytes, member: str = "x.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, npy)
    return path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def empty_text() -> bytes:
    """A header that declares billions of texts of no bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<U0", "fortran_order": False, "shape": (9999999999,)})
    return stream.getvalue()


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_hostile_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npz"
    pickled = npy(np.array([Bomb()], dtype=object))
    huge = npy(np.zeros(3)).replace(b"(3,), }         ", b"(9999999999,), }")
    assert b"9999999999" in huge
    hostile = {
        "holds pickled Python objects, which can run code; save numbers": npz_of(path, pickled).read_bytes(),
        "'x.npy' is not a plain numpy array": npz_of(path, pickle.dumps(Bomb())).read_bytes(),
        "declares (9999999999,) of float64, but holds 24 bytes": npz_of(path, huge).read_bytes(),
        "key must be one of x, y,": npz_of(path, npy(X), "../../x.npy").read_bytes(),
        "cannot be read as npz: 'File is not a zip file'": pickle.dumps(Bomb()),
        "declares (9999999999,) of <U0, but holds 0 bytes": npz_of(path, empty_text(), "class_names.npy").read_bytes(),
        "cannot be read as npz: ": npz_of(path, npy(X)).read_bytes()[:-30],
    }
    for line, content in hostile.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(line)) as caught:
            read_npz(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = npz_of(tmp_path / "a.npz", npy(X))
    content = bytearray(path.read_bytes())
    # The central directory's uncompressed size, 24 bytes after its signature.
    position = content.rindex(b"PK\x01\x02") + 24
    content[position : position + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read as npz|holds \d+ bytes|declares 4.0 GiB"):
        read_npz(path)


def test_declared_size_is_held_against_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kerasnn.files.memory_size", lambda: 2**20)
    path = savez(tmp_path / "a.npz", x=np.zeros((2**18, 1)), y=Y)
    with pytest.raises(ValueError, match=r"a.npz declares 0.0 GiB of content; this machine has 0.0 GiB of memory"):
        read_npz(path)


@pytest.mark.parametrize("offset", [14, 15, 16, 17])
def test_wrong_checksum_of_a_compressed_member_is_noticed(tmp_path: Path, offset: int) -> None:
    content = bytearray(npz_of(tmp_path / "a.npz", npy(X)).read_bytes())
    content[content.rindex(b"PK\x01\x02") + offset + 2] ^= 1
    with pytest.raises(ValueError, match=r"Bad CRC-32"):
        read_npz(write(tmp_path / "a.npz", bytes(content)))


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((50, 4)))
    content = path.read_bytes()
    start = content.index(b"NUMPY")
    for offset in range(start + 200, start + 1500, 100):
        broken = bytearray(content)
        broken[offset] ^= 1
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="Bad CRC-32"):
            read_npz(path)


def test_read_examples(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", FLOWERS)
    x, y = read_examples(path, class_names=("virginica", "setosa", "versicolor"))
    assert x.tolist() == [[1, 2], [2.5, 3], [10, 4], [-3, 5]]
    assert (y.tolist(), y.dtype) == ([1, 0, 1, 2], np.int32)
    x, y = read_examples(savez(tmp_path / "a.npz", x=X, y=Y), "binary")
    np.testing.assert_array_equal(x, X)
    assert y.dtype == np.float32
    with pytest.raises(ValueError, match=r"^data file must end in .csv or .npz; received 'a.pkl'"):
        read_examples("a.pkl")
    with pytest.raises(ValueError, match=r"label must be one of a, b; received 'setosa'"):
        read_examples(path, class_names=("a", "b"))

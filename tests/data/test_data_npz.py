"""npz files: what they become, and what is refused."""

import io
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kerasnn.config.data import DataConfig
from kerasnn.data.loading import load_data, read_examples
from kerasnn.data.npz import read_npz


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
    (tmp_path / "a.npz").write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"Bad CRC-32"):
        read_npz(tmp_path / "a.npz")


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
    x, y = read_examples(savez(tmp_path / "a.npz", x=X, y=Y), "binary")
    np.testing.assert_array_equal(x, X)
    assert y.dtype == np.float32
    with pytest.raises(ValueError, match=r"^data file must end in .npz .* received 'a.pkl'"):
        read_examples("a.pkl")


def test_huge_shape_is_one_line(tmp_path: Path) -> None:
    content = npy(np.zeros((0, 3))).replace(b"(0, 3), }" + b" " * 20, b"(0, 99999999999999999999), }"[:29].ljust(29))
    with pytest.raises(ValueError, match=r"declares|is not a plain numpy array"):
        read_npz(npz_of(tmp_path / "a.npz", content))

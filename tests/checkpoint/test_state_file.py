"""State files: whole or known not to be, and data only."""

import errno
import hashlib
import json
import os
import resource
import struct

import ml_dtypes
import numpy as np
import pytest

from kerasnn.checkpoint.state_file import MAGIC, DamagedStateError, StateFolder, decode, encode


def tree(number=1):
    return {
        "epoch": number,
        "step": 0,
        "numbers": [np.full(5, number, np.float32), {"deep": np.array(number, np.int64)}],
        "best": float("inf"),
        "name": "ä",
        "none": None,
    }


def test_what_is_written_is_read():
    written = {
        **{name: np.arange(6).reshape(2, 3).astype(name) for name in ("bool", "int8", "uint64", "float16", "float64")},
        "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float32(0.1),
        "nested": [1, [2.5, None], {"a": True, "b": "text"}],
        "nan": np.array([np.nan, -0.0]),
    }
    read = decode(b"".join(encode(written)))
    for name, value in written.items():
        if isinstance(value, np.ndarray):
            assert read[name].dtype == value.dtype
            assert read[name].shape == value.shape
            assert read[name].tobytes() == value.tobytes()
    assert read["nested"] == written["nested"]
    assert read["scalar"] == float(np.float32(0.1))


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (object(), "state.a must be made of JSON values and numpy arrays, received <object"),
        (np.array(["text"]), "state.a must be made of JSON values"),
        ({1: 2}, "state.a must have strings for keys, received 1"),
        ({"b": [{3}]}, r"state.a.b.0 must be made of JSON values and numpy arrays, received \{3\}"),
    ],
)
def test_only_data_is_written(value, line):
    with pytest.raises(TypeError, match=line):
        encode({"a": value})


def test_no_bit_can_change_and_no_byte_be_missing():
    content = b"".join(encode(tree()))
    for at in range(len(content)):
        with pytest.raises(DamagedStateError):
            decode(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(DamagedStateError):
            decode(content[:at])
    with pytest.raises(DamagedStateError):
        decode(content + b"\0")


def forged(described, data=b""):
    """A file with a right checksum and whatever else."""
    text = described if isinstance(described, bytes) else json.dumps(described).encode()
    rest = struct.pack("<QQ", len(text), len(data)) + text + data
    return MAGIC + hashlib.sha256(rest).digest() + rest


@pytest.mark.parametrize(
    "described",
    [
        {"tree": {}, "arrays": [["object", [1]]]},
        {"tree": {}, "arrays": [["float32", [2**60]]]},
        {"tree": {}, "arrays": [["float32", [2**40, 2**40]]]},
        {"tree": {}, "arrays": [["float32", [-1]]]},
        {"tree": {}, "arrays": [["float32", ["1"]]]},
        {"tree": {"__array__": 7}, "arrays": []},
        {"tree": [], "arrays": []},
        {"arrays": []},
        [],
        b"[" * 100_000,
        b"no json",
        b"\xff\xfe",
    ],
    ids=str,
)
def test_hostile_files_are_refused(described):
    with pytest.raises(DamagedStateError, match="not a state"):
        decode(forged(described))


def test_the_last_ones_are_kept(tmp_path):
    folder = StateFolder(tmp_path / "new" / "state", keep=3)
    assert folder.newest() is None
    for number in range(1, 6):
        folder.write(tree(number))
    assert [path.name for path in folder.files()] == [f"00000{number}-00000000.state" for number in (3, 4, 5)]
    assert folder.newest()["epoch"] == folder.epochs == 5
    with pytest.raises(ValueError, match="keep must be at least 1, received 0"):
        StateFolder(tmp_path, keep=0)


def test_a_damaged_state_is_set_aside_and_the_one_before_used(tmp_path, caplog):
    folder = StateFolder(tmp_path)
    folder.write(tree(1))
    folder.write(tree(2))
    newest = folder.files()[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert folder.newest()["epoch"] == 1
    assert "000002-00000000.state is damaged" in caplog.text
    assert "the state before it is used" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"000001-00000000.state", "000002-00000000.damaged"}


def test_a_link_is_no_state(tmp_path):
    outside = StateFolder(tmp_path / "outside")
    outside.write(tree(1))
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "000001-00000000.state").symlink_to(outside.files()[0])
    assert StateFolder(folder).newest() is None


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_full_disk_leaves_the_state_before(tmp_path, monkeypatch):
    folder = StateFolder(tmp_path)
    folder.write(tree(1))
    before = contents(tmp_path)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"the state can't be saved, the one before is kept \(No space left on device\)"):
        folder.write(tree(2))
    assert contents(tmp_path) == before


def test_a_file_size_limit_leaves_the_state_before(tmp_path):
    folder = StateFolder(tmp_path)
    folder.write(tree(1))
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"the one before is kept \(File too large\)"):
            folder.write({**tree(2), "large": np.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before


def test_a_folder_that_can_not_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="the state can't be saved") as error:
        StateFolder(tmp_path / "file" / "state").write(tree())
    assert "\n" not in str(error.value)

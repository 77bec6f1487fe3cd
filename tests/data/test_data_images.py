"""IDX files, and where MNIST and Fashion-MNIST are looked for."""

import gzip
import re
import socket
import struct
from pathlib import Path

import keras
import numpy as np
import pytest

from kerasnn import files
from kerasnn.config.sections import DataConfig
from kerasnn.data import images
from kerasnn.data.images import DEBIAN_FOLDER, IDX_FILES, read_idx, read_images
from kerasnn.data.loading import load_data

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "x_train": RANDOM.integers(0, 256, (40, 28, 28), np.uint8),
    "y_train": np.arange(40, dtype=np.uint8) % 10,
    "x_test": RANDOM.integers(0, 256, (20, 28, 28), np.uint8),
    "y_test": np.arange(20, dtype=np.uint8) % 10,
}


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_folder(folder: Path, suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for key, stem in IDX_FILES.items():
        content = idx(ARRAYS[key])
        (folder / f"{stem}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


def assert_equal(found: dict[str, np.ndarray]) -> None:
    assert list(found) == list(ARRAYS)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(found[key], array)


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Keras cache, no Debian package, no network."""

    def no_network() -> None:
        raise Exception("URL fetch failure on https://example.org: None -- [Errno -2] Name or service not known")

    home = tmp_path / "keras"
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setattr(images, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", no_network)
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", no_network)
    return home / "datasets"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_folder_of_idx_files(tmp_path: Path, suffix: str) -> None:
    assert_equal(read_images("mnist", str(write_folder(tmp_path / "idx", suffix))))


@pytest.mark.parametrize("given", ["", "fashion-mnist.npz"])
def test_npz_file(tmp_path: Path, given: str) -> None:
    np.savez_compressed(tmp_path / "fashion-mnist.npz", **ARRAYS)
    assert_equal(read_images("fashion_mnist", str(tmp_path / given)))


def test_keras_cache_then_debian(no_cache: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "debian", ".gz")
    assert_equal(read_images("fashion_mnist"))
    write_folder(no_cache / "fashion-mnist", ".gz")
    (tmp_path / "debian" / IDX_FILES["x_train"]).write_bytes(b"not read")
    assert_equal(read_images("fashion_mnist"))
    no_cache.mkdir(exist_ok=True)
    np.savez(no_cache / "mnist.npz", **ARRAYS)
    assert_equal(read_images("mnist"))


def test_download_is_the_last_resort(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download() -> object:
        assert socket.getdefaulttimeout() == images.TIMEOUT
        return (ARRAYS["x_train"], ARRAYS["y_train"]), (ARRAYS["x_test"], ARRAYS["y_test"])

    monkeypatch.setattr(keras.datasets.mnist, "load_data", download)
    assert_equal(read_images("mnist"))
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_no_files_and_no_network(no_cache: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is not on this machine and could not be downloaded") as caught:
        read_images(name)
    line = str(caught.value)
    assert "\n" not in line
    assert "Name or service not known" in line
    assert f"put {name}.npz, or train-images-idx3-ubyte" in line
    assert f"into {no_cache}" in line
    assert ("Debian's dataset-fashion-mnist" in line) == (name == "fashion_mnist")


def test_loaded(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path / "idx"))
    data = load_data(DataConfig(name="fashion_mnist", path=folder, validation_share=0.25))
    assert (data.x_train.shape, data.x_validation.shape, data.x_test.shape) == ((30, 784), (10, 784), (20, 784))
    assert (data.x_train.dtype, data.y_train.dtype) == (np.float32, np.int32)
    assert (data.outputs, data.class_names[9], data.image_shape) == (10, "Ankle boot", (28, 28))
    np.testing.assert_allclose(data.x_test, ARRAYS["x_test"].reshape(20, 784) / 255, atol=1e-7)
    np.testing.assert_array_equal(data.y_test, ARRAYS["y_test"])


@pytest.mark.skipif(not DEBIAN_FOLDER.exists(), reason="needs Debian's dataset-fashion-mnist")
def test_real_fashion_mnist(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "DEBIAN_FOLDER", DEBIAN_FOLDER)
    arrays = read_images("fashion_mnist")
    assert [array.shape for array in arrays.values()] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    assert np.bincount(arrays["y_train"]).tolist() == [6000] * 10
    assert arrays["y_train"][:5].tolist() == [9, 0, 0, 3, 0]
    assert arrays["x_train"].mean() == pytest.approx(72.9404, abs=1e-4)


GOOD = idx(ARRAYS["x_test"])


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (
            "a",
            b"",
            "must be an IDX file of unsigned bytes with 3 dimensions, which starts with 00000803; it starts with no",
        ),
        (
            "a",
            idx(ARRAYS["y_test"]),
            "must be an IDX file of unsigned bytes with 3 dimensions, which starts with 00000803",
        ),
        ("a", b"\x00\x00\x0d\x03" + GOOD[4:], "must be an IDX file of unsigned bytes with 3 dimensions"),
        (
            "a",
            b"<!DOCTYPE html>",
            "must be an IDX file of unsigned bytes with 3 dimensions, which starts with 00000803; it",
        ),
        ("a", GOOD[:10], "is truncated: it ends within its header"),
        ("a", GOOD[:-1], "must hold 15680 bytes for its shape (20, 28, 28); it ends after 15679"),
        ("a", GOOD + b"\x00", "must hold 15680 bytes for its shape (20, 28, 28); more follow"),
        ("a", GOOD[:4] + b"\xff" * 12, "declares "),
        ("a.gz", GOOD, "cannot be read: 'Not a gzipped file (b'"),
        ("a.gz", gzip.compress(GOOD)[:-20], "cannot be read: 'Compressed file ended before the end-of-stream marker"),
        ("a.gz", gzip.compress(GOOD)[:-8] + b"\x00" * 8, "cannot be read: 'CRC check failed"),
        (
            "a.gz",
            gzip.compress(GOOD[:16] + bytes(10**6)),
            "must hold 15680 bytes for its shape (20, 28, 28); more follow",
        ),
    ],
)
def test_refused_idx(tmp_path: Path, name: str, content: bytes, line: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ValueError, match="^" + re.escape(f"{tmp_path / name} {line}").replace("'Not", ".Not")
    ) as caught:
        read_idx(tmp_path / name, 3)
    assert "\n" not in str(caught.value)


def test_flipped_byte_in_gzip(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(GOOD))
    content[len(content) // 2] ^= 1
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read|must hold"):
        read_idx(tmp_path / "a.gz", 3)


def test_refused_folders(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty has no data of mnist; it needs mnist.npz, or train-images-idx3-ubyte"):
        read_images("mnist", str(empty))
    with pytest.raises(ValueError, match=r"no file .*/emtpy \(did you mean 'empty'\?\)"):
        read_images("mnist", str(tmp_path / "emtpy"))
    folder = write_folder(tmp_path / "idx")
    (folder / IDX_FILES["y_test"]).unlink()
    with pytest.raises(ValueError, match=r"idx lacks t10k-labels-idx1-ubyte \(or the same with .gz\)"):
        read_images("mnist", str(folder))
    np.savez(tmp_path / "half.npz", x_train=ARRAYS["x_train"], y_train=ARRAYS["y_train"])
    with pytest.raises(ValueError, match=r"half.npz lacks x_test, y_test; it needs x_train, y_train, x_test, y_test"):
        read_images("mnist", str(tmp_path / "half.npz"))


def test_labels_of_other_files_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "idx")
    (folder / IDX_FILES["y_train"]).write_bytes(idx(ARRAYS["y_test"]))
    with pytest.raises(ValueError, match="x_train has 40 examples and y_train has 20"):
        load_data(DataConfig(name="mnist", path=str(folder)))
    (folder / IDX_FILES["y_train"]).write_bytes(idx(ARRAYS["y_train"] + 5))
    with pytest.raises(ValueError, match="y_train must hold labels 0 to 9 for 10 classes"):
        load_data(DataConfig(name="mnist", path=str(folder)))


def test_memory_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(files.os, "sysconf")
    assert files.memory_size() == 16 * 2**30

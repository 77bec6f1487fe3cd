"""Mutated files: each must be refused in one line, or read as it stands; checksummed ones never with other content."""

import gzip
import io
import random
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.chaos.score import Score
from kerasnn.checkpoint.state_file import StateFolder, decode, encode
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import DataConfig
from kerasnn.data.images import read_idx
from kerasnn.data.loading import load_data
from kerasnn.models.loading import load_model
from kerasnn.search.journal import Journal, read_journal
from kerasnn.search.proposers import LIBRARIES

LONGEST_LINE = 600
"""Maximum length of an error message in characters."""
_TOKENS = (
    *(b"1_000", b"1e999", b"-1", b"NaN", b"Infinity", b"99999999999999999999", b"0x10", b"true", b"null"),
    *(b"", b'"', b"'", b"{", b"[" * 5000, b"\0", b"\n", b"\r\n", b",", b";", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b"=cmd|' /C calc'!A0", b"../../etc/passwd", b"__array__", b"A" * 100_000, "\u202e\u00b2\u0665".encode()),
)


@dataclass(frozen=True)
class FileFormat:
    """A kind of file that kerasnn reads.

    Args:
        name: the kind's name.
        file: the file's name.
        content: bytes of a good file.
        read: reads a file, and returns what it holds as text.
        checksummed: whether a file that was changed must not be read with other content.
    """

    name: str
    file: str
    content: bytes
    read: Callable[[Path], str]
    checksummed: bool = False


def formats() -> dict[str, FileFormat]:
    """The kinds of files by name, each with a good file."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.savez_compressed(folder / "x.npz", x=np.arange(12.0).reshape(6, 2), y=np.arange(6) % 2)
        with Journal(folder / "journal.jsonl") as journal:
            journal.append([{"search": {"trials": 4}, "data": "digits", "keras_tuner": "1.4.8"}])
            for number in range(4):
                journal.append([{"proposal": number, "values": {"optimizer.learning_rate": 0.5**number}}])
                journal.append([{"result": number, "score": 0.25 * number, "left": 0}])
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
        model.save(folder / "model.keras")
        written = {path.name: path.read_bytes() for path in folder.iterdir()}
    images = bytes((0, 0, 8, 3)) + np.array([4, 2, 3], ">u4").tobytes() + bytes(range(24))
    rows = "\n".join(f"{0.5 * row},{row},{'ab'[row % 2]}" for row in range(12))
    state = b"".join(encode({"epoch": 3, "step": 0, "weights": [np.arange(6.0)], "history": {"loss": [0.5, 0.25]}}))
    kinds = [
        FileFormat(
            "config", "config.json", RunConfig().to_json().encode(), lambda path: RunConfig.load(path).to_json()
        ),
        FileFormat("csv", "x.csv", f"size,count,kind\n{rows}\n".encode(), _read_csv),
        FileFormat("npz", "x.npz", written["x.npz"], _read_npz, checksummed=True),
        FileFormat("idx", "x-idx3-ubyte", images, _read_idx),
        FileFormat("gzipped idx", "x-idx3-ubyte.gz", gzip.compress(images), _read_idx, checksummed=True),
        FileFormat("state", "000003-00000000.state", state, _read_state, checksummed=True),
        FileFormat("newest state", "000003-00000000.state", state, _read_newest, checksummed=True),
        FileFormat("journal", "journal.jsonl", written["journal.jsonl"], _read_journal, checksummed=True),
        FileFormat("model", "model.keras", written["model.keras"], _read_model, checksummed=True),
    ]
    with zipfile.ZipFile(io.BytesIO(written["model.keras"])) as archive:
        architecture, weights = archive.read("config.json"), archive.read("model.weights.h5")
    kinds.append(FileFormat("model's architecture", "config.json", architecture, partial(_read_architecture, weights)))
    return {kind.name: kind for kind in kinds}


def fuzz(fuzzed: FileFormat, times: int, folder: Path, draw: random.Random) -> tuple[Score, list[str]]:
    """Mutate a good file again and again, and read it.

    Args:
        fuzzed: the kind of file.
        times: number of mutations.
        folder: a folder to work in.
        draw: random numbers.

    Returns:
        The score, and a line for each fault.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / fuzzed.file
    path.write_bytes(fuzzed.content)
    good = fuzzed.read(path)
    score, faults = Score(), list[str]()
    for number in range(times):
        mutated = mutate(fuzzed.content, draw)
        path.write_bytes(mutated)
        score.injected += 1
        if (fault := _fault(fuzzed, path, good)) is None:
            score.survived += 1
        else:
            kept = folder / f"{number}-{fuzzed.file}"
            kept.write_bytes(mutated)
            faults.append(f"{kept}: {fault}")
    return score, faults


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to three random changes: bytes, spans, lines, hostile tokens, or the end."""
    mutated = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        start = draw.randrange(len(mutated) + 1)
        end = min(len(mutated), start + draw.choice([1, 2, 8, 64]))
        match draw.randrange(7):
            case 0:
                mutated[start:end] = draw.randbytes(end - start)
            case 1:
                del mutated[start:end]
            case 2:
                mutated[start:start] = mutated[end:] if draw.random() < 0.2 else mutated[start:end]
            case 3:
                del mutated[start:]
            case 4:
                mutated[start:end] = draw.choice(_TOKENS)
            case 5:
                if mutated:
                    mutated[draw.randrange(len(mutated))] ^= 1 << draw.randrange(8)
            case 6:
                lines = mutated.splitlines(keepends=True)
                draw.shuffle(lines)
                mutated = bytearray(b"".join(lines[: draw.randrange(len(lines) + 1)]))
    return bytes(mutated)


def _fault(fuzzed: FileFormat, path: Path, good: str) -> str | None:
    """What is wrong with how a file is read; None for nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = fuzzed.read(path)
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        line = str(error)
        if "\n" in line or not line or len(line) > LONGEST_LINE:
            return f"{type(error).__name__} of {len(line)} characters: {line[:200]!r}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    if fuzzed.checksummed and found != good and not _is_cut_short(fuzzed, found, good):
        return f"read with other content: {found[:200]}"
    return None


def _is_cut_short(fuzzed: FileFormat, found: str, good: str) -> bool:
    """Whether a journal lost only its last lines, as a kill would leave it."""
    return fuzzed.file.endswith(".jsonl") and good.startswith(found.removesuffix("]"))


def _read_config(path: Path) -> str:
    return RunConfig.load(path).to_json()


def _read_csv(path: Path) -> str:
    data = load_data(DataConfig(name="csv", path=str(path)), "multiclass")
    return _text({"x": data.x_train, "y": data.y_train})


def _read_npz(path: Path) -> str:
    data = load_data(DataConfig(name="npz", path=str(path)), "multiclass")
    return _text({"x": data.x_train, "y": data.y_train})


def _read_idx(path: Path) -> str:
    return _text({"x": read_idx(path, 3)})


def _read_state(path: Path) -> str:
    return repr(decode(path.read_bytes()))


def _read_newest(path: Path) -> str:
    newest = StateFolder(path.parent).newest()
    if newest is None:
        raise ValueError("no undamaged state")
    return repr(newest)


def _read_journal(path: Path) -> str:
    entries = read_journal(path)
    # A search refuses a journal that begins otherwise.
    if entries and entries[0].keys() not in [{"search", "data", library} for library in LIBRARIES]:
        raise ValueError("not the journal of a search")
    return repr(entries)


def _read_model(path: Path) -> str:
    return _text({str(number): weights for number, weights in enumerate(load_model(path).get_weights())})


def _read_architecture(weights: bytes, path: Path) -> str:
    packed = path.with_name("packed.keras")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("config.json", path.read_bytes())
        archive.writestr("model.weights.h5", weights)
    return _read_model(packed)


def _text(arrays: Mapping[str, Any]) -> str:
    return repr({name: (array.dtype.name, array.tolist()) for name, array in sorted(arrays.items())})

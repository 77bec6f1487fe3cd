"""Loading of models from untrusted files without running code from the file."""

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

from kerasnn.config.description import parse_json
from kerasnn.config.schema import one_of, short
from kerasnn.files import check_size, existing_file
from kerasnn.keras_private import global_state

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
LARGEST_CONFIG = 2**26
"""Maximum size of the architecture in bytes."""
LONGEST_SEQUENTIAL, MOST_LAYERS = 250, 5000
"""Maximum number of layers in a Sequential model, which Keras builds anew with each of its layers, and in all."""

# When created or called they run code from the file, or load another file that it names.
_RUN_CODE = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "__lambda__", "__typespec__")


def load_model(path: str | Path) -> keras.Model:
    """Load a `.keras` file without running code from it.

    Checks before Keras reads the file: it contains an architecture and weights and nothing else; every class belongs to
    Keras or kerasnn or is registered by this program, and none runs code from the file; the weights are stored in the
    file and occupy as many bytes there as in memory.

    Args:
        path: the file.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: one line, if the file is missing, is damaged or fails a check.

    Reference: `keras.saving.load_model(safe_mode=True)`, which allows more.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "model.keras"
    >>> keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(file)
    >>> load_model(file).count_params()
    3
    """
    file = existing_file(path)
    if file.suffix != ".keras":
        raise ValueError(f"model file must end in .keras, received {file}")
    try:
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, file)
            config = parse_json(archive.read(members[CONFIG]).decode())
            weights = archive.read(members[WEIGHTS])
        _check_classes(config)
        _check_layers(config)
        _check_size_of(config, _weights_size(weights))
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{file} cannot be loaded as a model: {_cause(error)}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RecursionError) as error:
        raise ValueError(f"{file} is not a complete .keras file: {_cause(error)}") from None


def _members(archive: zipfile.ZipFile, file: Path) -> dict[str, zipfile.ZipInfo]:
    """The members of a `.keras` archive by name."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if member.filename in found:
            raise ValueError(f"it holds {member.filename!r} twice")
        found[member.filename] = member
    for name in found:
        if name not in (CONFIG, METADATA, WEIGHTS):
            raise ValueError(one_of("its files", name, (CONFIG, METADATA, WEIGHTS)))
    for name in (CONFIG, WEIGHTS):
        if name not in found:
            raise ValueError(f"it holds no {name}")
    check_size(file, sum(member.file_size for member in found.values()))
    for member in found.values():
        # Keras stores members uncompressed; a zip bomb is compressed.
        if member.file_size > 100 * max(member.compress_size, 1):
            raise ValueError(f"{member.filename} unpacks to {member.file_size} bytes from {member.compress_size}")
    if found[CONFIG].file_size > LARGEST_CONFIG:
        raise ValueError(f"{CONFIG} must have at most {LARGEST_CONFIG} bytes, received {found[CONFIG].file_size}")
    return found


def _check_classes(config: dict[str, Any]) -> None:
    for described in _objects(config):
        name, module = described["class_name"], described.get("module")
        registered = described.get("registered_name")
        named = described["config"] if name == "function" else name
        # Also "layers.Lambda" of the module "keras".
        if {str(each).rsplit(".", 1)[-1] for each in (name, named)} & set(_RUN_CODE):
            raise ValueError(f"it holds a {name}, which runs code from the file")
        if isinstance(registered, str) and keras.saving.get_registered_object(registered) is not None:
            continue
        if not (module is None or module in ("builtins", "keras") or str(module).startswith("keras.")):
            raise ValueError(
                f"its class {short(f'{module}.{named}')} is neither Keras's nor registered here: "
                "import its module first, or don't trust the file"
            )


def _check_layers(config: dict[str, Any]) -> None:
    """Refuse an architecture that takes Keras minutes to build."""
    share = 0.0
    for described in _objects(config):
        layers = described["config"].get("layers") if isinstance(described["config"], dict) else None
        if isinstance(layers, list):
            sequential = described["class_name"] == "Sequential"
            limit = LONGEST_SEQUENTIAL if sequential else MOST_LAYERS
            share += (len(layers) / limit) ** (2 if sequential else 1)
            if share > 1:
                raise ValueError(f"its models may have {limit} layers, received {len(layers)}")


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every serialized object in a config, at any depth."""
    stack = [config]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                yield {"config": None, **part}
            stack += part.values()
        elif isinstance(part, list):
            stack += part


def _weights_size(weights: bytes) -> int:
    """Bytes of all weights in an HDF5 file; refused if they are stored elsewhere or are fewer than declared."""
    total = 0
    with h5py.File(io.BytesIO(weights), "r") as stored:
        stack, seen = [stored], set()
        while stack:
            group = stack.pop()
            # A group may contain itself.
            if (address := h5py.h5o.get_info(group.id).addr) in seen:
                continue
            seen.add(address)
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ValueError(f"its weights {name!r} are a link to somewhere else")
                member = group[name]
                if isinstance(member, h5py.Group):
                    stack.append(member)
                    continue
                if member.external or member.is_virtual:
                    raise ValueError(f"its weights {member.name!r} are kept in another file")
                size = math.prod(member.shape) * member.dtype.itemsize
                if member.dtype.hasobject or size > member.id.get_storage_size():
                    raise ValueError(f"its weights {member.name!r} take {size} bytes, more than the file has of them")
                total += size
    return total


def _check_size_of(config: dict[str, Any], weights: int) -> None:
    """Refuse an architecture whose weights would need much more memory than those in the file."""
    uninitialized = global_state.get_global_attribute("uninitialized_variables", [], set_to_default=True)
    before = list(uninitialized)
    try:
        # In this scope variables are created without being allocated.
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object({**config, "compile_config": None}, safe_mode=True)
        if not isinstance(model, keras.Model):
            raise ValueError(f"it holds no model but a {type(model).__name__}")
        size = sum(4 * math.prod(variable.shape) for variable in model.variables)
    finally:
        uninitialized[:] = before
    if size > 4 * weights + 2**20:
        raise ValueError(f"its layers need {size} bytes of weights, but the file has {weights}")


def _cause(error: BaseException) -> str:
    """The fault that an error of Keras's names, without the advice around it, on one line."""
    text = str(error).rpartition("Exception encountered: ")[2]
    text = re.sub(r".*Example error message for object [^\n]*:\n", "", text, flags=re.DOTALL).strip().strip("'\"")
    line = (text.splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:199]}…"

"""Saving of models: complete or not at all, and the same bytes for the same model."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import keras

from kerasnn.attributes import temporary_attributes
from kerasnn.files import replacing

_SHARED = re.compile(r'"shared_object_id": (\d+)')
_DATE = (1980, 1, 1, 0, 0, 0)


def save_model(model: keras.Model, path: str | Path) -> None:
    """Save a model atomically.

    A `.keras` file holds no date and no memory address, so that two runs with the same result leave the same bytes.

    Args:
        model: any built Keras model.
        path: the file: `.keras` for the model, `.weights.h5` for its weights.

    Raises:
        OSError: from writing; an earlier file at `path` is then untouched.
    """
    with replacing(path) as temporary:
        if str(path).endswith(".weights.h5"):
            # Keras takes a model that is never called, such as a VAE, for one without weights.
            with temporary_attributes(model, built=True):
                model.save_weights(temporary)
        else:
            model.save(temporary)
            _rewrite(temporary)


def _rewrite(path: Path) -> None:
    """Write a `.keras` file anew without what depends on the time and on the process."""
    with replacing(path) as temporary, zipfile.ZipFile(path) as archive, zipfile.ZipFile(temporary, "w") as written:
        for member in archive.infolist():
            member.date_time = _DATE
            match member.filename:
                case "config.json":
                    written.writestr(member, _renumber(archive.read(member).decode()))
                case "metadata.json":
                    metadata = json.loads(archive.read(member))
                    written.writestr(
                        member, json.dumps({key: metadata[key] for key in metadata if key != "date_saved"})
                    )
                case _:
                    with archive.open(member) as source, written.open(member, "w") as target:
                        shutil.copyfileobj(source, target)


def _renumber(config: str) -> str:
    """Number shared objects by their first appearance; Keras identifies them by their memory addresses."""
    numbers: dict[str, int] = {}
    return _SHARED.sub(lambda match: f'"shared_object_id": {numbers.setdefault(match[1], len(numbers) + 1)}', config)

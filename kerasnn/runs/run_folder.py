"""The folder of a run: locked against other processes, checked, and cleaned up after a kill."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kerasnn.checkpoint.state_file import StateFolder
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import differences, short
from kerasnn.distribute import devices
from kerasnn.files import alone_in, dated_path, delete_partial_files, partial_files, refuse_links
from kerasnn.tensorboard.callback import event_files

CONTENT = (
    *("config.json", "result.json", "history.csv", "network.svg", "model.keras", "best.keras"),
    *("state", "train", "validation"),
)
"""The files and folders of a run folder; the folders hold states, and the event files of training and validation."""

_MAY_CHANGE = ("training.epochs", *(f"devices.{name}" for name in ("strategy", "device", "workers", "worker_wait")))
"""Settings that may change when a run resumes, besides its report: on other devices it has the same numbers, to
rounding."""

NOTHING = "000000-00000000.state"
"""The state before the first step."""


@contextmanager
def run_folder(run_dir: str | Path | None, config: RunConfig, placement: devices.Placement) -> Iterator[Path]:
    """Open a run's folder for this process alone. Processes other than the chief get a temporary folder.

    Args:
        run_dir: a folder that is new, empty or the run's; None makes `logs/<time>-<data>-<style>`, which is deleted
            where the run fails before it has learned anything.
        config: the run.
        placement: tells whether this process is the chief.

    Yields:
        The folder.

    Raises:
        ValueError: one line, if the folder is in use, or holds another run or something else.
    """
    if not placement.chief:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = _folder(run_dir, config)
    try:
        with alone_in(folder, "run_dir"):
            refuse_links(folder, *CONTENT)
            _begin(folder, config)
            yield folder
    except BaseException:
        if run_dir is None:
            delete_unbegun(folder)
        raise


def delete_unbegun(folder: Path) -> None:
    """Delete the folder of a run that has learned nothing: it has no epoch, and no state but that of its beginning."""
    learned = any(path.name != NOTHING for path in StateFolder(folder / "state").files())
    if learned or (folder / "history.csv").exists() or not (folder / "config.json").exists():
        return
    for name in CONTENT:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    # What else is in it is not ours.
    with suppress(OSError):
        folder.rmdir()


def _folder(run_dir: str | Path | None, config: RunConfig) -> Path:
    folder = Path(run_dir or dated_path(config.data.name, config.style))
    if folder.exists() and not (folder / "config.json").exists() and not _is_empty(folder):
        raise ValueError(f"run_dir must be a new or empty folder, received {folder}, which holds something else")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but temporary files that a kill has left."""
    return folder.is_dir() and len(partial_files(folder)) == len(list(folder.iterdir()))


def _begin(folder: Path, config: RunConfig) -> None:
    """Check that the folder's run, if there is one, is this run, and clean up after a kill."""
    states = StateFolder(folder / "state")
    delete_partial_files(folder, states.path)
    if not (folder / "config.json").exists():
        return
    if states.files():
        _check_same(folder, config, states.epochs)
    elif _trained_epochs(folder):
        raise ValueError(f"run_dir must be a new or empty folder, received {folder}, which holds a run without a state")
    else:
        # The run ended before its first state, and begins anew.
        for path in event_files(folder):
            path.unlink()


def _check_same(folder: Path, config: RunConfig, trained: int) -> None:
    """Refuse a config that does not continue the folder's run."""
    before, after = (each.model_dump(mode="json") for each in (RunConfig.load(folder), config))
    if changed := [key for key in differences(before, after) if not _may_change(key)]:
        raise ValueError(
            f"run_dir must continue the run that it holds, {folder} began with another {', '.join(changed)}; "
            f"give a new folder or the settings of {folder / 'config.json'}"
        )
    if trained > config.training.epochs:
        raise ValueError(
            f"training.epochs must be at least the {trained} that {folder} has trained already, "
            f"received {config.training.epochs}"
        )


def _trained_epochs(folder: Path) -> int:
    """The epochs in `result.json`; 0 without the file."""
    path = folder / "result.json"
    if not path.exists():
        return 0
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["epochs"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{path} must be the result of a run, received {short(path.read_bytes())}") from None


def _may_change(key: str) -> bool:
    """Whether a setting may change when a run resumes."""
    return key in _MAY_CHANGE or key.startswith("report.")

"""A run's folder: opened for one run alone, and tidied up after a kill."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from kerasnn.checkpoint.state_file import StateFolder
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import differences
from kerasnn.distribute import devices
from kerasnn.files import PARTIAL, alone_in


@contextmanager
def run_folder(run_dir: str | Path | None, config: RunConfig, placement: devices.Placement) -> Iterator[Path]:
    """The run's folder, for this process alone; processes other than the chief write to one that is thrown away."""
    if not placement.chief:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = _folder(run_dir, config)
    with alone_in(folder, "run_dir"):
        _begin(folder, config)
        yield folder


def _folder(run_dir: str | Path | None, config: RunConfig) -> Path:
    if run_dir is None:
        run_dir = Path("logs") / f"{datetime.now():%Y%m%d-%H%M%S}-{config.data.name}-{config.style}"
    folder = Path(run_dir)
    if folder.exists() and not (folder / "config.json").exists() and (not folder.is_dir() or any(_kept(folder))):
        raise ValueError(
            f"run_dir must be a new or empty folder, received {folder}, which holds something that is no run"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kept(folder: Path) -> list[Path]:
    """What a folder holds but for files that a kill left half-written."""
    return [path for path in folder.iterdir() if not path.match(PARTIAL)]


def _begin(folder: Path, config: RunConfig) -> None:
    """See that the folder's run, if it holds one, is this one, and tidy up after a kill."""
    states = StateFolder(folder / "state")
    for path in [*folder.glob(PARTIAL), *states.path.glob(PARTIAL)]:
        path.unlink()
    if not (folder / "config.json").exists():
        return
    if states.files():
        before, after = (each.model_dump(mode="json") for each in (RunConfig.load(folder), config))
        if changed := [key for key in differences(before, after) if not _may_change(key)]:
            raise ValueError(
                f"run_dir must continue the run that it holds, {folder} began with another {', '.join(changed)}; "
                f"give a new folder or the settings of {folder / 'config.json'}"
            )
        if (trained := states.epochs) > config.training.epochs:
            raise ValueError(
                f"training.epochs must be at least the {trained} that {folder} has trained already, "
                f"received {config.training.epochs}"
            )
    elif (folder / "result.json").exists():
        raise ValueError(f"run_dir must be a new or empty folder, received {folder}, which holds a run without a state")
    else:
        # It was killed before it had a state; what it had written is written anew.
        for events in folder.glob("*/events.out.tfevents.*"):
            events.unlink()


def _may_change(key: str) -> bool:
    """Whether a continued run may change a setting."""
    return key == "training.epochs" or key.startswith("report.")

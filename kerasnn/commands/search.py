"""The command line of a search."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kerasnn.commands.command import DONE, USAGE, complain, given, guarded, import_tensorflow
from kerasnn.config.description import replace_at
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import ADDRESS, FolderInUseError

PROGRAM = "search.py"


class _SearchSettings(SearchConfig, BaseSettings):
    """Search hyperparameters, and leave the best run and a folder for TensorBoard's HParams page. The same command with
    the same --search_dir continues a search that was ended."""

    model_config = SettingsConfigDict(cli_hide_none_type=True, cli_use_class_docs_for_groups=True)

    config: str | None = Field(
        default=None, description="JSON file, or a search folder whose config.json is meant; flags change it."
    )
    search_dir: str | None = Field(
        default=None,
        description="Folder: new, empty, or a search's, which is then continued with its own config.json; null makes "
        "logs/<time>-search-<data>.",
    )
    join: str | None = Field(
        default=None,
        description="Train for a search that runs with --workers or --listen: its folder, or its address host:port; "
        "other flags have no effect.",
    )


def search(arguments: Sequence[str] | None = None) -> int:
    """Search from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    return guarded(PROGRAM, lambda: _search(arguments))


def _search(arguments: Sequence[str] | None) -> int:
    try:
        flags = given(_SearchSettings, PROGRAM, arguments)
        if (address := flags.pop("join", None)) is not None:
            return _join(address)
        start, search_dir = flags.pop("config", None), flags.pop("search_dir", None)
        if start is None and search_dir is not None and (Path(search_dir) / "config.json").is_file():
            start = search_dir
        config = replace_at(SearchConfig() if start is None else SearchConfig.load(start), flags)
        if config.run.data.name == "arrays":
            raise ValueError(
                "run.data.name 'arrays' is for search() in Python; here give csv, npz or a data set's name"
            )
    except (ValueError, FileNotFoundError) as error:
        return complain(PROGRAM, error, USAGE)
    import_tensorflow()
    from kerasnn.search.run_search import search as run

    try:
        result = run(config, search_dir)
    except FolderInUseError:
        if search_dir is None or not (Path(search_dir) / ADDRESS).is_file():
            raise
        return _join(search_dir)
    print(result.table())
    failed = sum(trial.status == "failed" for trial in result.trials)
    print(f"{len(result.trials)} trials, {failed} failed" if failed else f"{len(result.trials)} trials")
    print(f"train the best  python scripts/train.py --config {result.search_dir / 'best_config.json'}")
    print(f"dashboard       tensorboard --logdir {result.search_dir}")
    return DONE


def _join(place: str) -> int:
    """Train for a search that another process holds."""
    address = place
    if Path(place).is_dir():
        file = Path(place) / ADDRESS
        if not file.is_file():
            raise ValueError(f"join must be the folder of a search that runs with workers, received {place}")
        address = file.read_text(encoding="utf-8").strip()
    import_tensorflow()
    from kerasnn.search.worker import work

    print(f"training for the search at {address}", flush=True)
    work(address, f"{socket.gethostname()}-{os.getpid()}")
    print("the search has ended")
    return DONE

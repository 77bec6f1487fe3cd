"""`kerasnn search`: search hyperparameters."""

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, continued_by, import_tensorflow
from kerasnn.files import dated_path
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import ADDRESS, FolderInUseError


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line: `config` and `search_dir`, or `join` alone."""
    description = (
        "Search hyperparameters, and leave the best run and a folder for TensorBoard's HParams page. The same command "
        "with the same --search_dir continues a search that was ended."
    )
    parser = Parser("kerasnn search", description, SearchConfig())
    parser.add_argument(
        "--search_dir",
        metavar="FOLDER",
        help="new or empty folder, or a search's, which is then continued with its own config.json "
        "(default: logs/<time>-search-<data>)",
    )
    parser.add_argument(
        "--join",
        metavar="FOLDER",
        help="train trials of a search that runs with --workers or --listen: its folder, or its address host:port",
    )
    options = parser.read(arguments)
    if options.join is not None:
        if len(parser.given) > 1:
            raise ValueError(f"--join takes no other flags, received {' '.join(sorted(parser.given - {'--join'}))}")
        return options
    options.config = parser.config_of(options, folder=options.search_dir)
    return options


def run(options: argparse.Namespace) -> int:
    """Search, or train trials of a search in another process."""
    if options.join is not None:
        return _join(options.join)
    folder = Path(options.search_dir or dated_path("search", options.config.run.data.name))
    try:
        with continued_by("kerasnn search --search_dir", folder):
            import_tensorflow()
            from kerasnn.search.run_search import search

            result = search(options.config, folder)
    except FolderInUseError:
        if not (folder / ADDRESS).is_file() or options.config != SearchConfig.load(folder):
            raise
        return _join(str(folder))
    print(result.table())
    failed = sum(trial.status == "failed" for trial in result.trials)
    print(f"{len(result.trials)} trials, {failed} failed" if failed else f"{len(result.trials)} trials")
    print(f"train the best  kerasnn train --config {result.search_dir / 'best_config.json'}")
    print(f"dashboard       tensorboard --logdir {result.search_dir}")
    return DONE


def _join(target: str) -> int:
    """Train trials of a search that another process runs."""
    address = target
    if Path(target).is_dir():
        file = Path(target) / ADDRESS
        if not file.is_file():
            raise ValueError(f"join must be the folder of a search that runs with workers, received {target}")
        address = file.read_text(encoding="utf-8").strip()
    import_tensorflow()
    from kerasnn.search.worker import work

    print(f"training for the search at {address}", flush=True)
    work(address, f"{socket.gethostname()}-{os.getpid()}")
    print("the search has ended")
    return DONE

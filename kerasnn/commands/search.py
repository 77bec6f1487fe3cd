"""`kerasnn search`: search hyperparameters."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, continued_by, import_tensorflow
from kerasnn.files import dated_path
from kerasnn.search.config import SearchConfig


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line: `config` and `search_dir`."""
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
    about = "CSV file of values to try first, a column for each key of the space; or an earlier search's trials.csv"
    parser.add_argument("--initial", metavar="FILE", help=about)
    about = "folder of an earlier search with the same objective, from whose trials the oracle learns"
    parser.add_argument("--earlier", metavar="FOLDER", help=about)
    options = parser.read(arguments)
    options.config = parser.config_of(options, folder=options.search_dir)
    return options


def run(options: argparse.Namespace) -> int:
    """Search, and print the best trials."""
    folder = Path(options.search_dir or dated_path("search", options.config.run.data.name))
    with continued_by("kerasnn search --search_dir", folder):
        import_tensorflow()
        from kerasnn.search.run_search import search

        result = search(options.config, folder, initial=options.initial, earlier=options.earlier)
    print(result.table())
    failed = sum(trial.status == "failed" for trial in result.trials)
    print(f"{len(result.trials)} trials, {failed} failed" if failed else f"{len(result.trials)} trials")
    if result.config.has_best_run:
        print(f"train the best  kerasnn train --config {result.search_dir / 'best_config.json'}")
    elif len(result.config.objectives) > 1:
        print(f"Pareto front    {len(result.best_trials)} trials, marked *; kerasnn report {result.search_dir}")
    else:
        print(f"schedules       kerasnn report {result.search_dir}")
    print(f"dashboard       tensorboard --logdir {result.search_dir}")
    return DONE

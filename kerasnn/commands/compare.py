"""`kerasnn compare`: a network beside scikit-learn's models."""

import argparse
from collections.abc import Sequence

from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, import_tensorflow
from kerasnn.config.run import RunConfig


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    description = (
        "Compare a network with scikit-learn's linear model, random forest and gradient boosting on the same splits."
    )
    parser = Parser("kerasnn compare", description, RunConfig())
    parser.add_argument("table", metavar="FILE", help="table file")
    parser.add_argument("--target", metavar="COLUMN", help="target column, as --data.target (default: the last column)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="splits of the table (default: 3)")
    options = parser.read(arguments)
    options.changes = {**options.changes, "data.path": options.table}
    if options.target is not None:
        options.changes["data.target"] = options.target
    options.given = None if options.config is not None else set(options.changes)
    options.config = parser.config_of(options)
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2 for an interval, received {options.seeds}")
    return options


def run(options: argparse.Namespace) -> int:
    """Train all models, and print their scores."""
    import_tensorflow()
    from kerasnn.study.peers import compare_with_peers

    print(compare_with_peers(options.config, options.seeds, options.given))
    return DONE

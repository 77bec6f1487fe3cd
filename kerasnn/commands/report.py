"""`kerasnn report`: write an HTML page about a run, a search or a study."""

import argparse
from collections.abc import Sequence

from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, import_tensorflow


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    description = "Write one HTML page about a run, a search or a study, or about several runs side by side."
    parser = Parser("kerasnn report", description)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a folder of any kind, or several run folders")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in the folder)")
    return parser.read(arguments)


def run(options: argparse.Namespace) -> int:
    """Write the page and print its path."""
    import_tensorflow()
    from kerasnn.report.write_report import report

    print(report(options.folders, options.output))
    return DONE

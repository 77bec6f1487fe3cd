"""The command line of reports."""

from collections.abc import Sequence

from kerasnn.commands.command import DONE, Parser, guarded, import_tensorflow

PROGRAM = "report.py"


def report(arguments: Sequence[str] | None = None) -> int:
    """Write a report from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    return guarded(PROGRAM, lambda: _report(arguments))


def _report(arguments: Sequence[str] | None) -> int:
    parser = Parser(
        prog=PROGRAM,
        description="Write one HTML page about a run, a search or a study, or about several runs side by side.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a folder of any kind, or several run folders")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in the folder)")
    options = parser.parse_args(arguments)
    import_tensorflow()
    from kerasnn.report.write_report import report as write

    print(write(options.folders, options.output))
    return DONE

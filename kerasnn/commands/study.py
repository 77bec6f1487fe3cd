"""`kerasnn study`: compare settings factorially."""

import argparse
from collections.abc import Sequence

from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, continued_by, import_tensorflow
from kerasnn.files import dated_path
from kerasnn.study.config import StudyConfig


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line: `config` and `study_dir`."""
    description = (
        "Compare settings factorially, each combination over several seeds, with 95 %% intervals. The same command "
        "with the same --study_dir continues a study that was ended."
    )
    parser = Parser("kerasnn study", description, StudyConfig())
    parser.add_argument(
        "--study_dir",
        metavar="FOLDER",
        help="new or empty folder, or a study's, which is then continued (default: logs/<time>-study-<data>)",
    )
    options = parser.read(arguments)
    options.config = parser.config_of(options, folder=options.study_dir)
    return options


def run(options: argparse.Namespace) -> int:
    """Run the study and print its table."""
    folder = options.study_dir or dated_path("study", options.config.run.data.name)
    with continued_by("kerasnn study --study_dir", folder):
        import_tensorflow()
        from kerasnn.study.run_study import study

        result = study(options.config, folder)
    print(result.table())
    print(f"study folder  {result.study_dir}")
    print(f"dashboard     tensorboard --logdir {result.study_dir}")
    return DONE

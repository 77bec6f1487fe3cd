"""The command `kerasnn`. A subcommand's module is imported when it is asked for, TensorFlow when it computes."""

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import kerasnn
from kerasnn.timings import phase, timed

COMMANDS = {
    "train": "train a network and leave a run folder",
    "evaluate": "evaluate a run folder",
    "predict": "predict for unlabelled rows with a run folder",
    "find-learning-rate": "suggest a learning rate",
    "search": "search hyperparameters",
    "study": "compare settings over several seeds",
    "compare": "compare a network with scikit-learn's models on a table",
    "report": "write an HTML page about a run, a search or a study",
    "gallery": "draw activations, losses, optimizers, schedules and more",
    "doctor": "check devices, versions and compilers",
}
"""Each subcommand, which is a module of `kerasnn.commands`, and what it does."""

HELP = f"""usage: kerasnn COMMAND ...

Train, study and tune neural networks with Keras 3 on TensorFlow.

commands:
{"".join(f"  {name:20}{purpose}{chr(10)}" for name, purpose in COMMANDS.items())}
`kerasnn COMMAND --help` describes a command; `kerasnn --version` prints the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: the command line, the subcommand first; None takes the program's.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        with timed():
            with phase("import"):
                from kerasnn.commands.execution import execute

                command = importlib.import_module(f"kerasnn.commands.{name.replace('-', '_')}")
            return execute(f"kerasnn {name}", rest, command.read, command.run)
    if name in ("-h", "--help", "--version"):
        print(f"kerasnn {kerasnn.__version__}" if name == "--version" else HELP)
        return 0
    from kerasnn.commands.execution import USAGE, complain

    near = get_close_matches(name[:80].replace("_", "-"), COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
    return complain("kerasnn", f"unknown command {name!r}, {hint}", USAGE)


if __name__ == "__main__":
    sys.exit(main())

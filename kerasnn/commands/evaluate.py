"""`kerasnn evaluate`: evaluate a run folder."""

import argparse
from collections.abc import Sequence

from kerasnn.commands.command_line import RunParser
from kerasnn.commands.execution import DONE, import_tensorflow
from kerasnn.config.run import RunConfig


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = RunParser("kerasnn evaluate", "Evaluate a trained run on its test part or on other data.")
    parser.add_argument(
        "data",
        nargs="?",
        metavar="FILE",
        help="table with the target, folder of images by class, or npz file (default: the run's test part)",
    )
    parser.add_argument("--predictions", metavar="FILE", help="CSV file to write, one row an example")
    parser.add_argument("--confusion", metavar="FILE", help="PNG or SVG picture of the confusion matrix to write")
    return parser.read(arguments)


def run(options: argparse.Namespace) -> int:
    """Evaluate, print the tables and write what was asked for."""
    RunConfig.load(options.run_dir)  # a wrong folder is an error before TensorFlow starts
    import_tensorflow()
    from kerasnn import figures
    from kerasnn.runs.evaluate import evaluate_run

    evaluation = evaluate_run(options.run_dir, options.data, model=options.model, batch_size=options.batch_size)
    print(evaluation)
    if options.predictions is not None:
        evaluation.write_csv(options.predictions)
    if options.confusion is not None:
        if evaluation.confusion is None or evaluation.class_names is None:
            raise ValueError("--confusion needs a classifier with one class an example")
        figures.save(evaluation.figure(), options.confusion)
    return DONE

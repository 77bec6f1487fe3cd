"""`kerasnn predict`: predictions of a run for unlabelled rows."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kerasnn.commands.command_line import RunParser
from kerasnn.commands.execution import DONE, import_tensorflow
from kerasnn.config.run import RunConfig


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = RunParser("kerasnn predict", "Predict for the rows of a file with a trained run.")
    parser.add_argument(
        "data", metavar="FILE", help="table with the training table's columns, folder of images, or npz file with x"
    )
    parser.add_argument("--output", metavar="FILE", help="CSV file to write (default: predictions.csv in this folder)")
    return parser.read(arguments)


def run(options: argparse.Namespace) -> int:
    """Predict, and write a row for each example."""
    RunConfig.load(options.run_dir)  # a wrong folder is an error before TensorFlow starts
    import_tensorflow()
    from kerasnn.runs.predict import predict_file, write_predictions

    columns = predict_file(options.run_dir, options.data, model=options.model, batch_size=options.batch_size)
    output = Path(options.output or "predictions.csv")
    write_predictions(columns, output)
    print(f"{len(next(iter(columns.values()))):,} predictions in {output}: {', '.join(columns)}")
    return DONE

"""`kerasnn train`: train a network and leave a run folder."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext

from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, continued_by, import_tensorflow
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import readable
from kerasnn.distribute import processes, slurm
from kerasnn.files import dated_path
from kerasnn.timings import phase


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line: `config`, `run_dir`, `cluster` and the `arguments` themselves."""
    parser = Parser("kerasnn train", "Train a network and leave a run folder for TensorBoard.", RunConfig())
    parser.add_argument(
        "--run_dir",
        metavar="FOLDER",
        help="new or empty folder for the run, or that of a run to go on with (default: logs/<time>-<data>-<style>)",
    )
    parser.add_argument(
        "--resume",
        metavar="FOLDER",
        help="run folder to go on with, as --config and --run_dir together; flags may add epochs",
    )
    options = parser.read(arguments)
    if options.resume is not None:
        if options.config is not None or options.run_dir is not None:
            raise ValueError("--resume names the run folder, so --config and --run_dir must be left out")
        options.config = options.run_dir = options.resume
    # A config says all that is to be done; flags leave what they do not say to the data.
    options.given = None if options.config is not None else set(options.changes)
    options.config = parser.config_of(options)
    options.arguments = parser.arguments
    if options.config.devices.strategy == "multi_worker":
        slurm.set_tf_config()
    options.cluster = processes.cluster()
    return options


def run(options: argparse.Namespace) -> int:
    """Train, and say where the results are."""
    workers = options.config.devices.workers
    if workers is not None and options.cluster is None and workers > 1:
        return processes.launch(workers, [*processes.PYTHON_MODULE, "kerasnn.cli", "train", *options.arguments])
    run_dir = options.run_dir or dated_path(options.config.data.name, options.config.style)
    is_chief = options.cluster is None or options.cluster.number == 0
    resumable = is_chief and options.config.training.save_state
    with continued_by("kerasnn train --resume", run_dir) if resumable else nullcontext():
        with phase("data"):
            from kerasnn.data.loading import load_data

            # A fault in a file is found without TensorFlow, at once.
            data = load_data(options.config.data, options.config.task) if options.config.data.path is not None else None
        with phase("import"):
            import_tensorflow()
            from kerasnn.runs.run_folder import delete_unbegun
            from kerasnn.runs.scores import described
            from kerasnn.runs.train import train

        try:
            result = train(options.config, run_dir, data, given=options.given)
        except BaseException:
            if options.run_dir is None and is_chief:
                delete_unbegun(run_dir)
            raise
    if not is_chief:
        return DONE
    print("  ".join(f"test {name} {readable(value)}" for name, value in result.metrics.items()))
    if result.scores or result.constant:
        print(described(result.scores, result.constant))
    print(f"run folder  {result.run_dir}")
    print(f"report      kerasnn report {result.run_dir}")
    if kind := {"table": "FILE", "images": "FOLDER", "texts": "FOLDER"}.get(options.config.data.name):
        print(f"predict     kerasnn predict {result.run_dir} {kind}")
    print(f"dashboard   tensorboard --logdir {result.run_dir.parent}")
    return DONE

"""`kerasnn gallery`: draw what the package's functions look like."""

import argparse
from collections.abc import Sequence

from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, import_tensorflow
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import one_of
from kerasnn.gallery.pictures import PICTURES


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = Parser(
        "kerasnn gallery", "Draw activations, initializers, losses, optimizers, schedules, layers and data as pictures."
    )
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help=f"which (default: all): {', '.join(PICTURES)}")
    parser.add_argument(
        "--gallery_dir", metavar="FOLDER", default="logs/gallery", help="folder (default: logs/gallery)"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="JSON file or run folder whose data and network are shown (default: the digits)",
    )
    options = parser.read(arguments)
    for name in options.pictures:
        if name not in PICTURES:
            parser.error(one_of("picture", name, PICTURES))
    return options


def run(options: argparse.Namespace) -> int:
    """Draw the pictures."""
    config = RunConfig() if options.config is None else RunConfig.load(options.config)
    import_tensorflow()
    from kerasnn.gallery.draw import draw

    draw(options.gallery_dir, config, options.pictures)
    print(f"dashboard  tensorboard --logdir {options.gallery_dir}")
    return DONE

"""The command line of the gallery."""

from collections.abc import Sequence

from kerasnn.commands.command import DONE, Parser, guarded, import_tensorflow
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import one_of
from kerasnn.gallery.pictures import PICTURES

PROGRAM = "gallery.py"


def gallery(arguments: Sequence[str] | None = None) -> int:
    """Draw the gallery from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    return guarded(PROGRAM, lambda: _gallery(arguments))


def _gallery(arguments: Sequence[str] | None) -> int:
    parser = Parser(
        prog=PROGRAM,
        description="Draw activations, initializers, losses, optimizers, schedules, layers and data as pictures.",
        allow_abbrev=False,
    )
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help=f"which (default: all): {', '.join(PICTURES)}")
    parser.add_argument("--gallery_dir", default="logs/gallery", help="folder (default: logs/gallery)")
    parser.add_argument(
        "--config", help="JSON file or run folder whose data and network are shown (default: the digits)"
    )
    options = parser.parse_args(arguments)
    for name in options.pictures:
        if name not in PICTURES:
            parser.error(one_of("picture", name, PICTURES))
    config = RunConfig() if options.config is None else RunConfig.load(options.config)
    import_tensorflow()
    from kerasnn.gallery.draw import draw

    draw(options.gallery_dir, config, options.pictures)
    print(f"dashboard  tensorboard --logdir {options.gallery_dir}")
    return DONE

"""How a subcommand runs: exit codes, errors as one line, and TensorFlow's import without its greetings."""

import gc
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kerasnn import compilation_cache
from kerasnn.signals import TerminatedError, caught, raised

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

_LONG_WORD = re.compile(r"(\S{80})\S{4096,}(\S{80})")
Options = TypeVar("Options")


def execute(
    program: str,
    arguments: Sequence[str] | None,
    read: Callable[[Sequence[str] | None], Options],
    run: Callable[[Options], int],
) -> int:
    """Read a command line and do what it says; what may go wrong becomes one line and an exit code.

    Args:
        program: what an error line begins with: `kerasnn train`.
        arguments: its command line; None takes the program's.
        read: makes options of the command line; its errors are errors of usage.
        run: does what the options say, and returns the exit code.
    """
    failed = USAGE
    try:
        with raised():
            options = read(arguments)
            failed = FAILED
            return run(options)
    except KeyboardInterrupt as error:
        ended, code = ("terminated", TERMINATED) if isinstance(error, TerminatedError) else ("interrupted", INTERRUPTED)
        # A further signal would cut the line short.
        with caught(lambda _: None):
            return complain(program, ": ".join(filter(None, (ended, _message(error)))), code)
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        if os.environ.get("KERASNN_TRACEBACK"):
            raise
        complain(program, _message(error), failed)
        if failed == FAILED and "TF_CONFIG" in os.environ:
            # TensorFlow's threads would wait for the other processes.
            sys.stdout.flush()
            os._exit(failed)
        return failed


@contextmanager
def continued_by(command: str, folder: str | Path) -> Iterator[None]:
    """Within it, an interruption or a failing file system names the command that continues the work.

    Args:
        command: the command, without the folder.
        folder: the folder of the run, search or study.
    """
    try:
        yield
    except ConnectionError:
        raise
    except (KeyboardInterrupt, OSError) as error:
        begun = (Path(folder) / "config.json").exists()
        error.add_note(f"go on with {command} {shlex.quote(str(folder))}" if begun else "nothing had begun")
        raise


def _message(error: BaseException) -> str:
    return "; ".join(filter(None, (str(error), *getattr(error, "__notes__", ()))))


def complain(program: str, error: object, code: int) -> int:
    """Print an error as one line, and give back the exit code."""
    # A word of such a length is no path that a file system takes, and would fill the terminal.
    text = _LONG_WORD.sub(r"\1…\2", str(error))
    print(f"{program}: error: {text}", file=sys.stderr)
    return code


def import_tensorflow() -> None:
    """Import TensorFlow without its greetings, notes about the processor and missing drivers; an error shows them."""
    # TensorFlow logs each program that it takes from the compilation cache as two or three errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    checking = None
    if "tensorflow" not in sys.modules:
        # TensorFlow leaves oneDNN, which makes convolutions twice as fast, off on processors without VNNI.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        checking = compilation_cache.begin()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as greetings:
        os.dup2(greetings.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            # Collections need not walk TensorFlow's million objects over and over while programs are traced.
            gc.freeze()
            if checking is not None:
                checking.join()
        except BaseException:
            greetings.seek(0)
            os.write(terminal, greetings.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)

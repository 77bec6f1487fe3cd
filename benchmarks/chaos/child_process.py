"""A forked process that reports its progress and leaves its result in a file.

It is forked from a process that has imported TensorFlow but has not yet run anything in it, which saves the import.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kerasnn.commands.execution import DONE, FAILED, execute
from kerasnn.files import write_text

Report = Callable[[], None]
"""Called by a child process when it has begun, or has finished a part of its work."""


class ChildProcess:
    """A process that works, reports, and writes what the work returns as JSON.

    Args:
        work: what it does; returns the result, which JSON can hold.
        path: the result is written to this path with the suffix `.json`, the output to that with `.log`.
    """

    def __init__(self, work: Callable[[Report], Any], path: Path) -> None:
        self.result = path.with_suffix(".json")
        self.result.unlink(missing_ok=True)
        self.log = path.with_suffix(".log")
        self._reports, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._work(work, write)
        os.close(write)

    def _work(self, work: Callable[[Report], Any], write: int) -> None:
        def report() -> None:
            os.write(write, b".")

        def run(_: object) -> int:
            write_text(self.result, json.dumps(work(report)))
            return DONE

        code = FAILED
        try:
            with self.log.open("ab") as log:
                for stream in (1, 2):
                    os.dup2(log.fileno(), stream)
            code = execute("child", [], lambda _: None, run)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def wait_for_report(self) -> None:
        """Wait until the process reports, or ends."""
        os.read(self._reports, 1)

    def count_reports(self) -> int:
        """The number of reports that were not waited for; the process must have ended."""
        return len(os.read(self._reports, 1 << 20))

    def end(self) -> int:
        """Wait for the process's end.

        Returns:
            Its exit code, or minus the signal that killed it.
        """
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Close the pipe of the reports."""
        os.close(self._reports)

    def kill(self, *numbers: int) -> int:
        """Send signals, a hundredth of a second apart, and wait for the end; the exit code as `end` returns it."""
        for number in numbers:
            os.kill(self.pid, number)
            time.sleep(0.01)
        return self.end()

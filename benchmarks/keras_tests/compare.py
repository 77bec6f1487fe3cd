"""Runs Keras's tests twice, plain and through kerasnn, and lists what fails only through kerasnn.

Keras's test files import every backend: jax and torch must be installed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUITES = ("trainers", "callbacks", "models", "optimizers", "metrics", "losses")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, for a source distribution or checkout of Keras; returns 1 where a test fails only through kerasnn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of Keras's source distribution or checkout")
    parser.add_argument("--suites", nargs="+", default=SUITES, help="folders or files below keras/src")
    parser.add_argument("--deselect", default="", help="pytest's -k expression")
    given = parser.parse_args(arguments)
    if not (given.source / "keras" / "src").is_dir():
        parser.error(f"source must hold keras/src, received {given.source}")
    print(f"{'suite':<42} {'passed plain':>12} {'through kerasnn':>16} {'newly failing':>14}")
    new = 0
    for suite in given.suites:
        plain, ours = (_outcomes(given.source, suite, routed, given.deselect) for routed in (False, True))
        passed = {test for test, outcome in plain.items() if outcome == "passed"}
        failing = sorted(test for test in passed if ours.get(test) != "passed")
        through = sum(outcome == "passed" for outcome in ours.values())
        print(f"{suite:<42} {len(passed):>12} {through:>16} {len(failing):>14}")
        for test in failing:
            print(f"    {test}")
        new += len(failing)
    return 1 if new else 0


def _outcomes(source: Path, suite: str, routed: bool, deselect: str) -> dict[str, str]:
    """Each test with its outcome: passed, failed or skipped."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        plugin = ["-p", "benchmarks.keras_tests.plugin"] if routed else []
        environment = os.environ | {
            "KERAS_BACKEND": "tensorflow",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(source), str(ROOT), os.environ.get("PYTHONPATH")))),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            f"keras/src/{suite}",
            *plugin,
            "-q",
            "-n",
            "0",
            f"--junitxml={results}",
        ]
        command += [
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            "--continue-on-collection-errors",
            "-o",
            "addopts=",
            "-o",
            "filterwarnings=",
        ]
        subprocess.run(
            [*command, *(["-k", deselect] if deselect else [])],
            cwd=source,
            env=environment,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if not results.exists():
            return {}
        return {
            f"{test.get('classname')}::{test.get('name')}": _outcome(test)
            for test in ElementTree.parse(results).iter("testcase")
        }


def _outcome(test: ElementTree.Element) -> str:
    kinds = {child.tag for child in test}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


if __name__ == "__main__":
    sys.exit(main())

"""Evaluate a run from the command line: `python scripts/evaluate.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kerasnn.commands.command import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())

"""Suggest a learning rate: `python scripts/find_learning_rate.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kerasnn.commands.command import find_learning_rate

if __name__ == "__main__":
    sys.exit(find_learning_rate())

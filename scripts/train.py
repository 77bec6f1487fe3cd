"""Train a network from the command line: `python scripts/train.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kerasnn.commands.command import train

if __name__ == "__main__":
    sys.exit(train())

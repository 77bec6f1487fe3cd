"""Search hyperparameters from the command line: `python scripts/search.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kerasnn.commands.search import search

if __name__ == "__main__":
    sys.exit(search())

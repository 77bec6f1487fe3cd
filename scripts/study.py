"""Compare settings factorially from the command line: `python scripts/study.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kerasnn.commands.study import study

if __name__ == "__main__":
    sys.exit(study())

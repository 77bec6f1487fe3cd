"""Kill trainings at random moments and compare what they end with: `python scripts/chaos.py --help`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.chaos import chaos

if __name__ == "__main__":
    sys.exit(chaos())

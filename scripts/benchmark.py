"""Time kerasnn beside its peers: `python scripts/benchmark.py --help`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.command import benchmark

if __name__ == "__main__":
    sys.exit(benchmark())

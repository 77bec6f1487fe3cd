"""Time kerasnn beside its peers: `python scripts/benchmark.py --help`."""

import sys

from benchmarks.speed.command_line import benchmark

if __name__ == "__main__":
    sys.exit(benchmark())

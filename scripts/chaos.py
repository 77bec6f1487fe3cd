"""Kill trainings at random moments and compare what they end with: `python scripts/chaos.py --help`."""

import sys

from benchmarks.chaos.command_line import chaos

if __name__ == "__main__":
    sys.exit(chaos())

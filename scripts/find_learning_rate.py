"""The same as `kerasnn find-learning-rate`."""

import sys

from kerasnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["find-learning-rate", *sys.argv[1:]]))

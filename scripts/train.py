"""The same as `kerasnn train`."""

import sys

from kerasnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

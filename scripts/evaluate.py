"""The same as `kerasnn evaluate`."""

import sys

from kerasnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))

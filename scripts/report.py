"""The same as `kerasnn report`."""

import sys

from kerasnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))

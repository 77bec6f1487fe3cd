"""The same as `kerasnn search`."""

import sys

from kerasnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))

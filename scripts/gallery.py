"""The same as `kerasnn gallery`."""

import sys

from kerasnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["gallery", *sys.argv[1:]]))

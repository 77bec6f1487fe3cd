"""The same as `kerasnn study`."""

import sys

from kerasnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))

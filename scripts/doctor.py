"""The same as `kerasnn doctor`."""

import sys

from kerasnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))

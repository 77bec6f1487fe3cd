"""Draw the gallery from the command line: `python scripts/gallery.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kerasnn.commands.gallery import gallery

if __name__ == "__main__":
    sys.exit(gallery())

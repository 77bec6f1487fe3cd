"""Look at devices, versions and compilers, and try them: `python scripts/doctor.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kerasnn.commands.doctor import doctor

if __name__ == "__main__":
    sys.exit(doctor())

"""Executes the notebooks of `examples/` and keeps their outputs: `python .readme/notebooks.py`."""

import os
import tempfile
from pathlib import Path

import nbformat

from tests.test_examples import EXAMPLES, ROOT, executed


def main() -> None:
    os.environ["PYTHONPATH"] = str(ROOT)
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)
        print(path)


if __name__ == "__main__":
    main()

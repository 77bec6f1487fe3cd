"""Mutated files are refused in one line, or read as they stand; checksummed ones never with other content."""

import os
import random

import pytest

from benchmarks.chaos.hostile_files import formats, fuzz

FORMATS = formats()
TIMES = 1000 if os.environ.get("KERASNN_ALL_TESTS") else 40


@pytest.mark.parametrize("kind", FORMATS)
def test_mutated_files(tmp_path, kind):
    score, faults = fuzz(FORMATS[kind], TIMES, tmp_path / "files", random.Random(7))
    assert faults == []
    assert (score.injected, score.survived) == (TIMES, TIMES)

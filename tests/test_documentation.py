"""The documents name files and functions that exist, and the levels that the tests enforce."""

import re
from pathlib import Path

import pytest

from tests.test_layers import LEVELS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
PATH = r"`((?:kerasnn|tests|benchmarks|docs|scripts)/[\w/.-]+\.\w+)`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document):
    missing = [name for name in re.findall(PATH, document.read_text()) if not (ROOT / name).is_file()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_names_are_in_the_files_that_are_said_to_hold_them(document):
    text = " ".join(document.read_text().split())
    for name, file in re.findall(r"`([A-Za-z_.]+)` (?:\(|of |in )" + PATH, text):
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", (ROOT / file).read_text()), f"{file} has no {name}"


def test_rooms_of_the_contributors_guide_are_those_of_the_layers():
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    rooms = {f"kerasnn.{name}": int(level) for level, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert rooms == {room: level for room, level in LEVELS.items() if room != "kerasnn"}

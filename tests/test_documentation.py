"""The documents name files and functions that exist, and the levels that the tests enforce."""

import re
from pathlib import Path

import pytest

from tests.test_layers import LEVELS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted(path for path in (ROOT / "docs").glob("**/*.md") if "_build" not in path.parts)
# Written when the site is built.
GENERATED = {ROOT / "docs" / "api.md", ROOT / "docs" / "command_line.md"}
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


def anchors(document):
    """The anchors of a document's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_and_anchors_lead_somewhere(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if target not in GENERATED and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert broken == []


def test_the_index_names_every_page_once():
    docs = ROOT / "docs"
    pages = {str(path.relative_to(docs).with_suffix("")) for path in DOCUMENTS if docs in path.parents}
    pages |= {path.stem for path in GENERATED}
    text = (ROOT / "docs" / "index.md").read_text()
    named = [line for block in re.findall(r"```{toctree}(.*?)```", text, re.DOTALL) for line in block.split("\n")]
    named = [line for line in named if line and not line.startswith(":")]
    assert sorted(named) == sorted(pages - {"index"})


def test_rooms_of_the_contributors_guide_are_those_of_the_layers():
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    rooms = {f"kerasnn.{name}": int(level) for level, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert rooms == {room: level for room, level in LEVELS.items() if room != "kerasnn"}

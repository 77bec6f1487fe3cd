"""Searches and studies touch no file outside their folder, and in it only files of their own."""

import pytest

from kerasnn.report.write_report import report
from kerasnn.search import run_search
from kerasnn.search.config import SearchConfig
from kerasnn.search.result import read_search
from kerasnn.search.run_search import search
from kerasnn.study import run_study
from kerasnn.study.config import StudyConfig
from kerasnn.study.run_study import read_study, study

RUN = {"network": {"hidden": [4]}, "training": {"epochs": 1}, "report": {"progress": "silent"}}
SEARCH = SearchConfig.model_validate(
    {"run": RUN, "space": {"optimizer.learning_rate": {"choices": [0.1, 0.01]}}, "trials": 2, "oracle": "grid"}
)
STUDY = StudyConfig.model_validate({"run": RUN, "factors": {"network.hidden": [[4], [3]]}, "seeds": 2})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    search(SEARCH, folder / "search")
    study(STUDY, folder / "study")
    return folder


def content(path):
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("search", name) for name in (*run_search.CONTENT, "models/0000.keras", "trials/0001")),
        *(("study", name) for name in (*run_study.CONTENT, "search/journal.jsonl", "search/models")),
    ],
)
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_links_are_refused(finished, tmp_path, kind, name, hard):
    folder, outside = tmp_path / kind, tmp_path / "outside"
    folder.mkdir()
    for path in sorted((finished / kind).rglob("*")):
        target = folder / path.relative_to(finished / kind)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    link = folder / name
    if hard and link.is_dir():
        pytest.skip("folders have no hard links")
    link.rename(outside) if link.exists() else outside.write_text("mine\n")
    link.hardlink_to(outside) if hard else link.symlink_to(outside)
    before = content(outside)
    line = f"{name} must have one name" if hard else rf"{name} must lie in its folder, received a link to .*/outside"
    with pytest.raises(ValueError, match=line):
        search(SEARCH, folder) if kind == "search" else study(STUDY, folder)
    with pytest.raises(ValueError, match=line):
        read_search(folder) if kind == "search" else read_study(folder)
    if name != "config.json":
        with pytest.raises(ValueError, match=line):
            report(folder)
    assert content(outside) == before


def test_files_of_the_users_stay(tmp_path):
    folder = tmp_path / "study"
    study(STUDY, folder)
    trials = sorted((folder / "trials").iterdir())
    mine = [folder / name for name in ("notes.txt", "trials/notes.txt", "search/models/exported.keras")]
    mine.append(trials[0] / "notes.txt")
    for path in mine:
        path.write_text("mine")
    left, stale = folder / "search" / "models" / ".0001.77.partial.keras", folder / "trials" / "07 of before"
    left.write_text("left by a kill")
    stale.mkdir()
    (trials[0] / "events.out.tfevents.0.search").rename(stale / "events.out.tfevents.0.search")
    study(STUDY, folder)
    assert [path.read_text() for path in mine] == ["mine"] * 4
    assert not left.exists()
    assert sorted(path for path in (folder / "trials").iterdir() if path.is_dir()) == trials


@pytest.mark.parametrize(("kind", "run"), [("search", search), ("study", study)])
def test_every_file_that_a_search_touches_lies_in_its_folder(tmp_path, touched_files, kind, run):
    folder = tmp_path / kind
    config = SEARCH if kind == "search" else STUDY
    with touched_files as paths:
        run(config, folder)
        run(config, folder)
        report(folder)
    assert {path.name for path in paths} >= {"config.json", "journal.jsonl", "report.html"}
    assert [path for path in paths if not path.is_relative_to(folder)] == []

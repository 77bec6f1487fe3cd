"""A journal survives what may happen to its last line, and has one owner."""

import errno
import json

import pytest

from kerasnn.config.schema import differences
from kerasnn.search.journal import Journal, read_journal


def test_entries_are_read_back_in_order(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.append([{"a": 1}, {"b": [0.1]}])
        journal.append([{"c": None}])
        lines = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
        assert [line.keys() for line in lines] == [{"a", "checksum"}, {"b", "checksum"}, {"c", "checksum"}]
    with Journal(tmp_path / "j") as journal:
        assert journal.entries == [{"a": 1}, {"b": [0.1]}, {"c": None}]


@pytest.mark.parametrize("torn", [b'{"b": 2', b'{"b": 2}', b"\0\0\0\n", b"3\n"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    (tmp_path / "j").write_bytes(b'{"a": 1}\n' + torn)
    with Journal(tmp_path / "j") as journal:
        assert journal.entries == [{"a": 1}]
        journal.append([{"c": 3}])
    with Journal(tmp_path / "j") as journal:
        assert journal.entries == [{"a": 1}, {"c": 3}]


def test_damage_elsewhere_is_refused(tmp_path):
    (tmp_path / "j").write_bytes(b'{"a": 1}\n{"b"\n{"c": 3}\n')
    with pytest.raises(ValueError, match="damaged at line 2"):
        Journal(tmp_path / "j")


ENTRIES = [{"search": {"trials": 2}}, {"proposal": 0, "values": {"x": 0.25}}, {"result": 0, "score": 0.5, "left": 0}]


def written(path, entries=ENTRIES):
    with Journal(path) as journal:
        for entry in entries:
            journal.append([entry])
    return path.read_bytes()


def test_a_lost_a_moved_and_a_changed_line_are_refused(tmp_path):
    header, proposal, result = written(tmp_path / "j").splitlines(keepends=True)
    for changed in (
        header + result + result,
        proposal + header + result,
        header + proposal.replace(b"0.25", b"0.26") + result,
    ):
        (tmp_path / "j").write_bytes(changed)
        with pytest.raises(ValueError, match=r"damaged at line [12]"):
            Journal(tmp_path / "j")


def test_journals_without_checksums_are_read_and_continued(tmp_path):
    (tmp_path / "j").write_bytes(b'{"a": 1}\n{"b": 2}\n')
    with Journal(tmp_path / "j") as journal:
        journal.append([{"c": 3}])
    assert read_journal(tmp_path / "j") == [{"a": 1}, {"b": 2}, {"c": 3}]
    old, _, new = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(old + new + new)
    with pytest.raises(ValueError, match="damaged at line 2"):
        read_journal(tmp_path / "j")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog, number):
    def flock(handle, operation):
        raise OSError(number, "not here")

    monkeypatch.setattr("fcntl.flock", flock)
    with Journal(tmp_path / "j") as journal:
        journal.append([{"a": 1}])
    assert caplog.messages == [f"{tmp_path / 'j'} cannot be locked (not here): let no other process use it"]


def test_a_second_owner_is_refused(tmp_path):
    with Journal(tmp_path / "j"), pytest.raises(ValueError, match="another process is searching"):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()


def test_nan_never_reaches_the_file(tmp_path):
    with Journal(tmp_path / "j") as journal, pytest.raises(ValueError, match="not JSON compliant"):
        journal.append([{"a": 1}, {"b": float("nan")}])
    assert (tmp_path / "j").read_bytes() == b""


def test_differences_name_dotted_keys():
    before = {"a": 1, "b": {"c": [1], "d": 2}, "e": None}
    assert differences(before, {"a": 1, "b": {"c": [1], "d": 2}, "e": None}) == []
    assert differences(before, {"a": 2, "b": {"c": [2], "d": 2}}) == ["a", "b.c", "e"]

"""A journal survives what may happen to its last line, and has one owner."""

import pytest

from kerasnn.config.schema import differences
from kerasnn.search.journal import Journal


def test_entries_are_read_back_in_order(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.append([{"a": 1}, {"b": [0.1]}])
        journal.append([{"c": None}])
        assert (tmp_path / "j").read_text() == '{"a": 1}\n{"b": [0.1]}\n{"c": null}\n'
    with Journal(tmp_path / "j") as journal:
        assert journal.entries == [{"a": 1}, {"b": [0.1]}, {"c": None}]


@pytest.mark.parametrize("torn", [b'{"b": 2', b'{"b": 2}', b"\0\0\0\n", b"3\n"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    (tmp_path / "j").write_bytes(b'{"a": 1}\n' + torn)
    with Journal(tmp_path / "j") as journal:
        assert journal.entries == [{"a": 1}]
        journal.append([{"c": 3}])
    assert (tmp_path / "j").read_bytes() == b'{"a": 1}\n{"c": 3}\n'


def test_damage_elsewhere_is_refused(tmp_path):
    (tmp_path / "j").write_bytes(b'{"a": 1}\n{"b"\n{"c": 3}\n')
    with pytest.raises(ValueError, match="damaged at line 2"):
        Journal(tmp_path / "j")


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

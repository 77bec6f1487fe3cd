import os
import subprocess
import sys
from pathlib import Path

import pytest

from kerasnn import compilation_cache
from kerasnn.compilation_cache import CompilationCache, begin

NAME = "xla_compile_cache__12__34__XLA_CPU_JIT.pb"


@pytest.fixture
def kept(tmp_path):
    """A cache with one program, and the program's file."""
    cache = CompilationCache(tmp_path)
    (cache.process_folder / NAME).write_bytes(b"compiled")
    cache.close()
    (path,) = cache.folder.iterdir()
    return tmp_path, path


def opened(root):
    cache = CompilationCache(root)
    cache.open()
    found = {path.name: path.read_bytes() for path in cache.process_folder.iterdir()}
    cache.close()
    return found


def test_next_process_gets_what_was_compiled(kept):
    root, path = kept
    assert path.name == NAME + ".64ebd267717810f9524a58c6d7715bd9502b3c9235b291a7104389b372aeec4b"
    assert opened(root) == {NAME: b"compiled"}
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"compile", b"compilee", b"cpmpiled"])
def test_damaged_program_is_deleted(kept, content):
    root, path = kept
    path.write_bytes(content)
    assert opened(root) == {}
    assert not path.exists()


def test_link_is_no_program(kept):
    root, path = kept
    target = root / "target"
    path.rename(target)
    path.symlink_to(target)
    assert opened(root) == {}
    assert target.read_bytes() == b"compiled"


def test_oldest_programs_go_first(kept, monkeypatch):
    root, path = kept
    cache = CompilationCache(root)
    (cache.process_folder / NAME.replace("12", "56")).write_bytes(b"newer")
    cache.close()
    os.utime(path, (0, 0))
    monkeypatch.setattr(compilation_cache, "SIZE", 12)
    assert opened(root) == {NAME.replace("12", "56"): b"newer"}
    assert not path.exists()


def test_folder_of_a_killed_process_is_deleted_when_it_is_old(kept):
    root, path = kept
    killed, living = path.parent / "process-killed", CompilationCache(root)
    killed.mkdir()
    os.utime(living.process_folder, (0, 0))
    assert opened(root) == {NAME: b"compiled"}
    assert killed.exists()
    os.utime(killed, (0, 0))
    os.utime(living.process_folder, (0, 0))
    opened(root)
    assert not killed.exists()
    assert living.process_folder.exists()
    living.close()


def test_folder_that_others_may_write_to_is_not_used(kept, monkeypatch):
    root, path = kept
    path.parent.chmod(0o777)
    with pytest.raises(PermissionError, match="must belong to this user alone"):
        CompilationCache(root)
    monkeypatch.setenv("KERASNN_CACHE", str(root))
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    assert begin() is None
    assert os.environ["TF_XLA_FLAGS"] == ""


@pytest.mark.parametrize(
    ("folder", "flags"),
    [("", ""), ("with space", ""), ("cache", "--tf_xla_persistent_cache_directory=/mine"), ("file/cache", "")],
)
def test_no_cache(tmp_path, monkeypatch, folder, flags):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERASNN_CACHE", folder and str(tmp_path / folder))
    monkeypatch.setenv("TF_XLA_FLAGS", flags)
    assert begin() is None
    assert os.environ["TF_XLA_FLAGS"] == flags
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "inherited",
    ["", " --tf_xla_persistent_cache_directory=/old/process-x --tf_xla_persistent_cache_device_types=CPU"],
)
def test_flags_name_the_folder_of_this_process(tmp_path, monkeypatch, inherited):
    monkeypatch.setenv("KERASNN_CACHE", str(tmp_path))
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug" + inherited)
    monkeypatch.setattr(compilation_cache.atexit, "register", lambda close: closes.append(close))
    closes: list = []
    begin().join()
    (folder,) = tmp_path.glob("xla/*/process-*")
    assert os.environ["TF_XLA_FLAGS"].split() == [
        "--tf_xla_clustering_debug",
        f"--tf_xla_persistent_cache_directory={folder}",
        "--tf_xla_persistent_cache_device_types=CPU",
    ]
    closes[0]()
    assert not folder.exists()


PROGRAM = """
from kerasnn.commands.execution import import_tensorflow
import_tensorflow()
import tensorflow as tf
print(float(tf.function(lambda x: tf.tanh(x) * 2, jit_compile=True)(tf.ones(()))))
"""


@pytest.mark.skipif(not os.environ.get("KERASNN_ALL_TESTS"), reason="set KERASNN_ALL_TESTS=1: starts three processes")
def test_tensorflow_takes_a_kept_program_and_does_without_a_damaged_one(tmp_path):
    environment = {**os.environ, "KERASNN_CACHE": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)

    def run():
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout, {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("xla/*/*")}

    first, programs = run()
    assert len(programs) == 1
    assert run() == (first, programs)
    (path,) = tmp_path.glob("xla/*/*")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    again, others = run()
    assert again == first
    assert len(others) == 1
    assert others != programs

"""One quiet TensorFlow for the whole suite, and Ctrl-C as on a terminal."""

import os
import signal

import pytest

from tests.touched_files import TouchedFiles

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")
# Commands that tests run leave nothing in the home folder.
os.environ.setdefault("KERASNN_CACHE", "")
# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def touched_files(tmp_path_factory, monkeypatch):
    """A context that gives the files that Python touches within it, temporary ones aside."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return TouchedFiles(temporary)

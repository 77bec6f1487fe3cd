"""What `import kerasnn` promises."""

import subprocess
import sys

import pytest

import kerasnn


def python(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", kerasnn.__all__)
def test_public_name_is_there(name):
    assert getattr(kerasnn, name) is not None
    assert name in dir(kerasnn)


def test_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="No kerasnn attribute trian"):
        kerasnn.trian  # noqa: B018


def test_import_imports_neither_tensorflow_nor_keras():
    assert python("import sys, kerasnn; print({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))") == "set()\n"


@pytest.mark.parametrize("imports", ["import kerasnn, keras", "import keras, kerasnn", "import kerasnn.models.layers"])
def test_own_classes_are_registered_once_keras_is_there(imports):
    program = f"{imports}\nimport keras\nprint(sorted(keras.saving.get_custom_objects()))"
    found = python(program)
    for name in ("Network", "SReLU", "RReLU", "Maxout", "SmoothedSparseCategoricalCrossentropy"):
        assert f"kerasnn>{name}" in found

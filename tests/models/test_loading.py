"""Model files from strangers."""

import copy
import io
import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import kerasnn
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import NetworkConfig
from kerasnn.models.building import build_model
from kerasnn.models.loading import load_model

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def small(style="sequential", hidden=(3,)):
    return build_model(NetworkConfig(hidden=hidden), (4,), 2, style=style)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Config and weights of a good file."""
    path = tmp_path_factory.mktemp("good") / "model.keras"
    small().save(path)
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json")), archive.read("model.weights.h5")


def write(path: Path, config, weights: bytes, compression=zipfile.ZIP_STORED, **others: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        if config is not None:
            archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        if weights is not None:
            archive.writestr("model.weights.h5", weights)
        for name, content in others.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


@pytest.mark.parametrize("style", ["sequential", "functional", "subclassed"])
def test_good_models_are_loaded(tmp_path, style):
    model = small(style)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(load_model(tmp_path / "model.keras")(X), model(X))


def test_a_models_own_registered_classes_are_loaded(tmp_path):
    @keras.saving.register_keras_serializable(package="test_loading")
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    model = keras.Sequential([keras.Input((4,)), Twice(), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(load_model(tmp_path / "model.keras")(X), model(X))


def test_sizing_leaves_no_variable_to_be_made(tmp_path):
    small().save(tmp_path / "model.keras")
    load_model(tmp_path / "model.keras")
    waiting = keras.src.backend.common.global_state.get_global_attribute("uninitialized_variables", [])
    assert waiting == []


def layer(class_name, config=None, module="keras.layers", registered_name=None):
    described = {"module": module, "class_name": class_name, "config": config or {}}
    return described | {"registered_name": registered_name}


def with_layer(config, described):
    changed = json.loads(json.dumps(config))
    changed["config"]["layers"][1:1] = described if isinstance(described, list) else [described]
    return changed


LAYERS = {
    "lambda layer": (layer("Lambda", {"function": "f"}), "it holds a Lambda, which runs code"),
    "lambda in an activation": (
        layer("Dense", {"units": 4, "activation": {"class_name": "__lambda__", "config": {"value": "4wA="}}}),
        "it holds a __lambda__, which runs code",
    ),
    "SavedModel": (layer("TFSMLayer", {"filepath": "/tmp/evil"}), "it holds a TFSMLayer"),
    "torch module": (layer("TorchModuleWrapper", {"module": "gASVAAAA"}), "it holds a TorchModuleWrapper"),
    "jax": (layer("JaxLayer", {"call_fn": "f"}), "it holds a JaxLayer"),
    "flax": (layer("FlaxLayer", {"module": "f"}), "it holds a FlaxLayer"),
    "type spec": (layer("__typespec__", ["x"]), "it holds a __typespec__"),
    "lambda layer by another name": (layer("layers.Lambda", {"function": "f"}, "keras"), "it holds a layers.Lambda"),
    "another module": (layer("Popen", {"args": ["true"]}, "subprocess"), "its class 'subprocess.Popen' is neither"),
    "function of another module": (
        layer("function", "system", "os") | {"config": "system"},
        "its class 'os.system' is neither",
    ),
    "Keras's inner modules": (
        layer("get_file", {"fname": "x"}, "keras.src.utils.file_utils"),
        "cannot be loaded as a model: Could not deserialize",
    ),
    "no class of Keras": (layer("get_file", {"origin": "x"}, "keras.utils"), "cannot be loaded as a model"),
    "module of no text": (layer("Dense", {"units": 4}, {"a": 1}), "is neither Keras's nor registered"),
    "wrong arguments": (layer("Dense", {"units": 4, "colour": "red"}), "cannot be loaded as a model"),
    "layer beyond memory": (
        [layer("Dense", {"units": 10**10}), layer("Dense", {"units": 4})],
        "its layers need .* bytes of weights, but the file has",
    ),
    "layers beyond the file": (
        [layer("Dense", {"units": 10**6}), layer("Dense", {"units": 4})],
        "its layers need .* bytes of weights, but the file has",
    ),
}


@pytest.mark.parametrize("described", LAYERS)
def test_hostile_layers_are_refused(tmp_path, parts, described):
    hostile, message = LAYERS[described]
    config, weights = parts
    path = write(tmp_path / "model.keras", with_layer(config, hostile), weights)
    with pytest.raises(ValueError, match=message) as error:
        load_model(path)
    assert "\n" not in str(error.value)


def zipped(change):
    def make(folder, config, weights):
        return write(folder / "model.keras", **change(config, weights))

    return make


def hdf5(fill):
    def make(folder, config, weights):
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            fill(file)
        return write(folder / "model.keras", config, stream.getvalue())

    return make


def text(content, name="model.keras"):
    def make(folder, config, weights):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def truncated(folder, config, weights):
    path = write(folder / "model.keras", config, weights)
    path.write_bytes(path.read_bytes()[:-300])
    return path


def flipped(folder, config, weights):
    path = write(folder / "model.keras", config, weights)
    content = bytearray(path.read_bytes())
    content[content.index(b"Sequential")] ^= 1
    path.write_bytes(content)
    return path


def itself(file):
    file["layers"] = file


def bare_layer(config):
    return config["config"]["layers"][-1]


def long_sequential(config):
    first, *layers = config["config"]["layers"]
    return {**config, "config": {**config["config"], "layers": [first, *layers * 300]}}


def other(**changes):
    """An architecture whose last layer has other arguments."""

    def change(config):
        changed = copy.deepcopy(config)
        changed["config"]["layers"][-1]["config"].update(changes)
        return changed

    return change


def sequential(change):
    """A file of a changed Sequential model."""

    def make(folder, *_):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        config = change(json.loads(json.dumps(keras.saving.serialize_keras_object(model))))
        model.save(folder / "whole.keras")
        with zipfile.ZipFile(folder / "whole.keras") as whole, zipfile.ZipFile(folder / "model.keras", "w") as changed:
            changed.writestr("config.json", json.dumps(config))
            changed.writestr("model.weights.h5", whole.read("model.weights.h5"))
        (folder / "whole.keras").unlink()
        return folder / "model.keras"

    return make


FILES = {
    "a layer": (sequential(bare_layer), "it holds no model but a Dense"),
    "hundreds of layers": (sequential(long_sequential), "its models may have 250 layers, received 301"),
    "an impossible argument": (
        sequential(other(units=-1)),
        r"model: Received an invalid value for `units`, expected a positive integer. Received: units=-1$",
    ),
    "an unknown argument": (
        sequential(other(size=1)),
        "model: Unrecognized keyword arguments passed to Dense",
    ),
    "an unknown activation": (
        sequential(other(activation="rellu")),
        "model: Could not interpret activation function",
    ),
    "other weights": (sequential(other(units=3)), r"model: The shape of the target variable .* must match"),
    "traversal": (zipped(lambda c, w: {"config": c, "weights": w, "..__evil": b"x"}), "its files must be one of"),
    "assets": (zipped(lambda c, w: {"config": c, "weights": w, "assets__x": b"x"}), "its files must be one of"),
    "no config": (zipped(lambda c, w: {"config": None, "weights": w}), "it holds no config.json"),
    "no weights": (zipped(lambda c, w: {"config": c, "weights": None}), "it holds no model.weights.h5"),
    "packed bomb": (
        zipped(lambda c, w: {"config": c, "weights": bytes(10**8), "compression": zipfile.ZIP_DEFLATED}),
        "model.weights.h5 unpacks to 100000000 bytes from",
    ),
    "deep JSON": (zipped(lambda c, w: {"config": '{"a":' * 10**5 + "1" + "}" * 10**5, "weights": w}), "nested"),
    "a key twice": (zipped(lambda c, w: {"config": '{"a": 1, "a": 2}', "weights": w}), "each key once"),
    "no JSON": (zipped(lambda c, w: {"config": "import os", "weights": w}), "JSON must be valid"),
    "no model": (zipped(lambda c, w: {"config": {"a": 1}, "weights": w}), "cannot be loaded as a model"),
    "external link": (hdf5(lambda f: f.update(a=h5py.ExternalLink("/etc/passwd", "/"))), "a link to somewhere else"),
    "soft link": (hdf5(lambda f: f.update(a=h5py.SoftLink("/b"))), "a link to somewhere else"),
    "external storage": (
        hdf5(lambda f: f.create_dataset("a", (8,), "u1", external=[("/etc/passwd", 0, 8)])),
        "are kept in another file",
    ),
    "weights never written": (hdf5(lambda f: f.create_dataset("a", (10**6, 10**6), "f4")), "more than the file has"),
    "packed weights": (
        hdf5(lambda f: f.create_dataset("a", data=np.zeros(10**6), compression="gzip")),
        "more than the file has",
    ),
    "objects for weights": (hdf5(lambda f: f.create_dataset("a", data=["x"])), "more than the file has"),
    "a group in itself": (hdf5(itself), "cannot be loaded as a model"),
    "no HDF5": (zipped(lambda c, w: {"config": c, "weights": b"\x80\x04cos\nsystem\n"}), "cannot be loaded"),
    "a pickle": (text(b"\x80\x04cos\nsystem\n(S'true'\ntR."), "is not a complete .keras file"),
    "another kind of file": (text(b"x", "model.h5"), "must end in .keras"),
    "truncated": (truncated, "is not a complete .keras file"),
    "one bit flipped": (flipped, "is not a complete .keras file: Bad CRC-32"),
}


@pytest.mark.parametrize("kind", FILES)
def test_hostile_files_are_refused(tmp_path, parts, kind):
    make, message = FILES[kind]
    path = make(tmp_path, *parts)
    with pytest.raises(ValueError, match=message) as error:
        load_model(path)
    assert "\n" not in str(error.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


def test_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*model\.keras"):
        load_model(tmp_path / "model.keras")
    (tmp_path / "model.keras").mkdir()
    with pytest.raises(ValueError, match="must be a file; received a folder"):
        load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("name", ["config.json", "model.keras"])
def test_links_out_of_a_run_folder_are_refused(tmp_path, name):
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "config.json").write_text(RunConfig().to_json())
    small().save(tmp_path / "model.keras")
    for entry in ("config.json", "model.keras"):
        if entry == name:
            (run / entry).symlink_to(tmp_path / entry)
        else:
            (run / entry).write_bytes((tmp_path / entry).read_bytes())
    with pytest.raises(ValueError, match=f"{name} must lie in its folder, received a link to"):
        kerasnn.evaluate_run(run)


def test_a_huge_config_is_refused_unread(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(ValueError, match="must be a config of at most 16777216 bytes, received 1073741824"):
        RunConfig.load(tmp_path / "config.json")

"""Members of a fused network come out as runs that were trained alone.

Tolerance: weights and logs within 1e-5 absolute plus 1e-4 relative after three epochs. Each case compiles a program of
its own, so most run only where the environment has KERASNN_ALL_TESTS=1.
"""

import dataclasses
import json
import multiprocessing
import os
import threading

import numpy as np
import pytest
import tensorflow as tf

from kerasnn.config import catalog
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data, from_arrays
from kerasnn.fused import group, loop, program, sizes, template
from kerasnn.fused import train as fused_train
from kerasnn.fused.member import Member
from kerasnn.fused.run_structure import activation_choices, program_key, reason_not_fusable
from kerasnn.fused.train import train_fused
from kerasnn.runs.train import train

EPOCHS = 3
BASE = RunConfig.model_validate(
    {
        "network": {"hidden": [6, 5], "activation": "tanh"},
        "data": {"name": "arrays", "scaling": "none", "test_share": 0},
        "training": {"epochs": EPOCHS, "batch_size": 8, "save_best": False},
        "report": {"progress": "silent", "tensorboard": False, "graph": False},
    }
)


def examples() -> Data:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(37, 4)).astype(np.float32)
    y = np.argmax(x[:, :3] + 0.3 * rng.normal(size=(37, 3)), axis=1)
    x_validation = rng.normal(size=(11, 4)).astype(np.float32)
    y_validation = np.argmax(x_validation[:, :3], axis=1)
    return from_arrays(
        x, y, x_validation=x_validation, y_validation=y_validation, config=BASE.data, class_names=("a", "b", "c")
    )


@pytest.fixture(scope="module")
def data() -> Data:
    return examples()


@pytest.fixture(scope="module", autouse=True)
def short_batches_are_filled_up():
    """As they are where an epoch has more batches than these have; batch norm's are not."""
    template.run_template.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_train, "FILLED_UP_FROM", 4)
        # As in a long training.
        patch.setattr(sizes, "XLA_SECONDS", 0.0)
        yield
    template.run_template.cache_clear()


def mostly_skipped(cases, kept):
    """Parameters of which only those kept run every time."""
    skip = pytest.mark.skipif("KERASNN_ALL_TESTS" not in os.environ, reason="compiles long; set KERASNN_ALL_TESTS=1")
    return [pytest.param(case, id=name, marks=() if name in kept else skip) for name, case in cases.items()]


def runs(*changes: dict, **common: object) -> list[RunConfig]:
    """Runs that differ in seed, initializer and rate, and in what is given."""
    base = replace_at(BASE, {key.replace("__", "."): value for key, value in common.items()})
    initializers = ("he_normal", "glorot_uniform", "orthogonal")
    return [
        replace_at(
            base,
            {
                "seed": 5 + index,
                "network.kernel_initializer": initializers[index % 3],
                "optimizer.learning_rate": 0.02 / (1 + index),
                **own,
            },
        )
        for index, own in enumerate(changes)
    ]


def assert_as_alone(members: list[Member], data: Data, tmp_path: object, tolerance: float = 1e-5) -> None:
    for number, member in enumerate(members):
        # Plain Keras, which is the oracle and has nothing to compile.
        alone = train(replace_at(member.config, {"training.compiled": "off"}), tmp_path / f"{number}", data)
        assert member.history.keys() == alone.history.keys()
        for name, values in alone.history.items():
            np.testing.assert_allclose(member.history[name], values, rtol=1e-4, atol=tolerance, err_msg=name)
        for ours, theirs in zip(member.weights, alone.model.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("name", mostly_skipped({name: name for name in catalog.OPTIMIZERS}, ("adam", "nadam")))
def test_every_optimizer_ends_where_it_ends_alone(name, data, tmp_path):
    assert_as_alone(train_fused(runs({}, {}, optimizer__name=name), data), data, tmp_path)


STOP = {"monitor": "loss", "min_delta": 10, "patience": 1}
LOWER = {"monitor": "loss", "min_delta": 10, "patience": 1}
OWN = {
    "activations": (
        {"network.activation": "relu"},
        {"network.activation": "gelu"},
        {"network.hidden": [6, {"units": 5, "activation": "elu"}]},
    ),
    "dropout": ({"regularization.dropout": 0.0}, {"regularization.dropout": 0.4}),
    "penalties": ({"regularization.l2": 0.0}, {"regularization.l2": 0.1, "regularization.l1": 0.01}),
    "label smoothing": ({"loss.label_smoothing": 0.0}, {"loss.label_smoothing": 0.2}),
    "one cycle": ({"schedule": {"name": "one_cycle"}}, {"schedule": {"name": "one_cycle", "peak": 0.5}}),
    "schedules": ({"schedule": {"name": "cosine", "per": "update"}}, {"schedule": {"name": "step", "step_size": 1}}),
    "early stopping": ({"training.early_stopping": STOP}, {}),
    "plateau": ({"training.plateau": LOWER}, {}),
}


@pytest.mark.parametrize("changes", mostly_skipped(OWN, ("activations", "dropout", "one cycle")))
def test_members_differ_in_what_they_may(changes, data, tmp_path):
    members = train_fused(runs(*changes), data)
    assert {program_key(member.config) for member in members} == {program_key(members[0].config)}
    assert_as_alone(members, data, tmp_path)


# SGD with batch norm: a bias in front of it has no gradient but rounding, which Adam makes as large as any.
NORMED = {"regularization__batch_norm": True, "optimizer__name": "sgd"}
SHARED = {
    "batch norm": NORMED,
    "batch norm and relu": {**NORMED, "network__activation": "relu"},
    "clipnorm": {"optimizer__clipnorm": 0.05},
    "global clipnorm": {"optimizer__global_clipnorm": 0.05},
    "clipvalue": {"optimizer__clipvalue": 0.01},
    "moving average": {"optimizer__ema_momentum": 0.9, "optimizer__use_ema": True},
    "accumulation": {"optimizer__gradient_accumulation_steps": 2},
    "class weight": {"training__class_weight": "balanced"},
    "no metrics": {"training__metrics": []},
    "prelu": {"network__activation": "prelu"},
    "gaussian dropout": {"regularization__dropout": 0.3, "regularization__dropout_kind": "gaussian_dropout"},
    "one-hot": {"data__one_hot": True, "loss__name": "categorical_crossentropy"},
}


@pytest.mark.parametrize(
    "common", mostly_skipped(SHARED, ("batch norm", "global clipnorm", "moving average", "no metrics"))
)
def test_members_share_what_they_must(common, data, tmp_path):
    if "data__one_hot" in common:
        config = replace_at(BASE, {"data.one_hot": True}).data
        data = from_arrays(
            data.x_train,
            data.y_train,
            x_validation=data.x_validation,
            y_validation=data.y_validation,
            config=config,
            class_names=data.class_names,
        )
    assert_as_alone(train_fused(runs({}, {}, **common), data), data, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network.hidden", [6, 6]),
        ("network.activation", "exponential"),
        ("optimizer.name", "sgd"),
        ("training.batch_size", 4),
        ("optimizer.clipnorm", 1.0),
        ("regularization.batch_norm", True),
    ],
)
def test_what_changes_the_program_makes_another_key(key, value, data):
    other = replace_at(BASE, {key: value})
    assert program_key(other) != program_key(BASE)
    with pytest.raises(ValueError, match="runs must share one program_key to be fused; run 1 differs from run 0"):
        train_fused([BASE, other], data)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("devices.precision", "mixed_bfloat16", "fused networks are float32"),
        ("devices.deterministic", True, "devices switch XLA off"),
        ("training.compiled", "off", "asks for plain Keras"),
        ("data", {"name": "images", "path": "photos", "augment": {"flip": "horizontal"}}, "changes images at random"),
    ],
)
def test_what_cannot_be_fused_says_why(key, value, reason, data):
    config = replace_at(BASE, {key: value})
    assert program_key(config) is None
    assert reason in reason_not_fusable(config)
    with pytest.raises(ValueError, match=f"run 0 cannot be fused: .*{reason}"):
        train_fused([config], data)


def test_examples_in_a_file_are_refused(data, tmp_path):
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=data.x_train.shape)
    x[:] = data.x_train
    with pytest.raises(ValueError, match="their examples are read from a file while training"):
        train_fused(runs({}, {}), dataclasses.replace(data, x_train=x))


def test_a_member_that_diverges_fails_alone(data, tmp_path):
    healthy, sick = runs({}, {"optimizer.learning_rate": 1e30}, optimizer__name="sgd", network__activation="relu")
    members = train_fused([healthy, sick], data)
    assert [member.status for member in members] == ["finished", "diverged"]
    assert members[1].state is None
    assert len(members[1].history.get("loss", ())) < EPOCHS
    assert_as_alone(members[:1], data, tmp_path)


def test_a_group_too_large_for_memory_is_split(data, monkeypatch):
    configs = runs({}, {}, {}, {}, {})
    together = train_fused(configs, data)
    monkeypatch.setattr(sizes, "device_memory", lambda: 20_000)
    found, trains = [], group.Group.train
    monkeypatch.setattr(group.Group, "train", lambda self, *a: found.append(len(self.rows)) or trains(self, *a))
    split = train_fused(configs, data)
    assert max(found) < 5
    for one, other in zip(together, split, strict=True):
        for name, values in one.history.items():
            assert other.history[name] == pytest.approx(values, rel=1e-5)


def test_groups_run_at_once_on_the_cores_of_a_cpu(data, monkeypatch):
    configs = runs({}, {}, {}, {}, regularization__dropout=0.2)
    together = train_fused(configs, data)
    monkeypatch.setattr(sizes, "MEMBERS_PER_CORE", 2)
    monkeypatch.setattr(sizes.os, "cpu_count", lambda: 8)
    met, trains = threading.Barrier(2, timeout=30), group.Group.train

    def train_with_another(self, epoch):
        met.wait()
        return trains(self, epoch)

    monkeypatch.setattr(group.Group, "train", train_with_another)
    # What is traced must not be in the way of another thread: it patches Keras.
    tracing, traced = program.for_members, []
    monkeypatch.setattr(program, "for_members", lambda: traced.append(threading.current_thread()) or tracing())
    template.run_template.cache_clear()
    logs = []
    at_once = train_fused(configs, data, on_epoch=lambda epoch, found: logs.append(list(found)))
    assert logs == [[0, 1, 2, 3]] * EPOCHS
    assert set(traced) == {threading.main_thread()}
    for one, other in zip(together, at_once, strict=True):
        for name, values in one.history.items():
            assert other.history[name] == pytest.approx(values, rel=1e-5)


def trained_on(names):
    """Where groups trained, and what came of it; TensorFlow takes two CPUs for granted only before it starts."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    found, trains = [], group.Group.train

    def train_and_note(self, epoch):
        logs = trains(self, epoch)
        found.append((self._state[0].device.rpartition("device:")[2], len(self.rows)))
        return logs

    group.Group.train = train_and_note
    configs = runs({}, {}, {}, regularization__dropout=0.2, devices__device=names)
    return [member.history for member in train_fused(configs, examples())], sorted(found)


def test_groups_are_spread_over_devices(data):
    with multiprocessing.get_context("spawn").Pool(1) as process:
        histories, found = process.apply(trained_on, (["CPU:0", "CPU:1"],))
    assert found == sorted([("CPU:0", 2), ("CPU:1", 2)] * EPOCHS)
    for member, history in zip(
        train_fused(runs({}, {}, {}, regularization__dropout=0.2), data), histories, strict=True
    ):
        for name, values in member.history.items():
            assert history[name] == pytest.approx(values, rel=1e-5)


def test_a_device_that_is_not_there_is_refused(data):
    with pytest.raises(ValueError, match=r"devices\.device must be one of CPU:0; received 'GPU:7'"):
        train_fused(runs({}, devices__device="GPU:7"), data)


def test_a_program_offers_the_activations_of_later_runs():
    relu, layered = {"network.activation": "relu"}, {"network.hidden": [{"units": 6, "activation": "gelu"}]}
    later = runs({}, relu, layered, {"network.activation": "softmax"})
    names = [[json.loads(each)["name"] for each in choices] for choices in activation_choices(runs({}), later)]
    assert names == [["gelu", "relu", "tanh"]] * 2
    # What is not chosen freely is part of the program itself.
    names = [[json.loads(each)["name"] for each in choices] for choices in activation_choices(later[3:], later)]
    assert names == [["softmax"], ["softmax"]]


def test_programs_are_used_again(data):
    template.run_template.cache_clear()
    for index in range(3):
        train_fused(runs({"seed": index}), data, later_configs=runs({}, {"network.activation": "relu"}))
    train_fused(runs({"network.activation": "relu"}), data, later_configs=runs({}))
    assert template.run_template.cache_info()[:2] == (3, 1)


@pytest.mark.parametrize(
    ("operations", "members", "size"),
    [
        (0.01, 1, 32),  # a small network's time goes into beginning operations
        (0.01, 33, 64),
        (1, 17, 20),  # 4 members · 10 epochs · 1 are less than half of 100, 8 are not
        (3, 17, 17),
        (0.01, 91, 92),  # no more than are ever trained together
        (0.01, 101, 100),  # nor than there is room for
    ],
)
def test_groups_have_few_different_sizes(operations, members, size):
    assert sizes.Sizes(operations, epochs=10, compile_cost=100, capacity=100, max_members=92).padded(members) == size


def test_a_group_goes_on_smaller_where_that_saves_more_than_compiling():
    found = sizes.Sizes(operations=1e9, epochs=30, compile_cost=1e11, capacity=100, max_members=0)
    assert found.after_departures(20, members=10, epochs_left=10) == 20
    assert found.after_departures(20, members=10, epochs_left=11) == 10


def test_results_do_not_depend_on_what_was_trained_before(data):
    configs = runs({}, {}, {})
    later = runs({"network.activation": "relu"})
    first = train_fused(configs, data, later_configs=later, max_members=8)
    train_fused([*configs, *later], data)
    for _ in range(3):
        train_fused(configs[:2], data, later_configs=later, max_members=8, on_epoch=lambda epoch, logs: [0])
    again = train_fused(configs, data, later_configs=later, max_members=8)
    for one, other in zip(first, again, strict=True):
        assert one.history == other.history
        assert all(np.array_equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))


def test_stopped_members_leave_and_the_rest_go_on(data, monkeypatch, tmp_path):
    found, trains = [], group.Group.train
    monkeypatch.setattr(group.Group, "train", lambda self, *a: found.append(len(self.rows)) or trains(self, *a))
    monkeypatch.setattr(loop, "COMPILE_COST", {"CPU": 0})
    members = train_fused(runs({}, {}, {}), data, on_epoch=lambda epoch, logs: [0, 2] if epoch == 0 else None)
    assert [member.status for member in members] == ["stopped", "finished", "stopped"]
    assert [len(member.history["loss"]) for member in members] == [1, EPOCHS, 1]
    assert found == [3, 1, 1]
    assert_as_alone([members[1]], data, tmp_path)


@pytest.mark.parametrize("common", [{}, {"optimizer__use_ema": True}, {"regularization__dropout": 0.2}])
def test_members_go_on_from_their_state_as_if_never_stopped(common, data):
    configs = runs({}, {"training.plateau": {"monitor": "loss", "min_delta": 10, "patience": 1}}, **common)
    whole = train_fused(configs, data)
    begun = train_fused(configs, data, on_epoch=lambda epoch, logs: [0, 1])
    resumed = train_fused(configs, data, initial=[member.state for member in begun])
    for one, other in zip(whole, resumed, strict=True):
        assert one.history == other.history
        assert all(np.array_equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))


def test_states_of_different_epochs_are_refused(data):
    configs = runs({}, {})
    begun = train_fused(configs, data, on_epoch=lambda epoch, logs: [0])
    with pytest.raises(ValueError, match=r"members must resume from the same epoch, received epochs \[1, 3\]"):
        train_fused(configs, data, initial=[member.state for member in begun])


def test_the_mode_decides_the_best_epoch(data):
    changes = {"training.monitor": "accuracy", "training.monitor_mode": "min"}
    (member,) = train_fused(runs(changes), data)
    assert member.best_epoch == int(np.argmin(member.history["accuracy"]))


def test_best_weights_are_those_of_the_best_epoch(data):
    (member,) = train_fused(runs({"training.monitor": "val_loss"}), data)
    assert member.best_epoch == int(np.argmin(member.history["val_loss"]))
    model = member.model()
    if member.best_epoch == EPOCHS - 1:
        assert all(np.array_equal(a, b) for a, b in zip(member.best_weights, model.get_weights(), strict=True))
    assert model.predict(data.x_train[:2], verbose=0).shape == (2, 3)

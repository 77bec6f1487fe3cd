"""Training on several devices, and in several processes, ends where training on one device ends."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasnn.distribute.processes import free_addresses
from kerasnn.engine.fit import fit
from tests.engine.replicas import ALL, QUICK

# Two processes are in the quick suite through tests/distribute/test_processes.py.
KINDS = ["mirrored", "workers"] if os.environ.get("KERASNN_ALL_TESTS") else ["mirrored"]
CASES = ALL if os.environ.get("KERASNN_ALL_TESTS") else QUICK
PROGRAM = Path(__file__).with_name("replicas.py")


def _run(kind: str, count: int) -> dict[str, Any]:
    """What the first of some processes says."""
    names = list(CASES)
    addresses = free_addresses(count)
    processes = []
    for index in range(count):
        described = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, **({"TF_CONFIG": json.dumps(described)} if count > 1 else {})}
        processes.append(
            subprocess.Popen(
                [sys.executable, PROGRAM, kind, *names],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if index else None,
                text=True,
            )
        )
    try:
        output, _ = processes[0].communicate(timeout=3000)
        assert processes[0].returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return json.loads(output.splitlines()[-1])


# One program for all cases, because it takes seconds to start.
@pytest.mark.parametrize("kind", KINDS)
def test_replicas_end_where_one_device_ends(kind: str) -> None:
    found = _run(kind, count=2 if kind == "workers" else 1)
    for name in CASES:
        assert isinstance(found[name], dict), f"{name}: {found[name]}"
        for part, difference in found[name].items():
            # Moments are of gradients, which a rate has not yet made small.
            limit = 2e-6 if part == "optimizer" else 1e-6
            assert difference <= limit, f"{name}: {part} differ by {difference}"
    assert found["masks"]


@pytest.fixture(scope="module", params=[tf.distribute.OneDeviceStrategy, tf.distribute.MirroredStrategy])
def single(request) -> Any:
    return request.param("CPU:0") if request.param is tf.distribute.OneDeviceStrategy else request.param(["CPU:0"])


def test_one_replica_is_compiled_as_without_a_strategy(single) -> None:
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    weights = []
    for strategy in (tf.distribute.get_strategy(), single):
        with strategy.scope():
            kernel = keras.initializers.GlorotUniform(1)
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, kernel_initializer=kernel)])
            model.compile("adam", "mse")
        fit(model, x, x[:, :2], epochs=2, batch_size=8, verbose=0, compiled="on", seed=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)

"""Where a run is computed, and what is refused before it starts."""

import json

import keras
import pytest

from kerasnn.config.sections import DevicesConfig
from kerasnn.distribute import devices


def test_one_device_needs_no_strategy_and_precision_returns():
    with devices.use(DevicesConfig(precision="bfloat16")) as place:
        assert str(place).startswith("CPU:0 of CPU:0") or str(place).startswith("GPU")
        assert place.strategy is None
        assert place.chief
        assert keras.config.dtype_policy().name == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"device": "GPU:7"}, "devices.device must be one of .*received 'GPU:7'"),
        ({"device": ["CPU:0", "CPU:9"]}, "devices.device must be one of .*received 'CPU:9'"),
        ({"strategy": "multi_worker"}, "multi_worker needs the processes' addresses in TF_CONFIG"),
        ({"workers": 2}, "devices.workers are started by `kerasnn train` alone, received 2"),
    ],
)
def test_what_is_not_there_is_refused(fields, line):
    with pytest.raises(ValueError, match=line), devices.use(DevicesConfig(**fields)):
        pass


def test_xla_is_refused_for_several_processes(monkeypatch):
    described = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(described))
    with (
        pytest.raises(ValueError, match="jit_compile must be false or auto for several processes, received true"),
        devices.use(DevicesConfig(jit_compile=True)),
    ):
        pass

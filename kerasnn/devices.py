"""What a run is computed on: device, precision, XLA, determinism."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import keras
import tensorflow as tf

from kerasnn.config import DevicesConfig
from kerasnn.schema import one_of


@contextmanager
def use(devices: DevicesConfig) -> Iterator[str]:
    """Within it, models are built and trained where and how the config says; Keras's own settings return afterwards.

    Args:
        devices: the described device, precision and determinism.

    Yields:
        One line that names the device and the precision.

    Raises:
        ValueError: one line with the devices there are, where the one asked for is missing.

    Reference: `tf.device`, `keras.config.set_dtype_policy`.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        # Once TensorFlow has started this can no longer change; a second run in one process keeps the first one's.
        with suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, devices.memory_growth)
    if devices.deterministic:
        tf.config.experimental.enable_op_determinism()
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    chosen = devices.device or next((name for name in names if name.startswith("GPU")), "CPU:0")
    if chosen not in names:
        raise ValueError(one_of("devices.device", chosen, names))
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(devices.precision)
    try:
        with tf.device(chosen):
            yield f"{chosen} of {', '.join(names)}; {devices.precision}"
    finally:
        keras.config.set_dtype_policy(policy)

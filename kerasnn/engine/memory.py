"""Memory that is available for training data."""

import os
from pathlib import Path

import tensorflow as tf

from kerasnn.keras_private import memory_limit

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def device_memory() -> int:
    """Memory in bytes of the first GPU, or without one the main memory that this process may use."""
    if tf.config.list_logical_devices("GPU"):
        return memory_limit()
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or no limit ("max")
            continue
    return min(limits)

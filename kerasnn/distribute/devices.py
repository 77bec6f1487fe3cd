"""What a run is computed on: devices, processes, precision, XLA, determinism."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from kerasnn.config.schema import one_of
from kerasnn.config.sections import DevicesConfig
from kerasnn.distribute import processes
from kerasnn.distribute.replicas import replica_number, sum_of_replicas
from kerasnn.signals import raised

_connected: tf.distribute.Strategy | None = None
"""This process's strategy with its peers, of which TensorFlow allows one."""

_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


@dataclass(frozen=True)
class Placement:
    """Where a run is computed.

    Args:
        description: one line that names devices and precision.
        strategy: how the devices share the work, or None for one device.
        chief: whether this process writes what the run leaves.
    """

    description: str
    strategy: tf.distribute.Strategy | None = None
    chief: bool = True

    def __str__(self) -> str:
        return self.description

    def scope(self) -> AbstractContextManager[object]:
        """Within it a model must be built and compiled."""
        return nullcontext() if self.strategy is None else self.strategy.scope()


@contextmanager
def use(devices: DevicesConfig) -> Iterator[Placement]:
    """Within it, models are trained where and how the config says; Keras's own settings return afterwards.

    Args:
        devices: the described devices, strategy, precision and determinism.

    Yields:
        The placement; models are built and compiled within its `scope()`.

    Raises:
        ValueError: one line with the devices there are, where one asked for is missing, and where the strategy does not
            go with them.
        ConnectionError: one line, where another process did not start or was lost.

    Reference: `tf.device`, `tf.distribute`, `keras.config.set_dtype_policy`.
    """
    cluster = processes.cluster()
    connects = devices.strategy == "multi_worker" or (devices.strategy == "auto" and cluster is not None)
    if connects and cluster is None:
        raise ValueError(
            "devices.strategy multi_worker needs the processes' addresses in TF_CONFIG, or devices.workers; received "
            "neither"
        )
    if cluster is None and (devices.workers or 1) > 1:
        raise ValueError(f"devices.workers are started by `kerasnn train` alone, received {devices.workers}")
    _let_memory_grow(devices)
    if devices.deterministic:
        tf.config.experimental.enable_op_determinism()
    policy = keras.config.dtype_policy()
    with ExitStack() as stack:
        if connects and cluster is not None:
            # Before anything that makes TensorFlow start.
            placement = _connect(cluster, devices)
            # TensorFlow swallows SIGTERM from here on.
            stack.enter_context(raised())
            stack.enter_context(watching_peers(placement.strategy))
        else:
            placement = _local(devices)
            if placement.strategy is None:
                stack.enter_context(tf.device(placement.description.split()[0]))
        keras.config.set_dtype_policy(devices.precision)
        stack.callback(keras.config.set_dtype_policy, policy)
        yield placement


@contextmanager
def watching_peers(strategy: tf.distribute.Strategy | None) -> Iterator[None]:
    """Within it the loss of another process is one line.

    Args:
        strategy: a strategy; only one over several processes is watched.

    Raises:
        ConnectionError: another process is gone.
    """
    try:
        yield
    except _LOST as error:
        if not over_processes(strategy):
            raise
        raise ConnectionError(
            "another of the processes that train together is gone, so this one stops; start all of them again"
        ) from error


def over_processes(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether a strategy's replicas are those of several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and processes.cluster() is not None


def from_chief(placement: Placement, content: bytes) -> bytes:
    """What the first of the processes that train together has, for all of them.

    Args:
        placement: of such a process.
        content: the first process's; the others' is not looked at.
    """
    strategy = placement.strategy
    assert strategy is not None

    def handed(values: tf.Tensor) -> tf.Tensor:
        own = values if replica_number() == 0 else tf.zeros_like(values)
        return sum_of_replicas(own)

    def on_all(values: np.ndarray) -> np.ndarray:
        results = tf.function(lambda: strategy.run(handed, args=(tf.constant(values),)), autograph=False)()
        return strategy.experimental_local_results(results)[0].numpy()

    size = int(on_all(np.array([len(content)], np.int32))[0])
    padded = content.ljust(-(-size // 4) * 4, b"\0") if placement.chief else bytes(-(-size // 4) * 4)
    return on_all(np.frombuffer(padded, np.int32)).tobytes()[:size] if size else b""


def chosen(devices: DevicesConfig) -> list[str]:
    """Names of this process's devices that a config asks for.

    Raises:
        ValueError: one line with the devices there are, where one asked for is missing.
    """
    _let_memory_grow(devices)
    names = _names()
    gpus = [name for name in names if name.startswith("GPU")]
    wanted = [devices.device] if isinstance(devices.device, str) else list(devices.device or ())
    for name in wanted:
        if name not in names:
            raise ValueError(one_of("devices.device", name, names))
    found = wanted or gpus or (names if devices.strategy == "mirrored" else ["CPU:0"])
    return found[:1] if devices.strategy == "one_device" else found


def _names() -> list[str]:
    return [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]


def _let_memory_grow(devices: DevicesConfig) -> None:
    for gpu in tf.config.list_physical_devices("GPU"):
        # Once TensorFlow has started this can no longer change; a second run in one process keeps the first one's.
        with suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, devices.memory_growth)


def _local(devices: DevicesConfig) -> Placement:
    names = chosen(devices)
    of = f"of {', '.join(_names())}; {devices.precision}"
    if len(names) == 1:
        return Placement(f"{names[0]} {of}")
    if devices.jit_compile is True:
        raise ValueError(f"devices.jit_compile must be false or auto for {len(names)} devices, received true")
    strategy = tf.distribute.MirroredStrategy(names)
    return Placement(f"{' + '.join(names)} {of}", strategy)


def _connect(cluster: processes.Cluster, devices: DevicesConfig) -> Placement:
    """Wait for the other processes."""
    global _connected
    if devices.jit_compile is True:
        raise ValueError("devices.jit_compile must be false or auto for several processes, received true")
    count = len(cluster.addresses)
    if _connected is None:
        processes.meet(cluster, devices.worker_wait)
        try:
            _connected = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise ValueError(f"processes must be connected before TensorFlow computes anything: {error}") from error
    local = len(_connected.extended.worker_devices)
    description = (
        f"process {cluster.number + 1} of {count} with {_connected.num_replicas_in_sync} replicas, {local} here"
    )
    return Placement(f"{description}; {devices.precision}", _connected, cluster.number == 0)

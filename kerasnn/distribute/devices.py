"""The devices, processes and precision that a run computes with."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from kerasnn.config.schema import one_of
from kerasnn.config.sections import DevicesConfig
from kerasnn.distribute import processes, slurm
from kerasnn.distribute.replicas import replica_number, sum_of_replicas
from kerasnn.signals import raised

_connected: tf.distribute.Strategy | None = None
"""The strategy that connects this process with its peers; TensorFlow allows only one."""

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
    """The devices of a run.

    Args:
        description: one line with the devices and the precision.
        strategy: the strategy by which the devices share the work; None for one device.
        chief: whether this process writes the run's files.
    """

    description: str
    strategy: tf.distribute.Strategy | None = None
    chief: bool = True

    def __str__(self) -> str:
        return self.description

    def scope(self) -> AbstractContextManager[object]:
        """The context in which a model must be built and compiled."""
        return nullcontext() if self.strategy is None else self.strategy.scope()


@contextmanager
def use(devices: DevicesConfig) -> Iterator[Placement]:
    """Train within it on the devices that a config describes; Keras's own settings are restored afterwards.

    Args:
        devices: the devices, strategy, precision and determinism.

    Yields:
        The placement; build and compile models within its `scope()`.

    Raises:
        ValueError: one line, for a device that this machine lacks, or a strategy that its devices can't run.
        ConnectionError: one line, if another process did not start or was lost.

    Reference: `tf.device`, `tf.distribute`, `keras.config.set_dtype_policy`.
    """
    if devices.strategy == "multi_worker":
        slurm.set_tf_config()
    cluster = processes.cluster()
    connects = devices.strategy == "multi_worker" or (devices.strategy == "auto" and cluster is not None)
    if connects and cluster is None:
        raise ValueError(
            "devices.strategy multi_worker needs the processes' addresses in TF_CONFIG, several processes of srun, or "
            "devices.workers; received none of them"
        )
    if cluster is None and (devices.workers or 1) > 1:
        raise ValueError(f"devices.workers are started by `kerasnn train` alone, received {devices.workers}")
    _let_memory_grow(devices)
    if devices.deterministic:
        tf.config.experimental.enable_op_determinism()
    policy = keras.config.dtype_policy()
    with ExitStack() as stack:
        if connects and cluster is not None:
            # Before anything starts TensorFlow.
            placement = _connect(cluster, devices)
            # From here on TensorFlow ignores SIGTERM.
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
    """Within it, the loss of another process raises an error of one line.

    Args:
        strategy: the model's strategy; one within a single process changes nothing.

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
    """Whether a strategy has replicas in several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and processes.cluster() is not None


def from_chief(placement: Placement, content: bytes) -> bytes:
    """Send bytes from the chief to all processes that train together; every process must call this.

    Args:
        placement: this process's placement.
        content: the chief's bytes; ignored in the other processes.

    Returns:
        The chief's bytes.
    """
    strategy = placement.strategy
    assert strategy is not None

    def of_first_replica(values: tf.Tensor) -> tf.Tensor:
        return sum_of_replicas(values if replica_number() == 0 else tf.zeros_like(values))

    def broadcast(values: np.ndarray) -> np.ndarray:
        results = tf.function(lambda: strategy.run(of_first_replica, args=(tf.constant(values),)), autograph=False)()
        return strategy.experimental_local_results(results)[0].numpy()

    size = int(broadcast(np.array([len(content)], np.int32))[0])
    padded = content.ljust(-(-size // 4) * 4, b"\0") if placement.chief else bytes(-(-size // 4) * 4)
    return broadcast(np.frombuffer(padded, np.int32)).tobytes()[:size] if size else b""


def chosen(devices: DevicesConfig) -> list[str]:
    """Names of this process's devices that a config selects.

    Raises:
        ValueError: one line with the devices of this machine, if a requested one is missing.
    """
    _let_memory_grow(devices)
    names = _names()
    gpus = [name for name in names if name.startswith("GPU")]
    requested = [devices.device] if isinstance(devices.device, str) else list(devices.device or ())
    for name in requested:
        if name not in names:
            raise ValueError(one_of("devices.device", name, names))
    selected = requested or gpus or (names if devices.strategy == "mirrored" else ["CPU:0"])
    return selected[:1] if devices.strategy == "one_device" else selected


def _names() -> list[str]:
    return [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]


def _let_memory_grow(devices: DevicesConfig) -> None:
    for gpu in tf.config.list_physical_devices("GPU"):
        # This can't change once TensorFlow has started; a second run in a process keeps the setting of the first.
        with suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, devices.memory_growth)


def _local(devices: DevicesConfig) -> Placement:
    names = chosen(devices)
    available = f"of {', '.join(_names())}; {devices.precision}"
    if len(names) == 1:
        return Placement(f"{names[0]} {available}")
    if devices.jit_compile is True:
        raise ValueError(f"devices.jit_compile must be false or auto for {len(names)} devices, received true")
    strategy = tf.distribute.MirroredStrategy(names)
    return Placement(f"{' + '.join(names)} {available}", strategy)


def _connect(cluster: processes.Cluster, devices: DevicesConfig) -> Placement:
    """Wait for the other processes."""
    global _connected
    if devices.jit_compile is True:
        raise ValueError("devices.jit_compile must be false or auto for several processes, received true")
    count = len(cluster.addresses)
    if _connected is None:
        processes.wait_for_peers(cluster, devices.worker_wait)
        try:
            _connected = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise ValueError(f"processes must be connected before TensorFlow computes anything: {error}") from error
    local = len(_connected.extended.worker_devices)
    description = (
        f"process {cluster.number + 1} of {count} with {_connected.num_replicas_in_sync} replicas, {local} here"
    )
    return Placement(f"{description}; {devices.precision}", _connected, cluster.number == 0)

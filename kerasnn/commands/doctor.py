"""`kerasnn doctor`: which devices TensorFlow can use, and whether they compute right."""

import argparse
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, FAILED, import_tensorflow
from kerasnn.distribute import processes

TOLERANCE = 1e-4
"""Largest relative difference between the gradients of one device and of several that rounding can explain."""

_GPU_REMEDY = 'pip install "tensorflow[and-cuda]" into this environment, with a driver that nvidia-smi finds'


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = Parser("kerasnn doctor", "Check devices, versions and compilers, and compare one device with several.")
    parser.add_argument(
        "--replicas", type=int, metavar="N", help="devices to compare with one (default: all GPUs, at least 2)"
    )
    options = parser.read(arguments)
    if options.replicas is not None and options.replicas < 2:
        parser.error(f"--replicas must be at least 2, received {options.replicas}")
    return options


def run(options: argparse.Namespace) -> int:
    """Print what TensorFlow can compute on and whether it computes right, with a remedy for each problem."""
    problems = _settings()
    # This process compares devices by itself, whatever processes TF_CONFIG names.
    os.environ.pop("TF_CONFIG", None)
    import_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    replicas = options.replicas or max(2, len(gpus))
    if replicas > len(gpus):
        # Where there are too few GPUs, logical CPUs show whether the numbers are right.
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    problems += _describe(gpus)
    problems += _try_arithmetic("GPU:0" if gpus else "CPU:0")
    problems += _compare(replicas, "GPU" if replicas <= len(gpus) else "CPU")
    for problem in problems:
        _print_row("problem", problem)
    _print_row("result", f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "all is well")
    return FAILED if problems else DONE


def _print_row(name: str, text: str) -> None:
    print(f"{name:<20}{text}", flush=True)


def _settings() -> list[str]:
    """Problems of versions and environment variables, which need no TensorFlow to be found."""
    problems = []
    keras_version = tuple(int(part) for part in version("keras").split(".")[:3] if part.isdigit())
    if keras_version < (3, 15, 1):
        problems.append("keras before 3.15.1 loads unsafe model files: pip install 'keras>=3.15.1'")
    if (backend := os.environ.get("KERAS_BACKEND", "tensorflow")) != "tensorflow":
        problems.append(f"KERAS_BACKEND is {backend!r} and kerasnn trains on TensorFlow: unset it")
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1") and _gpus_of_driver():
        problems.append("CUDA_VISIBLE_DEVICES hides every GPU: unset it")
    try:
        processes.cluster()
    except ValueError as error:
        problems.append(str(error))
    return problems


def _gpus_of_driver() -> list[str]:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.split(" (UUID")[0] for line in listed.stdout.splitlines() if line.startswith("GPU")]


def _describe(gpus: list[Any]) -> list[str]:
    """Print versions and devices; problems with them."""
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    cuda = f", built for CUDA {build['cuda_version']}" if build.get("cuda_version") else ", built without CUDA"
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    _print_row("python", f"{system}, {os.cpu_count()} cores")
    _print_row("versions", ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras", "numpy")) + cuda)
    drivers = _gpus_of_driver()
    for number, line in enumerate(drivers):
        _print_row("driver" if number == 0 else "", line)
    for number, gpu in enumerate(gpus):
        details = tf.config.experimental.get_device_details(gpu)
        capability = ".".join(map(str, details.get("compute_capability", ("?",))))
        _print_row(f"GPU:{number}", f"{details.get('device_name', 'unknown')}, compute capability {capability}")
    if not gpus:
        _print_row("GPU", "none that TensorFlow can use")
    if drivers and not gpus:
        return [f"the driver has {len(drivers)} GPUs and TensorFlow sees none: {_GPU_REMEDY}"]
    return []


def _try_arithmetic(device: str) -> list[str]:
    """Multiply matrices in each precision and under XLA; problems with them."""
    problems = []
    for name, dtype, xla in (
        *((f"{dtype} on {device}", dtype, False) for dtype in ("float32", "bfloat16", "float16")),
        (f"XLA on {device}", "float32", True),
    ):
        try:
            _multiply(device, dtype, xla)
            _print_row(name, "works")
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            _print_row(name, f"fails: {lines[0][:150]}")
            option = "--devices.jit_compile false" if xla else "another --devices.precision"
            problems.append(f"{name} fails: train with {option}")
    return problems


def _multiply(device: str, dtype: str, xla: bool) -> None:
    """Multiply two matrices and check the product."""
    import numpy as np
    import tensorflow as tf

    with tf.device(device):
        ones = tf.ones((64, 64), dtype)
        product = tf.function(lambda: tf.matmul(ones, ones), jit_compile=xla, autograph=False)()
    if not np.array_equal(tf.cast(product, tf.float32).numpy(), np.full((64, 64), 64.0)):
        raise ArithmeticError("a product of matrices is wrong")


def _compare(replicas: int, kind: str) -> list[str]:
    """Train one batch on one device and on replicas, and compare loss and gradients."""
    import keras
    import numpy as np
    import tensorflow as tf

    from kerasnn import NetworkConfig, build_model, fit

    x = np.random.default_rng(0).normal(size=(8 * replicas + 1, 20)).astype("float32")
    y = np.arange(len(x)) % 5
    strategy = tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(replicas)])
    losses: list[float] = []
    gradients: list[np.ndarray] = []
    for scope in (tf.device(f"{kind}:0"), strategy.scope()):
        with scope:
            model = build_model(NetworkConfig(hidden=[16, 8]), (20,), 5, seed=0)
            # Plain gradient descent at rate 1: the weights change by the gradient.
            model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
        before = model.get_weights()
        with tf.device(f"{kind}:0") if not losses else nullcontext():
            history = fit(model, x, y, batch_size=len(x), epochs=1, verbose=0)
        losses.append(history.history["loss"][0])
        gradients.append(np.concatenate([np.ravel(a - b) for a, b in zip(before, model.get_weights(), strict=True)]))
    largest = float(np.abs(gradients[0] - gradients[1]).max() / np.abs(gradients[0]).max())
    _print_row(
        f"1 and {replicas} × {kind}", f"loss {losses[0]:.7f} and {losses[1]:.7f}, gradients differ by {largest:.1e}"
    )
    if not (largest <= TOLERANCE and abs(losses[0] - losses[1]) <= TOLERANCE * abs(losses[0])):
        return [f"{replicas} replicas do not compute what one device does: train with --devices.strategy one_device"]
    return []

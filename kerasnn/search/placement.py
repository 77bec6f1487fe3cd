"""Which of a cluster's GPUs workers get."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class GpuShares(NamedTuple):
    """How a cluster's GPUs are divided.

    Args:
        gpus: those that a worker asks for, all of them the same.
        without: the number of workers that ask for none, and train on machines without GPUs.
        machines: names of the machines with GPUs, which are for the workers that ask for some.
    """

    gpus: float
    without: int
    machines: frozenset[str] = frozenset()


def divide_gpus(machines: Sequence[Mapping[str, Any]], workers: int) -> GpuShares:
    """Divide the GPUs that a cluster has now.

    The workers that machines with GPUs have processors for share these GPUs: one each, or each GPU among equally many.
    Of the others, as many as machines without GPUs have processors for ask for none; the rest wait for a GPU.

    Args:
        machines: Ray's nodes.
        workers: number of workers of the search.

    >>> small = {"NodeID": "small", "Alive": True, "Resources": {"CPU": 2}}
    >>> large = {"NodeID": "large", "Alive": True, "Resources": {"CPU": 4, "GPU": 2}}
    >>> divide_gpus([small], 4)
    GpuShares(gpus=0.0, without=4, machines=frozenset())
    >>> divide_gpus([small, large], 8)
    GpuShares(gpus=0.5, without=2, machines=frozenset({'large'}))
    """
    alive = {each["NodeID"]: each["Resources"] for each in machines if each["Alive"]}
    with_gpus = frozenset(name for name, resources in alive.items() if resources.get("GPU", 0) >= 1)
    sizes = [(int(each.get("GPU", 0)), int(each.get("CPU", 0))) for each in alive.values()]
    room = sum(cpus for gpus, cpus in sizes if gpus)
    if not room:
        return GpuShares(0.0, workers)
    per_gpu = math.ceil(min(workers, room) / sum(gpus for gpus, _ in sizes))
    places = sum(min(cpus, gpus * per_gpu) for gpus, cpus in sizes)
    elsewhere = sum(cpus for gpus, cpus in sizes if not gpus)
    return GpuShares(1 / per_gpu, min(max(workers - places, 0), elsewhere), with_gpus)

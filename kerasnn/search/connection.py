"""The connection to Ray, on this machine or on a cluster."""

import os
from typing import Any

from kerasnn.config.schema import short
from kerasnn.search.actors import WorkersConfig
from kerasnn.search.trainer import error_line

LOCAL = "local"
"""The address that starts Ray on this machine for the time of the search."""


def import_ray() -> Any:
    """Ray.

    Raises:
        ValueError: one line, where it is not installed.
    """
    # Ray sends statistics of its use to its makers unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ValueError("several workers need Ray: pip install 'kerasnn[ray]', or leave workers at 1") from None
    return ray


def connect(config: WorkersConfig) -> None:
    """Start Ray for the workers of a search, or join the cluster that it names.

    Raises:
        ValueError: one line, where Ray is not installed or does not answer.
    """
    ray, address = import_ray(), config.cluster
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        cores = max(config.workers, os.cpu_count() or 1)
        ray.init(LOCAL, num_cpus=cores, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address, **quiet)
    except ConnectionError as error:
        raise ValueError(
            f"cluster must be the address of a running Ray, received {short(address)}: {error_line(error)}; where "
            "it asks for a token, set RAY_AUTH_MODE=token"
        ) from None

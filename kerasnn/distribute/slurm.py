"""The processes of a Slurm job step, as TF_CONFIG."""

import json
import os

NEEDED = (
    *("SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID"),
    *("SLURM_LOCALID", "SLURMD_NODENAME"),
)
"""The variables that `srun` sets in each of its processes."""
_FIRST_PORT, _PORTS = 12_000, 20_000


def set_tf_config() -> None:
    """Set TF_CONFIG in a process that `srun` has started, unless it is set; elsewhere nothing happens.

    All processes of a step train together. The ports follow from the job's number, so that two jobs can share a
    machine. Slurm says which GPUs a process sees: `--gpus-per-task`.

    Raises:
        ValueError: one line, where variables of Slurm are missing or do not fit together.

    Reference: `tf.distribute.cluster_resolver.SlurmClusterResolver`.
    """
    if os.environ.get("TF_CONFIG") or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        return
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise ValueError(f"a process of srun must have the variable {missing[0]}, which is not set")
    import tensorflow as tf

    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    first = _FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % _PORTS
    # The resolver cannot count without GPUs: as many as processes leaves them as they are.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=first, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
    )
    addresses = resolver.cluster_spec().as_dict()["worker"]
    # Its hosts are in the alphabet's order, n10 before n9, and Slurm's numbers of processes are not.
    own = f"{os.environ['SLURMD_NODENAME']}:{first + int(os.environ['SLURM_LOCALID'])}"
    if own not in addresses:
        raise ValueError(f"a process of srun must run on one of {', '.join(addresses)}, received {own}")
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": addresses.index(own)}}
    os.environ["TF_CONFIG"] = json.dumps(config)

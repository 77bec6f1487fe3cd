"""One model, trained by two processes that Ray Train starts, on two machines where a cluster has them.

`pip install kerasnn 'ray[train]'`, and `python examples/ray_train.py`. Where a process is lost, Ray starts all of them
again; they go on from the newest state in the run's folder, and end with the same bits. On several machines the folder
lies on a disk that they share.
"""

import os
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer

# Workers do not share this process's folder.
FOLDER = Path("logs/ray").resolve()
SETTINGS = {
    "network": {"hidden": [32]},
    "regularization": {"dropout": 0.2},
    "training": {"epochs": 40, "batch_size": 128},
    "report": {"progress": "silent", "graph": False},
}


def train_together(settings):
    """Train in each process: Ray Train has set TF_CONFIG."""
    # Imported here, because Ray sends the function to processes that begin without TensorFlow.
    import kerasnn

    kerasnn.train(kerasnn.RunConfig.model_validate(settings), FOLDER / "run")


if __name__ == "__main__":
    # ray.init("auto") on a machine of a cluster.
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    trainer = TensorflowTrainer(
        train_together,
        train_loop_config=SETTINGS,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=str(FOLDER / "ray"), failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()
    print((FOLDER / "run" / "result.json").read_text())

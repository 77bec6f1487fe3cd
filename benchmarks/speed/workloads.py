"""Workloads that every peer trains: a network, its data and a batch size."""

from dataclasses import dataclass
from typing import Any

from kerasnn.config.sections import DataConfig, NetworkConfig
from kerasnn.data.loading import load_data

LEARNING_RATE = 1e-3
"""Learning rate of Adam, in every peer."""


@dataclass(frozen=True)
class Workload:
    """A network and the data to train it on.

    Args:
        name: its name on the command line and in the table.
        data: name of the data set.
        batch_size: examples per step.
        hidden: layers as in `NetworkConfig`.
        epochs: epochs of each turn of a peer, so many that `kerasnn.fit` compiles their steps with XLA.
        examples: number of training examples; None takes all.
    """

    name: str
    data: str
    batch_size: int
    hidden: tuple[Any, ...] = (50, 100)
    epochs: int = 2
    examples: int | None = None

    @property
    def convolutional(self) -> bool:
        """Whether examples are images and the first layers convolutions."""
        return isinstance(self.hidden[0], dict)

    @property
    def network(self) -> NetworkConfig:
        """The network as kerasnn describes it."""
        return NetworkConfig.model_validate({"hidden": self.hidden})

    def load(self) -> dict[str, Any]:
        """Training and validation examples, `(examples, features)` or `(examples, height, width, channels)`, float32
        from 0 to 1, with labels `(examples,)`, int32."""
        data = load_data(DataConfig.model_validate({"name": self.data, "flatten": not self.convolutional}))
        assert data.x_validation is not None
        assert data.y_validation is not None
        return {
            "x": data.x_train[: self.examples],
            "y": data.y_train[: self.examples],
            "x_validation": data.x_validation,
            "y_validation": data.y_validation,
        }


CONVOLUTIONS = ({"filters": 8, "pool": 2}, {"filters": 16, "pool": 2}, 32)

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("fashion-128", "fashion_mnist", 128, epochs=5),
        Workload("fashion-32", "fashion_mnist", 32),
        Workload("fashion-1024", "fashion_mnist", 1024, epochs=40),
        Workload("digits-32", "digits", 32, epochs=60),
        Workload("conv-128", "fashion_mnist", 128, CONVOLUTIONS, examples=12_800),
    )
}

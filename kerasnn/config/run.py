"""The configuration of a training run: `RunConfig`."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kerasnn.config import catalog
from kerasnn.config.description import Description, replace_at
from kerasnn.config.schedules import Constant, Schedule
from kerasnn.config.schema import one_of, short
from kerasnn.config.sections import (
    ConvLayer,
    DataConfig,
    DevicesConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    RegularizationConfig,
    ReportConfig,
    Style,
    Task,
    TrainingConfig,
)

OUTPUT_ACTIVATION: dict[str, str] = {
    "binary": "sigmoid",
    "multiclass": "softmax",
    "multilabel": "sigmoid",
    "regression": "linear",
}
_DISTANCES = ("mean_squared_error", "mean_absolute_error", "huber")
_HINGES = ("hinge", "squared_hinge")
_REGRESSION_LOSSES = (
    *_DISTANCES,
    *("log_cosh", "mean_absolute_percentage_error", "mean_squared_logarithmic_error", "poisson", "cosine_similarity"),
)
_BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy", *_HINGES, *_DISTANCES)
_ONE_HOT_LOSSES = (
    *("categorical_crossentropy", "categorical_focal_crossentropy", "kl_divergence", "categorical_hinge"),
    *_HINGES,
    *_DISTANCES,
    "cosine_similarity",
)


class RunConfig(Description):
    """The complete description of a training run: equal descriptions give equal runs.

    Raises:
        ValueError: one line with the dotted key, the rule, the value received and the choices; also for fields that
            contradict one another (softmax with mean squared error on integer labels).

    >>> config = RunConfig(network={"hidden": [30, 10]}, optimizer={"name": "sgd"}, schedule="cosine")
    >>> config.loss_name, config.metrics
    ('sparse_categorical_crossentropy', ('accuracy',))
    >>> RunConfig.from_json(config.to_json()) == config
    True
    """

    _FOLDER: ClassVar[str] = "run folder"

    task: Task | Literal["auto"] = "auto"
    """Kind of prediction; decides output units, output activation, default loss and default metrics. `auto`: the
    target of a table decides, other data sets are multiclass."""
    style: Style = "sequential"
    """Keras API that builds the model; all three give the same results."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of initial weights, dropout and the order of examples."""
    network: NetworkConfig = NetworkConfig()
    """Layers of the network."""
    data: DataConfig = DataConfig()
    """Data set and its preparation."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and its arguments."""
    schedule: Schedule = Constant()
    """Learning-rate schedule, a factor on `optimizer.learning_rate`."""
    loss: LossConfig = LossConfig()
    """Loss and its arguments."""
    regularization: RegularizationConfig = RegularizationConfig()
    """Penalties, dropout and batch normalization."""
    training: TrainingConfig = TrainingConfig()
    """Length of the training, batch size, metrics, callbacks and recovery."""
    devices: DevicesConfig = DevicesConfig()
    """Devices and precision."""
    report: ReportConfig = ReportConfig()
    """Progress display, event files and pictures."""

    @property
    def known_task(self) -> Task:
        """The task; multiclass where it is `auto`, which `with_task` replaces once the data is loaded."""
        return "multiclass" if self.task == "auto" else self.task

    def with_task(self, task: str) -> Self:
        """This config for data of a task.

        Raises:
            ValueError: one line, if this config is for another task, or does not suit the task.
        """
        if self.task == "auto":
            known = self.data.name not in ("table", "images", "texts") and task == self.known_task
            return self if known else replace_at(self, {"task": task})
        if task != self.task:
            raise ValueError(f"data must be for the run's task {self.task!r}, received data for {task!r}")
        return self

    @property
    def loss_name(self) -> str:
        """Name of the loss; the task's if none was given."""
        if self.loss.name is not None:
            return catalog.canonical(catalog.LOSSES, self.loss.name)
        if self.known_task == "multiclass":
            return "categorical_crossentropy" if self.data.one_hot else "sparse_categorical_crossentropy"
        return "mean_squared_error" if self.known_task == "regression" else "binary_crossentropy"

    @property
    def output_activation(self) -> str | dict[str, Any]:
        """Activation of the output layer: the given one, else linear for logits, else the task's."""
        if self.network.output_activation is not None:
            return self.network.output_activation
        return "linear" if self.loss.from_logits else OUTPUT_ACTIVATION[self.known_task]

    @property
    def loss_spec(self) -> dict[str, Any]:
        """The loss's name and arguments."""
        chosen = self.loss.model_dump(include={"from_logits", "label_smoothing"})
        return {"name": self.loss_name, **self.loss.arguments, **{key: value for key, value in chosen.items() if value}}

    @property
    def metrics(self) -> tuple[str | dict[str, Any], ...]:
        """The metrics by name; the task's if none were given."""
        if self.training.metrics is not None:
            return self.training.metrics
        return ("mean_absolute_error",) if self.known_task == "regression" else ("accuracy",)

    @property
    def monitor(self) -> str:
        """The logged value that decides the best epoch."""
        return self.monitored(validation=bool(self.data.validation_share))

    def monitored(self, validation: bool) -> str:
        """The logged value that decides the best epoch, with or without a validation part."""
        return self.training.monitor or ("val_loss" if validation else "loss")

    def logged(self, validation: bool) -> list[str]:
        """Names of the values that an epoch logs, with or without a validation part."""
        names = ["loss", *(metric if isinstance(metric, str) else str(metric["name"]) for metric in self.metrics)]
        return [*names, *(f"val_{name}" for name in names if validation)]

    @model_validator(mode="after")
    def _check_sections(self) -> Self:
        if self.loss.arguments and self.loss.name is None:
            raise ValueError(f"loss.arguments need a loss.name, received {short(self.loss.arguments)}")
        # The data decides the task of the others.
        if self.task != "auto" or self.data.name not in ("table", "images", "texts", "arrays"):
            self._check_task(self.known_task)
        if self.data.flatten and any(isinstance(layer, ConvLayer) for layer in self.network.hidden):
            raise ValueError("convolutional layers need images, so data.flatten must be false, received true")
        self._check_augmentation()
        self.schedule.over(self.training.epochs)
        self._check_momentum_cycle()
        # Arrays may include a validation part, which only train() sees.
        self.check_monitors(validation=self.data.validation_share > 0 or self.data.name in ("arrays", "npz"))
        return self

    def _check_task(self, task: Task) -> None:
        """Refuse settings that do not suit a task."""
        catalog.check("loss", catalog.LOSSES, self.loss_spec)
        output = self.output_activation
        _check_loss(task, self.loss_name, self.data.one_hot)
        _check_output(
            task, self.loss_name, output if isinstance(output, str) else output["name"], self.loss.from_logits
        )
        if self.data.one_hot and task != "multiclass":
            raise ValueError(f"data.one_hot is for task multiclass, received task {task!r}")
        if self.training.class_weight is not None and task not in ("binary", "multiclass"):
            raise ValueError(f"training.class_weight is for task binary or multiclass, received task {task!r}")
        scaled = self.data.name == "table" and self.data.target_scaling != "none"
        if task == "regression" and scaled and self.loss_name not in (*_DISTANCES, "log_cosh"):
            raise ValueError(
                f"loss.name {self.loss_name} needs targets as they are, so data.target_scaling must be none, received "
                f"{self.data.target_scaling!r}"
            )

    def _check_augmentation(self) -> None:
        data = self.data
        if not data.augment.layers:
            return
        if data.name in ("table", "texts"):
            raise ValueError(f"data.augment is for images, received data.name {data.name!r}")
        if data.flatten and data.name != "images":
            raise ValueError("data.augment needs images, so data.flatten must be false, received true")
        if data.scaling not in (None, "unit") and (data.augment.contrast or data.augment.brightness):
            raise ValueError(
                "data.augment.contrast and brightness need values from 0 to 1, so data.scaling must be unit, received "
                f"{data.scaling!r}"
            )

    def _check_momentum_cycle(self) -> None:
        if not getattr(self.schedule, "cycle_momentum", False):
            return
        rules = catalog.OPTIMIZERS[self.optimizer.name]
        has_momentum = "beta_1" in rules or self.optimizer.momentum or self.optimizer.name in ("momentum", "nesterov")
        if not has_momentum:
            raise ValueError(
                f"schedule.cycle_momentum needs an optimizer with momentum, received {self.optimizer.name!r}: "
                "give optimizer.momentum, or set schedule.cycle_momentum to false"
            )

    def check_monitors(self, validation: bool) -> None:
        """Refuse monitored values that will not be logged.

        Args:
            validation: whether there is a validation part.

        Raises:
            ValueError: one line with the key and the logged values.
        """
        monitored = {"training.monitor": self.training.monitor}
        for part in ("early_stopping", "plateau"):
            if (section := getattr(self.training, part)) is not None:
                monitored[f"training.{part}.monitor"] = section.monitor
        logged = self.logged(validation)
        for key, name in monitored.items():
            if name is not None and name not in logged:
                raise ValueError(one_of(key, name, logged))


def _check_loss(task: str, loss: str, one_hot: bool) -> None:
    fitting: tuple[str, ...]
    match task:
        case "regression":
            fitting, labels = _REGRESSION_LOSSES, "targets"
        case "multiclass" if one_hot:
            fitting, labels = _ONE_HOT_LOSSES, "one-hot labels"
        case "multiclass":
            fitting, labels = ("sparse_categorical_crossentropy",), "integer labels"
        case _:
            fitting, labels = _BINARY_LOSSES, "labels of 0 and 1"
    if loss not in fitting:
        hint = "; or set data.one_hot" if loss in _ONE_HOT_LOSSES and task == "multiclass" else ""
        raise ValueError(f"{one_of(f'loss.name for task {task} with {labels}', loss, fitting)}{hint}")


def _check_output(task: str, loss: str, output: str, from_logits: bool) -> None:
    linear = output == "linear"
    if from_logits:
        if not linear:
            raise ValueError(f"loss.from_logits needs a linear output activation, received {output!r}")
        return
    needed = OUTPUT_ACTIVATION[task]
    probabilities = "crossentropy" in loss or loss == "kl_divergence"
    if probabilities and output != needed:
        hint = "; or set loss.from_logits" if linear else ""
        raise ValueError(
            f"network.output_activation must be {needed} for task {task} with loss {loss}; received {output!r}{hint}"
        )
    # Softmax makes the outputs of an example exclusive, sigmoid makes them independent.
    contradictory = {"multiclass": ("sigmoid",)}.get(task, ("softmax", "log_softmax", "sparsemax"))
    if output in contradictory:
        raise ValueError(f"network.output_activation must suit task {task}, as {needed} does; received {output!r}")

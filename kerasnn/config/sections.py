"""The sections of a run: network, data, optimizer, loss, training, devices, report."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    model_serializer,
    model_validator,
)

from kerasnn.config import catalog
from kerasnn.config.data import DataConfig as DataConfig
from kerasnn.config.data import Fraction
from kerasnn.config.monitor import Mode, Plateau
from kerasnn.config.schema import Schema, short

Task = Literal["binary", "multiclass", "multilabel", "regression"]
Style = Literal["sequential", "functional", "subclassed"]
Penalty = Annotated[float, Field(ge=0)]


def _listed(kind: str, table: catalog.Table) -> AfterValidator:
    """Accepts a component of a table, by name or with arguments, and spells its name as the table does."""

    def check(value: str | dict[str, Any]) -> str | dict[str, Any]:
        name, arguments = catalog.check(kind, table, value)
        return {"name": name, **arguments} if arguments else name

    return AfterValidator(check)


Activation = Annotated[str | dict[str, Any], _listed("activation", catalog.ACTIVATIONS)]
Initializer = Annotated[str | dict[str, Any], _listed("initializer", catalog.INITIALIZERS)]
Metric = Annotated[str | dict[str, Any], _listed("metric", catalog.METRICS)]


class _HiddenLayer(Schema):
    activation: Activation | None = None
    """This layer's activation; null: `network.activation`."""
    kernel_initializer: Initializer | None = None
    """This layer's weight initializer; null: `network.kernel_initializer`."""
    bias_initializer: Initializer | None = None
    """This layer's bias initializer; null: `network.bias_initializer`."""
    use_bias: bool = True
    """Whether the layer adds a bias."""
    batch_norm: bool | None = None
    """Batch normalization before the activation; null: `regularization.batch_norm`."""
    dropout: Fraction | None = None
    """Fraction of units dropped after the activation, in [0, 1); null: `regularization.dropout`."""
    l1: Penalty | None = None
    """L1 penalty on this layer's weights; null: `regularization.l1`."""
    l2: Penalty | None = None
    """L2 penalty on this layer's weights; null: `regularization.l2`."""


class DenseLayer(_HiddenLayer):
    """A fully connected hidden layer; in JSON a plain integer is a layer with that number of units."""

    units: PositiveInt
    """Number of units."""

    @model_validator(mode="before")
    @classmethod
    def _from_integer(cls, value: Any) -> Any:
        return {"units": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_serializer(mode="wrap")
    def _to_integer(self, handler: Any) -> Any:
        described = handler(self)
        plain = all(getattr(self, key) == field.default for key, field in _HiddenLayer.model_fields.items())
        return self.units if plain else described


class ConvLayer(_HiddenLayer):
    """A convolutional hidden layer over sequences, images or volumes of shape (…, channels)."""

    filters: PositiveInt
    """Number of output channels."""
    kernel_size: PositiveInt = 3
    """Side of the square (cubic) kernel in pixels; 3 is the common choice."""
    strides: PositiveInt = 1
    """Step of the kernel in pixels."""
    padding: Literal["same", "valid"] = "same"
    """`same` keeps the size at strides 1, `valid` reduces it by kernel_size - 1."""
    pool: PositiveInt = 1
    """Side of the max-pooling window after the activation; 1: no pooling."""


def _layer_kind(value: Any) -> str:
    if isinstance(value, ConvLayer) or (isinstance(value, Mapping) and "filters" in value):
        return "conv"
    return "dense"


Layer = Annotated[
    Annotated[DenseLayer, Tag("dense")] | Annotated[ConvLayer, Tag("conv")],
    Discriminator(_layer_kind),
]


class NetworkConfig(Schema):
    """The network: its hidden layers and their defaults.

    >>> NetworkConfig(hidden=(30, {"units": 10, "dropout": 0.5}), activation="tanh").hidden[0]
    DenseLayer(units=30)
    """

    hidden: tuple[Layer, ...] = (DenseLayer(units=50), DenseLayer(units=100))
    """Hidden layers in order: an integer is a dense layer with that number of units, an object gives all options of a
    layer (`{"units": 50, "activation": "tanh", "dropout": 0.2}`, or `{"filters": 16, "kernel_size": 3, "pool": 2}`)."""
    activation: Activation = "relu"
    """Activation of hidden layers, by name or as `{"name": "leaky_relu", "negative_slope": 0.1}`."""
    kernel_initializer: Initializer = "he_normal"
    """Weight initializer of hidden layers; He suits relu and its variants, Glorot suits tanh and sigmoid."""
    bias_initializer: Initializer = "zeros"
    """Bias initializer of all layers."""
    output_activation: Activation | None = None
    """Activation of the output layer; null: the task's (sigmoid, softmax or linear)."""
    output_kernel_initializer: Initializer = "glorot_uniform"
    """Weight initializer of the output layer."""

    @model_validator(mode="after")
    def _convolutions_first(self) -> Self:
        kinds = [isinstance(layer, ConvLayer) for layer in self.hidden]
        if any(later and not earlier for earlier, later in itertools.pairwise(kinds)):
            raise ValueError("hidden convolutional layers must come before dense ones, received dense before conv")
        return self


class OptimizerConfig(Schema):
    """The optimizer: its name and its arguments; null is Keras's default."""

    name: str = "adam"
    """Optimizer: sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, adamax, nadam, lamb, lion, ftrl,
    adafactor or muon."""
    learning_rate: float | None = None
    """Base learning rate, > 0, which the schedule multiplies; null: Keras's (0.01 for sgd, 0.001 for most others)."""
    momentum: float | None = None
    """Momentum of sgd and rmsprop, in [0, 1)."""
    nesterov: bool | None = None
    """Whether sgd uses Nesterov's momentum."""
    beta_1: float | None = None
    """Decay rate of the first moment (adam and its variants), in [0, 1)."""
    beta_2: float | None = None
    """Decay rate of the second moment (adam and its variants), in [0, 1)."""
    rho: float | None = None
    """Decay rate of squared gradients (rmsprop, adadelta), in [0, 1)."""
    epsilon: float | None = None
    """Small constant against division by zero, > 0."""
    centered: bool | None = None
    """Whether rmsprop divides by the variance instead of the second moment."""
    amsgrad: bool | None = None
    """Whether adam is its AMSGrad variant."""
    initial_accumulator_value: float | None = None
    """Initial accumulator of adagrad and ftrl, >= 0."""
    weight_decay: float | None = None
    """Decoupled weight decay, >= 0."""
    clipnorm: float | None = None
    """Maximum norm of each gradient, > 0."""
    clipvalue: float | None = None
    """Maximum absolute value of each gradient entry, > 0."""
    global_clipnorm: float | None = None
    """Maximum norm of all gradients together, > 0."""
    use_ema: bool | None = None
    """Whether an exponential moving average of the weights is kept."""
    ema_momentum: float | None = None
    """Decay rate of that average, in [0, 1]."""
    ema_overwrite_frequency: int | None = None
    """Updates after which the average replaces the weights; null replaces them once, after training."""
    gradient_accumulation_steps: int | None = None
    """Number of batches whose gradients are averaged for one update, >= 2."""
    loss_scale_factor: float | None = None
    """Factor on the loss before gradients are computed, for float16."""
    arguments: dict[str, Any] = Field(default={})
    """Further arguments of this optimizer, `{"ns_steps": 5}` for muon."""

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        catalog.check("optimizer", catalog.OPTIMIZERS, self.spec)
        return self

    @property
    def spec(self) -> dict[str, Any]:
        """The optimizer's name and its arguments other than null."""
        return {**self.model_dump(exclude_none=True, exclude={"arguments"}), **self.arguments}


class LossConfig(Schema):
    """The loss; the default depends on the task."""

    name: str | None = None
    """Loss by name; null: the task's (cross-entropy, or mean squared error for regression)."""
    from_logits: bool = False
    """Whether the output layer is linear and the loss applies softmax or sigmoid."""
    label_smoothing: Fraction = 0.0
    """Fraction of each label distributed uniformly over all classes, in [0, 1) (cross-entropies only)."""
    arguments: dict[str, Any] = Field(default={})
    """Further arguments of the loss, `{"delta": 0.5}` for huber, `{"gamma": 2.0}` for the focal losses."""


class RegularizationConfig(Schema):
    """Regularization of all hidden layers; a layer's options take precedence."""

    l1: Penalty = 0.0
    """L1 penalty on the weights of hidden layers."""
    l2: Penalty = 0.0
    """L2 penalty on the weights of hidden layers."""
    dropout: Fraction = 0.0
    """Fraction of units dropped after each hidden layer during training, in [0, 1)."""
    dropout_kind: Literal["dropout", "alpha_dropout", "spatial_dropout", "gaussian_dropout"] = "dropout"
    """`alpha_dropout` preserves mean and variance (for selu), `spatial_dropout` drops whole channels of images."""
    batch_norm: bool = False
    """Batch normalization between each hidden layer and its activation."""
    output_l1: Penalty = 0.0
    """L1 penalty on the weights of the output layer."""
    output_l2: Penalty = 0.0
    """L2 penalty on the weights of the output layer."""


class EarlyStoppingConfig(Schema):
    """Early stopping when the monitored value no longer improves."""

    monitor: str = "val_loss"
    """Name of the monitored value in the logs."""
    mode: Mode = "auto"
    """Whether lower or higher is better; `auto` decides by the name."""
    patience: int = Field(default=5, ge=1)
    """Epochs without improvement before training stops."""
    min_delta: float = Field(default=0.0, ge=0)
    """Smallest change that counts as improvement."""
    restore_best_weights: bool = True
    """Whether the best epoch's weights are restored at the end."""
    start_from_epoch: int = Field(default=0, ge=0)
    """Epochs before monitoring starts."""


class TrainingConfig(Schema):
    """Training: length, batch size, metrics, callbacks and recovery."""

    epochs: PositiveInt = 20
    """Passes over the training examples."""
    batch_size: PositiveInt = 32
    """Examples per update, over all devices together."""
    metrics: tuple[Metric, ...] | None = None
    """Metrics by name; null: the task's (accuracy, or mean absolute error for regression)."""
    class_weight: Literal["balanced"] | dict[int, Penalty] | None = None
    """Weight of each class in the loss, `{"0": 1.0, "1": 5.0}`; `balanced`: inverse frequency of the class."""
    early_stopping: EarlyStoppingConfig | None = None
    """Early stopping; null trains all epochs."""
    plateau: Plateau | None = None
    """Reduction of the learning rate when a value stops improving, in addition to the schedule; null: none."""
    monitor: str | None = None
    """Logged value that decides the best epoch; null: `val_loss`, or `loss` without a validation part."""
    monitor_mode: Mode = "auto"
    """Whether a lower or a higher value decides the best epoch; `auto` decides by the name."""
    compiled: Literal["auto", "on", "off"] = "auto"
    """Whether blocks of updates run as one XLA program: `auto` if possible, `on` or an error, `off` is plain fit."""
    lsuv: bool = False
    """Whether the initial weights of hidden layers are scaled so that their pre-activations have variance 1 on the data
    (LSUV); the paper starts from `orthogonal` weights."""
    memory_share: float = Field(default=0.5, gt=0, le=1)
    """Fraction of the device's memory available to the examples, in (0, 1]; larger data is streamed."""
    save_best: bool = True
    """Whether the best epoch's model is saved as `best.keras`."""
    save_state: bool = True
    """Whether the training state is saved after every epoch, and where epochs take milliseconds as often as that takes
    at most a twentieth of the time, so that a killed run can resume."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """Response to a loss or weight that is not finite: `stop` ends the run; `rollback` returns to the last saved state
    with a lower learning rate."""
    rollbacks: int = Field(default=3, ge=1)
    """Maximum number of rollbacks in a run."""
    rollback_factor: float = Field(default=0.5, gt=0, lt=1)
    """Factor on the learning rate at each rollback, in (0, 1)."""

    @model_validator(mode="after")
    def _rollback_from_state(self) -> Self:
        if self.on_nan == "rollback" and not self.save_state:
            raise ValueError("on_nan 'rollback' returns to a saved state, so save_state must be true, received false")
        return self


class DevicesConfig(Schema):
    """Devices, strategy and precision of the computation."""

    strategy: Literal["auto", "one_device", "mirrored", "multi_worker"] = "auto"
    """Distribution of each batch: `mirrored` over several devices of this machine, `multi_worker` over the processes in
    TF_CONFIG, or where it is not set over those of a Slurm step; `auto` is `multi_worker` if TF_CONFIG is set, else
    `mirrored` on several GPUs, else one device. Results equal those of one device."""
    device: str | tuple[str, ...] | None = None
    """TensorFlow's name of the device (`CPU:0`, `GPU:1`), or several names; null: all GPUs (one_device: the first), or
    the CPU."""
    workers: PositiveInt | None = None
    """Number of processes on this machine that `kerasnn train` starts to train one model together; null: none."""
    worker_wait: float = Field(default=50.0, gt=0)
    """Maximum time in seconds that a process waits for the others to start."""
    synchronized_batch_norm: bool = True
    """Whether batch normalization on several devices uses the statistics of the whole batch, as on one device, or of
    each device's part."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"] = "float32"
    """Precision of the layers; mixed precision keeps weights in float32."""
    jit_compile: bool | Literal["auto"] = "auto"
    """Whether XLA compiles the training step; `auto`: Keras decides."""
    memory_growth: bool = True
    """Whether GPU memory is allocated as needed instead of all at once."""
    deterministic: bool = False
    """Whether every operation is bit-reproducible on GPUs too; it switches XLA off and is slower."""

    @model_validator(mode="after")
    def _deterministic_without_xla(self) -> Self:
        if self.deterministic and self.jit_compile is True:
            raise ValueError("deterministic switches XLA off, so jit_compile must be false or auto, received true")
        return self

    @model_validator(mode="after")
    def _check_strategy(self) -> Self:
        several = isinstance(self.device, tuple) and len(self.device) > 1
        if isinstance(self.device, tuple) and len(set(self.device)) != max(1, len(self.device)):
            raise ValueError(f"device must name each device once, and one at least, received {short(self.device)}")
        if several and self.strategy in ("one_device", "multi_worker"):
            raise ValueError(f"several devices are for strategy auto or mirrored, received strategy {self.strategy!r}")
        if self.workers is not None and self.strategy in ("one_device", "mirrored"):
            raise ValueError(f"workers are for strategy auto or multi_worker, received strategy {self.strategy!r}")
        if self.device is not None and (self.workers is not None or self.strategy == "multi_worker"):
            raise ValueError(
                f"processes take all devices that they see, so device must be null, received {short(self.device)}"
            )
        return self


class ReportConfig(Schema):
    """Output of a run: display, event files and pictures."""

    progress: Literal["auto", "bar", "lines", "silent"] = "auto"
    """Progress display: a live `bar`, or `lines`, one per epoch; `auto`: a bar on a terminal, else lines."""
    tensorboard: bool = True
    """Whether TensorBoard event files are written."""
    histograms_every: int | None = Field(default=None, ge=0)
    """Epochs between histograms of weights and, with `health`, of gradients and activations; 0: none; null: as often as
    they take at most a twentieth of the training's time, and when training ends."""
    images_every: int | None = Field(default=None, ge=0)
    """Epochs between confusion matrices and pages of misclassified examples; 0: none; null: as often as they take at
    most a twentieth of the training's time. They are also drawn when training ends."""
    health: bool = True
    """Whether each layer's gradients, updates and activations are measured after each epoch on a fixed batch, with a
    warning for layers that do not learn."""
    graph: bool = True
    """Whether the network is drawn, as `network.svg` and as TensorBoard's graph."""
    timings: bool = False
    """Whether the seconds that importing, building, tracing, compiling, training and reporting took are printed at the
    end; `result.json` has them in any case."""
    mlflow: str | None = None
    """Address of an MLflow server or database that gets the run's settings and values, as in `sqlite:///mlflow.db`; it
    needs `kerasnn[mlflow]`."""

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
from kerasnn.config.monitor import Plateau
from kerasnn.config.schema import Schema, short

Task = Literal["binary", "multiclass", "multilabel", "regression"]
Style = Literal["sequential", "functional", "subclassed"]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Penalty = Annotated[float, Field(ge=0)]


def _known(kind: str, table: catalog.Table) -> AfterValidator:
    """Accepts a component of a table, by name or with arguments, and keeps the table's own spelling of its name."""

    def check(value: str | dict[str, Any]) -> str | dict[str, Any]:
        name, arguments = catalog.check(kind, table, value)
        return {"name": name, **arguments} if arguments else name

    return AfterValidator(check)


Activation = Annotated[str | dict[str, Any], _known("activation", catalog.ACTIVATIONS)]
Initializer = Annotated[str | dict[str, Any], _known("initializer", catalog.INITIALIZERS)]
Metric = Annotated[str | dict[str, Any], _known("metric", catalog.METRICS)]


class _HiddenLayer(Schema):
    activation: Activation | None = None
    """This layer's activation; null takes `network.activation`."""
    kernel_initializer: Initializer | None = None
    """This layer's weight initializer; null takes `network.kernel_initializer`."""
    bias_initializer: Initializer | None = None
    """This layer's bias initializer; null takes `network.bias_initializer`."""
    use_bias: bool = True
    """Whether the layer adds a bias."""
    batch_norm: bool | None = None
    """Batch normalization before the activation; null takes `regularization.batch_norm`."""
    dropout: Rate | None = None
    """Share of units dropped after the activation, 0 to 1; null takes `regularization.dropout`."""
    l1: Penalty | None = None
    """L1 penalty on this layer's weights; null takes `regularization.l1`."""
    l2: Penalty | None = None
    """L2 penalty on this layer's weights; null takes `regularization.l2`."""


class DenseLayer(_HiddenLayer):
    """A fully connected hidden layer; in JSON a bare integer is a layer of that many units."""

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
    """`same` keeps the size at strides 1, `valid` shrinks it by kernel_size - 1."""
    pool: PositiveInt = 1
    """Side of the max-pooling window after the activation; 1 means no pooling."""


def _layer_kind(value: Any) -> str:
    if isinstance(value, ConvLayer) or (isinstance(value, Mapping) and "filters" in value):
        return "conv"
    return "dense"


Layer = Annotated[
    Annotated[DenseLayer, Tag("dense")] | Annotated[ConvLayer, Tag("conv")],
    Discriminator(_layer_kind),
]


class NetworkConfig(Schema):
    """The network: its hidden layers and what each of them defaults to."""

    hidden: tuple[Layer, ...] = (DenseLayer(units=50), DenseLayer(units=100))
    """Hidden layers in order: an integer is a dense layer of that many units, an object describes one layer fully
    (`{"units": 50, "activation": "tanh", "dropout": 0.2}`, or `{"filters": 16, "kernel_size": 3, "pool": 2}`)."""
    activation: Activation = "relu"
    """Activation of hidden layers, by name or as `{"name": "leaky_relu", "negative_slope": 0.1}`."""
    kernel_initializer: Initializer = "he_normal"
    """Weight initializer of hidden layers; He suits relu and its kin, Glorot suits tanh and sigmoid."""
    bias_initializer: Initializer = "zeros"
    """Bias initializer of all layers."""
    output_activation: Activation | None = None
    """Activation of the output layer; null takes the task's (sigmoid, softmax or linear)."""
    output_kernel_initializer: Initializer = "glorot_uniform"
    """Weight initializer of the output layer."""

    @model_validator(mode="after")
    def _convolutions_first(self) -> Self:
        kinds = [isinstance(layer, ConvLayer) for layer in self.hidden]
        if any(later and not earlier for earlier, later in itertools.pairwise(kinds)):
            raise ValueError("hidden convolutional layers must come before dense ones, received dense before conv")
        return self


class DataConfig(Schema):
    """What is learned from, and how it is prepared."""

    name: Literal["digits", "mnist", "fashion_mnist", "csv", "npz", "arrays"] = "digits"
    """Data set: scikit-learn's 8x8 `digits` (no download), `mnist`, `fashion_mnist`, a `csv` or `npz` file, or `arrays`
    handed to `train` in Python."""
    path: str | None = None
    """File for csv and npz; folder of IDX or npz files for mnist and fashion_mnist (null: Keras's cache)."""
    test_path: str | None = None
    """Separate test file for csv and npz; null takes `test_share` of the examples."""
    target: str | tuple[str, ...] | None = None
    """Target column or columns of a csv file; null takes the last column."""
    scaling: Literal["none", "unit", "standardize"] = "unit"
    """`unit` maps features to 0..1, `standardize` to mean 0 and standard deviation 1 of the training part."""
    flatten: bool = True
    """Whether images become vectors; false keeps (height, width, channels) for convolutional layers."""
    one_hot: bool = False
    """Whether class labels become one-hot rows; false keeps integers."""
    validation_share: Share = 0.1
    """Share of the training examples kept for validation, 0 to 1."""
    test_share: Share = 0.2
    """Share of the examples kept for testing where the source has no test part, 0 to 1."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split into parts; separate from the run's, so that seeds compare on the same data."""

    @model_validator(mode="after")
    def _file_given(self) -> Self:
        if self.name in ("csv", "npz") and self.path is None:
            raise ValueError(f"path must name the file when name is {self.name!r}, received null")
        return self


class OptimizerConfig(Schema):
    """The optimizer: its name and the arguments that it takes; null leaves Keras's default."""

    name: str = "adam"
    """Optimizer: sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, adamax, nadam, lamb, lion, ftrl,
    adafactor or muon."""
    learning_rate: float | None = None
    """Base learning rate, > 0; the schedule multiplies it. Null: Keras's (0.001 for most, 0.01 for sgd)."""
    momentum: float | None = None
    """Momentum of sgd and rmsprop, 0 to 1."""
    nesterov: bool | None = None
    """Nesterov's momentum for sgd."""
    beta_1: float | None = None
    """Decay of the first moment (adam and its kin), 0 to 1."""
    beta_2: float | None = None
    """Decay of the second moment (adam and its kin), 0 to 1."""
    rho: float | None = None
    """Decay of squared gradients (rmsprop, adadelta), 0 to 1."""
    epsilon: float | None = None
    """Small constant against division by zero, > 0."""
    centered: bool | None = None
    """Whether rmsprop divides by the variance instead of the second moment."""
    amsgrad: bool | None = None
    """The AMSGrad variant of adam."""
    initial_accumulator_value: float | None = None
    """Starting accumulator of adagrad and ftrl, >= 0."""
    weight_decay: float | None = None
    """Decoupled weight decay, >= 0."""
    clipnorm: float | None = None
    """Each gradient clipped to this norm, > 0."""
    clipvalue: float | None = None
    """Each gradient entry clipped to this absolute value, > 0."""
    global_clipnorm: float | None = None
    """All gradients together clipped to this norm, > 0."""
    use_ema: bool | None = None
    """Exponential moving average of the weights."""
    ema_momentum: float | None = None
    """Decay of that average, 0 to 1."""
    ema_overwrite_frequency: int | None = None
    """Updates between overwriting the weights by their average; null does it once, after training."""
    gradient_accumulation_steps: int | None = None
    """Batches whose gradients are averaged into one update, >= 2."""
    loss_scale_factor: float | None = None
    """Factor on the loss before gradients are taken, for float16."""
    arguments: dict[str, Any] = Field(default={})
    """Further arguments that only this optimizer takes, `{"ns_steps": 5}` for muon."""

    @model_validator(mode="after")
    def _taken_by_optimizer(self) -> Self:
        catalog.check("optimizer", catalog.OPTIMIZERS, self.spec)
        return self

    @property
    def spec(self) -> dict[str, Any]:
        """The optimizer's description without what was left to Keras."""
        return {**self.model_dump(exclude_none=True, exclude={"arguments"}), **self.arguments}


class LossConfig(Schema):
    """The loss; by default the task decides it."""

    name: str | None = None
    """Loss by name; null takes the task's (cross-entropy, or mean squared error for regression)."""
    from_logits: bool = False
    """Whether the output layer is linear and the loss applies softmax or sigmoid itself."""
    label_smoothing: Rate = 0.0
    """Share of each label spread over the other classes, 0 to 1 (cross-entropies only)."""
    arguments: dict[str, Any] = Field(default={})
    """Further arguments of the loss, `{"delta": 0.5}` for huber, `{"gamma": 2.0}` for the focal losses."""


class RegularizationConfig(Schema):
    """What every hidden layer gets unless it says otherwise."""

    l1: Penalty = 0.0
    """L1 penalty on the weights of hidden layers."""
    l2: Penalty = 0.0
    """L2 penalty on the weights of hidden layers."""
    dropout: Rate = 0.0
    """Share of units dropped after each hidden layer while training, 0 to 1."""
    dropout_kind: Literal["dropout", "alpha_dropout", "spatial_dropout", "gaussian_dropout"] = "dropout"
    """`alpha_dropout` keeps mean and variance (for selu), `spatial_dropout` drops whole channels of convolutions."""
    batch_norm: bool = False
    """Batch normalization between each hidden layer and its activation."""
    output_l1: Penalty = 0.0
    """L1 penalty on the weights of the output layer."""
    output_l2: Penalty = 0.0
    """L2 penalty on the weights of the output layer."""


class EarlyStoppingConfig(Schema):
    """Stop when the monitored value no longer improves."""

    monitor: str = "val_loss"
    """Logged value to watch."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether less or more is better; `auto` reads it off the name."""
    patience: int = Field(default=5, ge=1)
    """Epochs without improvement before training stops."""
    min_delta: float = Field(default=0.0, ge=0)
    """Smallest change that counts as improvement."""
    restore_best_weights: bool = True
    """Whether the best epoch's weights are put back at the end."""
    start_from_epoch: int = Field(default=0, ge=0)
    """Epochs before watching starts."""


class TrainingConfig(Schema):
    """How long and how the network is trained."""

    epochs: PositiveInt = 20
    """Passes over the training examples."""
    batch_size: PositiveInt = 32
    """Examples per update, over all devices together."""
    metrics: tuple[Metric, ...] | None = None
    """Metrics by name; null takes the task's (accuracy, or mean absolute error for regression)."""
    class_weight: Literal["balanced"] | dict[int, Penalty] | None = None
    """Weight of each class in the loss, `{"0": 1.0, "1": 5.0}`; `balanced` weighs by inverse frequency."""
    early_stopping: EarlyStoppingConfig | None = None
    """Early stopping; null trains all epochs."""
    plateau: Plateau | None = None
    """Lower the learning rate when a value stops improving, on top of the schedule; null never does."""
    monitor: str | None = None
    """Value by which the best epoch is chosen; null takes `val_loss`, or `loss` where there is no validation part."""
    compiled: Literal["auto", "on", "off"] = "auto"
    """Whether blocks of updates run as one XLA program: `auto` where they can, `on` insists, `off` is plain fit."""
    lsuv: bool = False
    """Whether hidden layers' initial weights are scaled until their outputs, before the activation, have variance 1 on
    the data (LSUV); the paper starts from `orthogonal` weights."""
    memory_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the device's memory that the examples may take, 0 to 1; more than that is streamed."""
    save_best: bool = True
    """Whether the best epoch's model is kept as `best.keras`."""
    save_state: bool = True
    """Whether the whole state is saved after every epoch, so that a killed run can go on."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """What to do when the loss or a weight is no longer finite: `stop` ends the run; `rollback` goes back to the last
    saved state, with a lower learning rate."""
    rollbacks: int = Field(default=3, ge=1)
    """How often a run may go back before it ends after all."""
    rollback_factor: float = Field(default=0.5, gt=0, lt=1)
    """Factor on the learning rate at each of them, 0 to 1."""

    @model_validator(mode="after")
    def _rollback_from_state(self) -> Self:
        if self.on_nan == "rollback" and not self.save_state:
            raise ValueError("on_nan 'rollback' goes back to a saved state, so save_state must be true, received false")
        return self


class DevicesConfig(Schema):
    """What the run is computed on and in which precision."""

    strategy: Literal["auto", "one_device", "mirrored", "multi_worker"] = "auto"
    """How devices share each batch: `mirrored` over several of this machine, `multi_worker` over the processes that
    TF_CONFIG names; `auto` takes what there is, `multi_worker` where TF_CONFIG is set, else `mirrored` on several GPUs,
    else one device. The numbers are those of one device."""
    device: str | tuple[str, ...] | None = None
    """Device by TensorFlow's name (`CPU:0`, `GPU:1`), or several; null takes all GPUs (one_device: the first), or the
    CPU."""
    workers: PositiveInt | None = None
    """Processes of this machine that `kerasnn train` starts to train as one; null starts none."""
    worker_wait: float = Field(default=50.0, gt=0)
    """Seconds that a process waits for the others to start."""
    synchronized_batch_norm: bool = True
    """Whether batch normalization on several devices takes the whole batch's statistics, as one device does, or each
    device's own."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"] = "float32"
    """Arithmetic of the layers; mixed precision keeps weights in float32."""
    jit_compile: bool | Literal["auto"] = "auto"
    """Whether XLA compiles the training step; `auto` leaves it to Keras."""
    memory_growth: bool = True
    """Whether GPU memory is taken as needed instead of all at once."""
    deterministic: bool = False
    """Whether every operation is made bit-reproducible on a GPU too; it switches XLA off and is slower."""

    @model_validator(mode="after")
    def _deterministic_without_xla(self) -> Self:
        if self.deterministic and self.jit_compile is True:
            raise ValueError("deterministic switches XLA off, so jit_compile must be false or auto, received true")
        return self

    @model_validator(mode="after")
    def _strategy_fits(self) -> Self:
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
    """What a run shows and leaves behind."""

    progress: Literal["auto", "bar", "lines", "silent"] = "auto"
    """Progress: a live `bar`, or `lines`, one an epoch; `auto` is a bar on a terminal and lines elsewhere."""
    tensorboard: bool = True
    """Whether event files for TensorBoard are written."""
    histograms_every: int = Field(default=1, ge=0)
    """Epochs between histograms of weights and, with `health`, of gradients and activations; 0 writes none."""
    images_every: int = Field(default=10, ge=0)
    """Epochs between confusion matrices and pages of mistakes; 0 writes none."""
    health: bool = True
    """Whether each layer's gradients, updates and activations are measured after each epoch, on a fixed batch, and
    layers that do not learn are told of."""
    graph: bool = True
    """Whether the network is drawn: its layers as `network.svg`, its graph in TensorBoard."""

"""Small models of the kinds that people train, each with data of its own: none is kerasnn's."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

L = keras.layers
EXAMPLES = 40
BATCH = 16
"""The last batch is a short one."""


class Case(NamedTuple):
    """A model with what it is trained on."""

    model: keras.Model
    x: Any
    y: Any
    options: Mapping[str, Any] = MappingProxyType({})


ZOO: dict[str, Callable[[], Case]] = {}


def case(build: Callable[[], Case]) -> Callable[[], Case]:
    """Add a model to the zoo; it is built from the same seeds each time."""

    def seeded() -> Case:
        keras.utils.set_random_seed(5)
        keras.config.set_dtype_policy("float32")
        return build()

    ZOO[build.__name__] = seeded
    return seeded


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=(EXAMPLES, *shape)).astype("float32")


def labels(classes: int = 3) -> np.ndarray:
    return np.random.default_rng(9).integers(0, classes, EXAMPLES)


def ids(length: int, count: int = 12) -> np.ndarray:
    return np.random.default_rng(length).integers(1, count, (EXAMPLES, length)).astype("int32")


def classifier(*layers: Any, inputs: tuple[int, ...], x: Any = None, dtype: str | None = None, **options: Any) -> Case:
    model = keras.Sequential([keras.Input(inputs, dtype=dtype), *layers, L.Dense(3, "softmax")])
    settings = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]} | options
    model.compile(**settings)
    return Case(model, numbers(*inputs) if x is None else x, labels())


# Dense


@case
def dense():
    return classifier(L.Dense(8, "relu"), L.BatchNormalization(), L.Dropout(0.3), inputs=(6,))


@case
def noise():
    return classifier(
        L.GaussianNoise(0.1), L.Dense(8, "gelu"), L.GaussianDropout(0.2), L.AlphaDropout(0.1), inputs=(6,)
    )


@case
def penalties():
    layer = L.Dense(8, "relu", kernel_regularizer="l2", activity_regularizer="l1", kernel_constraint="max_norm")
    return classifier(layer, L.ActivityRegularization(l2=0.01), inputs=(6,))


@case
def normalizations():
    layers = (L.LayerNormalization(), L.UnitNormalization(), L.GroupNormalization(2), L.RMSNormalization())
    return classifier(L.Dense(8), *layers, inputs=(6,))


@case
def frozen():
    layer = L.Dense(8, "relu")
    layer.trainable = False
    return classifier(layer, L.BatchNormalization(trainable=False), L.Dense(4), inputs=(6,))


@case
def lora():
    layer = L.Dense(8, "relu")
    layer.build((None, 6))
    layer.enable_lora(2)
    return classifier(layer, inputs=(6,))


# Images


@case
def convolutional():
    layers = (L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(), L.Flatten())
    return classifier(*layers, inputs=(8, 8, 1))


@case
def depthwise():
    layers = (L.SeparableConv2D(4, 3), L.DepthwiseConv2D(3), L.SpatialDropout2D(0.2), L.GlobalAveragePooling2D())
    return classifier(*layers, inputs=(8, 8, 2))


@case
def residual():
    inputs = keras.Input((8, 8, 2))
    x = L.Conv2D(4, 3, padding="same")(inputs)
    for _ in range(2):
        y = L.BatchNormalization()(L.Conv2D(4, 3, padding="same", activation="relu")(x))
        x = L.add([x, y])
    model = keras.Model(inputs, L.Dense(3, "softmax")(L.GlobalAveragePooling2D()(x)))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, numbers(8, 8, 2), labels())


@case
def upsampling():
    inputs = keras.Input((4, 4, 1))
    x = L.UpSampling2D(interpolation="bilinear")(L.Conv2D(3, 3, padding="same")(inputs))
    model = keras.Model(inputs, L.Conv2DTranspose(1, 3, padding="same")(L.UpSampling2D(interpolation="nearest")(x)))
    model.compile("rmsprop", "mse")
    return Case(model, numbers(4, 4, 1), numbers(16, 16, 1))


@case
def augmented():
    layers = (L.RandomFlip(seed=1), L.RandomRotation(0.1, seed=2), L.RandomZoom(0.1, seed=3), L.Rescaling(0.5))
    return classifier(*layers, L.Flatten(), inputs=(8, 8, 1))


@case
def augmented_colours():
    layers = (L.RandomBrightness(0.1, seed=1), L.RandomContrast(0.1, seed=2), L.RandomTranslation(0.1, 0.1, seed=3))
    return classifier(*layers, L.Flatten(), inputs=(8, 8, 3), x=np.abs(numbers(8, 8, 3)) * 60)


@case
def convolution_3d():
    return classifier(L.Conv3D(2, 2), L.GlobalMaxPooling3D(), inputs=(4, 4, 4, 1))


# Sequences


@case
def conv_lstm():
    return classifier(L.ConvLSTM2D(2, 3), L.Flatten(), inputs=(3, 5, 5, 1))


@case
def lstm():
    layers = (L.Embedding(12, 4, mask_zero=True), L.LSTM(5, recurrent_dropout=0.2, dropout=0.1))
    x = ids(6)
    x[::3, 4:] = 0
    return classifier(*layers, inputs=(6,), x=x, dtype="int32")


@case
def bidirectional():
    layers = (L.Bidirectional(L.GRU(4, return_sequences=True)), L.TimeDistributed(L.Dense(3)), L.SimpleRNN(4))
    return classifier(*layers, inputs=(5, 3))


@case
def stateful():
    model = keras.Sequential([keras.Input(batch_shape=(8, 5, 3)), L.LSTM(4, stateful=True), L.Dense(1)])
    model.compile("adam", "mse")
    return Case(model, numbers(5, 3), numbers(1), {"batch_size": 8})


@case
def convolution_1d():
    return classifier(L.Conv1D(4, 3, dilation_rate=2, padding="causal"), L.GlobalMaxPooling1D(), inputs=(8, 3))


@case
def masked():
    x = numbers(6, 3)
    x[::2, 4:] = 0
    return classifier(L.Masking(), L.LSTM(4), inputs=(6, 3), x=x)


@case
def attention():
    inputs = keras.Input((6, 4))
    x = L.MultiHeadAttention(2, 3, dropout=0.2)(inputs, inputs, use_causal_mask=True)
    x = L.Attention()([x, inputs])
    model = keras.Model(inputs, L.Dense(3, "softmax")(L.GlobalAveragePooling1D()(x)))
    model.compile("adam", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return Case(model, numbers(6, 4), labels(), {"sample_weight": np.linspace(0.1, 2, EXAMPLES)})


@case
def transformer():
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(12, 8)(inputs) + L.Embedding(6, 8)(keras.ops.arange(6))
    for _ in range(2):
        x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x))
        x = L.LayerNormalization()(x + L.Dropout(0.1)(L.Dense(8)(L.Dense(16, "gelu")(x))))
    model = keras.Model(inputs, L.Dense(12)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # The keys' biases have gradients of rounding alone, which a small epsilon would make large.
    model.compile(keras.optimizers.AdamW(0.01, epsilon=1e-3), loss)
    return Case(model, ids(6), np.roll(ids(6), -1, axis=1))


# Several inputs and outputs


@case
def recommender():
    users, items = keras.Input((1,), dtype="int32", name="user"), keras.Input((1,), dtype="int32", name="item")
    vectors = [L.Flatten()(L.Embedding(12, 4)(each)) for each in (users, items)]
    model = keras.Model({"user": users, "item": items}, L.Dense(1, "sigmoid")(L.Dot(1)(vectors)))
    model.compile("adagrad", "binary_crossentropy", metrics=["auc"])
    return Case(model, {"user": ids(1), "item": ids(1)[::-1]}, labels(2)[:, None])


@case
def siamese():
    tower = keras.Sequential([keras.Input((5,)), L.Dense(4, "tanh")])
    left, right = keras.Input((5,)), keras.Input((5,))
    model = keras.Model([left, right], L.Dense(1)(L.Subtract()([tower(left), tower(right)])))
    model.compile("nadam", "huber")
    return Case(model, [numbers(5), numbers(5)[::-1]], numbers(1))


@case
def two_outputs():
    inputs = keras.Input((6,))
    x = L.Dense(5, "relu")(inputs)
    outputs = {"kind": L.Dense(3, "softmax", name="kind")(x), "size": L.Dense(1, name="size")(x)}
    model = keras.Model(inputs, outputs)
    model.compile(
        "adam",
        {"kind": "sparse_categorical_crossentropy", "size": "mse"},
        loss_weights={"kind": 1.0, "size": 0.3},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    return Case(model, numbers(6), {"kind": labels(), "size": numbers(1)})


@case
def class_weights():
    return classifier(L.Dense(4), inputs=(6,))._replace(options={"class_weight": {0: 1.0, 1: 3.0, 2: 0.2}})


# Their own steps


@case
def added_loss():
    class Penalty(L.Layer):
        def call(self, x):
            self.add_loss(0.1 * keras.ops.mean(x**2))
            return x

    return classifier(L.Dense(4), Penalty(), inputs=(6,))


class OwnStep(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([L.Dense(4, "relu"), L.Dense(1)])
        self.total = keras.metrics.Mean("total")

    def call(self, x):
        return self.inner(x)

    @property
    def metrics(self):
        return [self.total]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        self.total.update_state(loss)
        return {"total": self.total.result(), "last": loss}


@case
def own_train_step():
    model = OwnStep()
    model.compile("adam")
    return Case(model, numbers(6), numbers(1))


class Sampling(L.Layer):
    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(3)

    def call(self, inputs):
        mean, log_variance = inputs
        return mean + keras.ops.exp(0.5 * log_variance) * keras.random.normal(
            keras.ops.shape(mean), seed=self.generator
        )


class VAE(keras.Model):
    """As in Keras's examples: without a `call`."""

    def __init__(self):
        super().__init__()
        inputs, latent = keras.Input((6,)), keras.Input((2,))
        hidden = L.Dense(4, "relu")(inputs)
        mean, variance = L.Dense(2)(hidden), L.Dense(2)(hidden)
        self.encoder = keras.Model(inputs, [mean, variance, Sampling()([mean, variance])])
        self.decoder = keras.Model(latent, L.Dense(6)(latent))
        self.tracker = keras.metrics.Mean("loss")

    @property
    def metrics(self):
        return [self.tracker]

    def train_step(self, data):
        with tf.GradientTape() as tape:
            mean, variance, latent = self.encoder(data)
            divergence = -0.5 * keras.ops.mean(1 + variance - mean**2 - keras.ops.exp(variance))
            loss = keras.ops.mean((self.decoder(latent) - data) ** 2) + divergence
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


@case
def vae():
    model = VAE()
    model.compile("adam")
    return Case(model, numbers(6), None)


class GAN(keras.Model):
    """As in Keras's examples: two optimizers, and a `compile` of its own."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential([keras.Input((2,)), L.Dense(6)])
        self.discriminator = keras.Sequential([keras.Input((6,)), L.Dense(4, "relu"), L.Dropout(0.2), L.Dense(1)])
        self.seed_generator = keras.random.SeedGenerator(1337)
        self.d_loss, self.g_loss = keras.metrics.Mean("d_loss"), keras.metrics.Mean("g_loss")

    def compile(self, d_optimizer, g_optimizer):
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer
        self.loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)

    @property
    def metrics(self):
        return [self.d_loss, self.g_loss]

    def train_step(self, real):
        size = keras.ops.shape(real)[0]
        fake = self.generator(keras.random.normal((size, 2), seed=self.seed_generator))
        both = keras.ops.concatenate([real, fake])
        truth = keras.ops.concatenate([keras.ops.zeros((size, 1)), keras.ops.ones((size, 1))])
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(truth, self.discriminator(both, training=True))
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        noise = keras.random.normal((size, 2), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(keras.ops.zeros((size, 1)), self.discriminator(self.generator(noise)))
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {"d_loss": self.d_loss.result(), "g_loss": self.g_loss.result()}


@case
def gan():
    model = GAN()
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.02))
    return Case(model, numbers(6), None)


class Distiller(keras.Model):
    """A teacher's outputs as targets, by `compute_loss`."""

    def __init__(self):
        super().__init__()
        self.teacher = keras.Sequential([keras.Input((6,)), L.Dense(3, "softmax")])
        self.teacher.trainable = False
        self.student = keras.Sequential([keras.Input((6,)), L.Dense(3, "softmax")])

    def call(self, x):
        return self.student(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        soft = keras.losses.kl_divergence(self.teacher(x, training=False), y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight) + keras.ops.mean(soft)


@case
def distillation():
    model = Distiller()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, numbers(6), labels())


# Optimizers and precision


@case
def moving_average():
    return classifier(L.Dense(4), inputs=(6,), optimizer=keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True))


@case
def accumulation():
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    return classifier(L.Dense(4), inputs=(6,), optimizer=optimizer)


@case
def clipping():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 9, warmup_steps=2, warmup_target=0.2)
    return classifier(L.Dense(4), inputs=(6,), optimizer=keras.optimizers.Lamb(schedule, global_clipnorm=0.5))


@case
def mixed_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return classifier(L.Dense(8, "relu"), L.Dropout(0.2), L.LayerNormalization(), inputs=(6,))
    finally:
        keras.config.set_dtype_policy("float32")


@case
def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return classifier(L.Dense(8, "relu"), L.Dropout(0.2), inputs=(6,))
    finally:
        keras.config.set_dtype_policy("float32")


@case
def metrics_of_every_kind():
    model = keras.Sequential([keras.Input((6,)), L.Dense(3, "softmax")])
    overlap = keras.metrics.OneHotMeanIoU(3, name="overlap")
    kinds = [keras.metrics.F1Score(average=None), "top_k_categorical_accuracy", overlap]
    model.compile("adam", keras.losses.CategoricalCrossentropy(label_smoothing=0.1), metrics=kinds)
    return Case(model, numbers(6), np.eye(3, dtype="float32")[labels()])


@case
def large_embedding():
    layers = (L.Embedding(20_000, 4), L.GlobalAveragePooling1D())
    return classifier(*layers, inputs=(5,), x=ids(5, 20_000), dtype="int32")

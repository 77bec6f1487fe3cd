"""A training loop of your own: a generative adversarial network with two optimizers in one `train_step`.

`kerasnn.fit` compiles whole blocks of your own steps, and `TrainingState` saves both optimizers. Run it with
`python examples/gan.py`; it writes `logs/gan/digits.png`.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import kerasnn
from kerasnn import TrainingState, figures

NOISE = 16


class GAN(keras.Model):
    """A generator that learns to make what a discriminator can't tell from the data."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.Sequential(
            [keras.Input((NOISE,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(64, "sigmoid")]
        )
        self.discriminator = keras.Sequential(
            [keras.Input((64,)), keras.layers.Dense(64, "leaky_relu"), keras.layers.Dense(1)]
        )
        self.generator_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.5)
        self.discriminator_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.5)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, noise: Any) -> Any:
        return self.generator(noise)

    def train_step(self, data: Any) -> dict[str, Any]:
        real = data[0] if isinstance(data, tuple) else data
        bce = keras.losses.BinaryCrossentropy(from_logits=True)
        noise = keras.random.normal((tf.shape(real)[0], NOISE), seed=self.seeds)
        with tf.GradientTape(persistent=True) as tape:
            judged_real = self.discriminator(real)
            judged_made = self.discriminator(self.generator(noise))
            ones, zeros = tf.ones_like(judged_real), tf.zeros_like(judged_made)
            discriminator_loss = bce(ones, judged_real) + bce(zeros, judged_made)
            generator_loss = bce(ones, judged_made)
        for part, optimizer, loss in (
            (self.discriminator, self.discriminator_optimizer, discriminator_loss),
            (self.generator, self.generator_optimizer, generator_loss),
        ):
            gradients = tape.gradient(loss, part.trainable_variables)
            optimizer.apply_gradients(zip(gradients, part.trainable_variables, strict=True))
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}


def main() -> None:
    x = (load_digits().data / 16).astype("float32")
    keras.utils.set_random_seed(0)
    gan = GAN()
    # Optimizers outside of `compile` create their variables at the first step, unless they are built before.
    gan.generator_optimizer.build(gan.generator.trainable_variables)
    gan.discriminator_optimizer.build(gan.discriminator.trainable_variables)
    gan.compile()

    state = TrainingState("logs/gan/state")
    history = kerasnn.fit(gan, x, batch_size=64, epochs=40, verbose=0, seed=0, **state.resume(gan))
    print({name: round(values[-1], 3) for name, values in history.history.items()})

    noise = np.random.default_rng(0).normal(size=(25, NOISE)).astype("float32")
    made = gan.generator.predict(noise, verbose=0).reshape(-1, 8, 8)
    figures.save(figures.examples(made, np.zeros(25, int), [""], (8, 8)), "logs/gan/digits.png")


if __name__ == "__main__":
    main()

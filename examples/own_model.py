"""The same Keras model trained by `model.fit` and by `kerasnn.fit`: the same numbers, in less time.

Run it with `python examples/own_model.py`.
"""

import time

import keras
import numpy as np
from sklearn.datasets import load_digits

import kerasnn


def build() -> keras.Model:
    keras.utils.set_random_seed(0)  # the same initial weights each time
    inputs = keras.Input((64,))
    x = keras.layers.Dense(50, activation="relu")(inputs)
    x = keras.layers.Dropout(0.1)(x)
    x = keras.layers.Dense(100, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    x_train, y_train, x_test, y_test = x[:1500], y[:1500], x[1500:], y[1500:]

    losses = {}
    for name, fit in (("model.fit", keras.Model.fit), ("kerasnn.fit", kerasnn.fit)):
        model = build()
        # shuffle=False, so that both see the examples in one order; leave it out in your own program.
        options = {"batch_size": 32, "shuffle": False, "verbose": 0}
        fit(model, x_train, y_train, epochs=1, **options)  # compiles; not timed
        start = time.perf_counter()
        history = fit(model, x_train, y_train, epochs=5, **options)
        seconds = time.perf_counter() - start
        losses[name] = history.history["loss"]
        print(f"{name:12} {seconds / 5 * 1000:6.0f} ms an epoch, last loss {losses[name][-1]:.5f}")
    # Equal up to rounding: XLA adds in another order than TensorFlow.
    np.testing.assert_allclose(losses["kerasnn.fit"], losses["model.fit"], rtol=1e-3)

    loss, accuracy = kerasnn.evaluate(model, x_test, y_test, verbose=0)
    print(f"test accuracy {accuracy:.3f}, loss {loss:.3f}")


if __name__ == "__main__":
    main()

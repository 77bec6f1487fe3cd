"""Search over a function that builds any Keras model, as with keras-tuner; trials of one shape train together.

Run it with `python examples/search_build.py`. Kill it at any moment: started again, it goes on where it was.
"""

import keras
from sklearn.datasets import load_digits

# The only line that a program for keras-tuner changes.
from kerasnn import tuners as keras_tuner


def build(hp: keras_tuner.HyperParameters) -> keras.Model:
    # Rates, penalties and dropout can differ between models that train together; widths make another group. So a few
    # widths and many rates are searched fast.
    units = hp.Choice("units", [16, 32])
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(hp.Float("dropout", 0.0, 0.4)),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")

    tuner = keras_tuner.RandomSearch(
        build, objective="val_accuracy", max_trials=12, seed=0, directory="logs", project_name="digits_search"
    )
    tuner.search(x[:1200], y[:1200], epochs=8, batch_size=32, validation_data=(x[1200:1500], y[1200:1500]))
    tuner.results_summary(num_trials=3)

    # The best trial's weights are those of its best epoch. The last 297 digits had no part in choosing it.
    best = tuner.get_best_models(1)[0]
    loss, accuracy = best.evaluate(x[1500:], y[1500:], verbose=0)
    print(f"test accuracy {accuracy:.3f}, loss {loss:.3f}")


if __name__ == "__main__":
    main()

"""keras-tuner's interface with trials that train together, a journal, and searches that resume exactly.

`from kerasnn import tuners as keras_tuner` is all that a program for keras-tuner changes.
"""

from typing import Any

import keras
import keras_tuner
from keras_tuner import HyperModel, HyperParameters, Objective

from kerasnn.search.tuner import FusedTuner

__all__ = [
    "BayesianOptimization",
    "GridSearch",
    "HyperModel",
    "HyperParameters",
    "Hyperband",
    "Objective",
    "RandomSearch",
]


class RandomSearch(FusedTuner, keras_tuner.RandomSearch):
    """keras-tuner's `RandomSearch`, with trials that train together and a search that resumes exactly.

    Args:
        trials_at_once: trials proposed before the result of the first of them is known.

    Reference: `keras_tuner.RandomSearch`, whose arguments and methods it has.

    >>> import tempfile
    >>> import numpy as np
    >>> def build(hp):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "mse")
    ...     return model
    >>> tuner = RandomSearch(build, "loss", max_trials=3, seed=1, directory=tempfile.mkdtemp())
    >>> tuner.search(np.ones((4, 2)), np.ones(4), epochs=2, verbose=0)
    >>> len(tuner.oracle.trials), list(tuner.get_best_hyperparameters()[0].values)
    (3, ['rate'])
    """


class BayesianOptimization(FusedTuner, keras_tuner.BayesianOptimization):
    """keras-tuner's `BayesianOptimization`, with trials that train together and a search that resumes exactly.

    Args:
        trials_at_once: trials proposed before the result of the first of them is known: with fewer, the model of the
            objective learns sooner.

    Reference: `keras_tuner.BayesianOptimization`, whose arguments and methods it has.

    >>> import tempfile
    >>> import numpy as np
    >>> def build(hp):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "mse")
    ...     return model
    >>> tuner = BayesianOptimization(build, "val_loss", max_trials=2, seed=1, directory=tempfile.mkdtemp())
    >>> data = (np.ones((4, 2)), np.ones(4))
    >>> tuner.search(*data, validation_data=data, verbose=0)
    >>> len(tuner.oracle.trials)
    2
    """

    default_trials_at_once = 8


class Hyperband(FusedTuner, keras_tuner.Hyperband):
    """keras-tuner's `Hyperband`, with trials that train together and a search that resumes exactly.

    Reference: `keras_tuner.Hyperband`, whose arguments and methods it has.

    >>> import tempfile
    >>> import numpy as np
    >>> def build(hp):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "mse")
    ...     return model
    >>> tuner = Hyperband(build, "val_loss", max_epochs=2, factor=2, seed=1, directory=tempfile.mkdtemp())
    >>> data = (np.ones((4, 2)), np.ones(4))
    >>> tuner.search(*data, validation_data=data, verbose=0)
    >>> len(tuner.oracle.trials) > 1
    True
    """

    def _build_hypermodel(self, hp: Any) -> keras.Model:
        model = keras_tuner.Tuner._build_hypermodel(self, hp)
        if "tuner/trial_id" in hp.values and self.weights_file(hp.values["tuner/trial_id"]).exists():
            self.restore(model, hp.values["tuner/trial_id"])
        return model


class GridSearch(FusedTuner, keras_tuner.GridSearch):
    """keras-tuner's `GridSearch`, with trials that train together and a search that resumes exactly.

    Reference: `keras_tuner.GridSearch`, whose arguments and methods it has.

    >>> import tempfile
    >>> import numpy as np
    >>> def build(hp):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(hp.Choice("rate", [0.01, 0.1])), "mse")
    ...     return model
    >>> tuner = GridSearch(build, "val_loss", seed=1, directory=tempfile.mkdtemp())
    >>> data = (np.ones((4, 2)), np.ones(4))
    >>> tuner.search(*data, validation_data=data, verbose=0)
    >>> len(tuner.oracle.trials)
    2
    """

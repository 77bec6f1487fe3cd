"""keras-tuner's interface with trials that train together, a journal, and searches that resume exactly.

`from kerasnn import tuners as keras_tuner` is all that a program for keras-tuner changes.
"""

from keras_tuner import HyperModel, HyperParameters, Objective

from kerasnn.search.tuner import BayesianOptimization, GridSearch, Hyperband, RandomSearch

__all__ = [
    "BayesianOptimization",
    "GridSearch",
    "HyperModel",
    "HyperParameters",
    "Hyperband",
    "Objective",
    "RandomSearch",
]

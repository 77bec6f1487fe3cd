"""Keras's own tests, run with `fit` and `evaluate` going through kerasnn."""

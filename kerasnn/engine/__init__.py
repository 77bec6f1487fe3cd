"""Compiled epochs: Keras's own `fit` over blocks of steps that run as one program."""

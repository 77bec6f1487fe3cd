"""Runs: a config in, a trained model and a run folder out."""

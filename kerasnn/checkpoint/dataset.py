"""A tf.data dataset, advanced to the epoch at which a training resumes."""

import tensorflow as tf


def advanced(dataset: tf.data.Dataset, epochs: int, steps_per_epoch: int | None) -> tf.data.Dataset:
    """A dataset after some epochs have been read from it.

    Args:
        dataset: the dataset of a run that resumes.
        epochs: epochs that the run has trained.
        steps_per_epoch: as given to `fit`.

    Raises:
        ValueError: one line, for `steps_per_epoch` with a dataset that ends.
    """
    if steps_per_epoch is not None:
        if dataset.cardinality() != tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "a dataset with steps_per_epoch must be without end to resume: repeat() it, or leave steps_per_epoch "
                f"out; received one of {int(dataset.cardinality())} batches"
            )
        return dataset.skip(epochs * steps_per_epoch)
    for _ in range(epochs):
        for _ in dataset:
            pass
        if dataset.cardinality() != tf.data.UNKNOWN_CARDINALITY:
            # If Keras knows the number of batches, it begins one more pass after each epoch.
            iter(dataset)
    return dataset

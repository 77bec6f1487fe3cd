"""Random changes of images during training, as Keras layers."""

import keras
import numpy as np

from kerasnn.config.data import AugmentConfig

FLIPS = {"horizontal": "horizontal", "vertical": "vertical", "both": "horizontal_and_vertical"}


def augmentation_layers(augment: AugmentConfig, shape: tuple[int, ...], seed: int = 0) -> list[keras.layers.Layer]:
    """New Keras layers that change each image at random while training, and pass it on as it is otherwise.

    Args:
        augment: the changes.
        shape: shape of one image, `(height, width, channels)`, whose values are from 0 to 1.
        seed: non-negative integer, from which the seeds of all layers are derived.

    Raises:
        ValueError: one line, for examples that are no images.

    Reference: Keras's `RandomFlip`, `RandomRotation`, `RandomZoom`, `RandomTranslation`, `RandomContrast` and
        `RandomBrightness`.

    >>> [layer.name for layer in augmentation_layers(AugmentConfig(flip="horizontal", zoom=0.1), (8, 8, 3))]
    ['flip', 'zoom']
    """
    if len(shape) != 3:
        raise ValueError(f"data.augment needs images of shape (height, width, channels), received {shape}")
    kinds = keras.layers
    makers = {
        "flip": lambda seed: kinds.RandomFlip(FLIPS[augment.flip], seed=seed, name="flip"),
        "rotation": lambda seed: kinds.RandomRotation(augment.rotation, seed=seed, name="rotation"),
        "zoom": lambda seed: kinds.RandomZoom(augment.zoom, seed=seed, name="zoom"),
        "translation": lambda seed: kinds.RandomTranslation(
            augment.translation, augment.translation, seed=seed, name="translation"
        ),
        "contrast": lambda seed: kinds.RandomContrast(augment.contrast, value_range=(0, 1), seed=seed, name="contrast"),
        "brightness": lambda seed: kinds.RandomBrightness(
            augment.brightness, value_range=(0, 1), seed=seed, name="brightness"
        ),
    }
    # One seed for each kind, so that a further change leaves the others as they are; apart from those of layers.
    seeds = np.random.SeedSequence([seed, 0, 1]).generate_state(len(makers)) >> 1
    default = AugmentConfig()
    return [
        make(int(state))
        for (key, make), state in zip(makers.items(), seeds, strict=True)
        if getattr(augment, key) != getattr(default, key)
    ]

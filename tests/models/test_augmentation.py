"""Random changes of images during training."""

import numpy as np
import pytest

from kerasnn.config.data import AugmentConfig
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import NetworkConfig
from kerasnn.models.augmentation import augmentation_layers
from kerasnn.models.building import build_model

ALL = AugmentConfig(flip="horizontal", rotation=0.1, zoom=0.1, translation=0.1, contrast=0.2, brightness=0.2)
IMAGES = np.random.default_rng(0).uniform(size=(6, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("key", list(AugmentConfig.model_fields))
def test_each_change_is_for_training_only(key: str) -> None:
    (layer,) = augmentation_layers(AugmentConfig(**{key: getattr(ALL, key)}), (8, 8, 3), seed=1)
    assert layer.name == key
    np.testing.assert_array_equal(layer(IMAGES, training=False), IMAGES)
    changed = layer(IMAGES, training=True).numpy()
    assert np.abs(changed - IMAGES).max() > 0.01
    assert 0 <= changed.min() <= changed.max() <= 1
    assert np.abs(layer(IMAGES, training=True).numpy() - changed).max() > 0.01


def test_a_flip_is_that_of_the_image() -> None:
    for kind, axes in (("horizontal", (1,)), ("vertical", (0,))):
        (layer,) = augmentation_layers(AugmentConfig(flip=kind), (8, 8, 3))
        for before, after in zip(IMAGES, layer(IMAGES, training=True).numpy(), strict=True):
            assert np.array_equal(after, before) or np.array_equal(after, np.flip(before, axes))


def test_a_further_change_leaves_the_others_as_they_are() -> None:
    alone, together = (augmentation_layers(each, (8, 8, 3), seed=3) for each in (AugmentConfig(zoom=0.1), ALL))
    assert alone[0].seed == together[2].seed
    assert len({layer.seed for layer in together}) == 6


@pytest.mark.parametrize("style", ["sequential", "functional", "subclassed"])
def test_styles_predict_as_without_augmentation(style: str) -> None:
    network = NetworkConfig(hidden=({"filters": 2}, 4))
    plain, augmented = (build_model(network, (8, 8, 3), 2, style, augment=each) for each in (None, ALL))
    np.testing.assert_array_equal(augmented.predict(IMAGES, verbose=0), plain.predict(IMAGES, verbose=0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "digits"}, "data.augment needs images, so data.flatten must be false, received true"),
        ({"path": "a.csv"}, "data.augment is for images, received data.name 'table'"),
        (
            {"path": "animals", "scaling": "standardize"},
            "data.augment.contrast and brightness need values from 0 to 1, so data.scaling must be unit, received "
            "'standardize'",
        ),
    ],
)
def test_unsuitable_data_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        RunConfig.model_validate({"data": {**data, "augment": {"contrast": 0.1}}})


def test_examples_that_are_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^data.augment needs images of shape .*, received \(5,\)$"):
        build_model(NetworkConfig(), (5,), 2, augment=ALL)

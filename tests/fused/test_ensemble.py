"""Networks of one structure as one Keras model."""

import keras
import numpy as np
import pytest

from kerasnn.config.sections import NetworkConfig, RegularizationConfig
from kerasnn.fused.ensemble import build_fused
from kerasnn.models.building import build_model

X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


def networks(style="functional", count=3, **options):
    network = NetworkConfig.model_validate({"hidden": [6, 5], **options})
    regularization = RegularizationConfig(dropout=0.3, batch_norm=True)
    return [
        build_model(network, (4,), 3, style=style, seed=seed, regularization=regularization) for seed in range(count)
    ]


@pytest.mark.parametrize("style", ["sequential", "functional", "subclassed"])
def test_predicts_what_its_members_predict(style):
    members = networks(style)
    fused = build_fused(members)
    expected = np.stack([member.predict(X, verbose=0) for member in members], axis=1)
    np.testing.assert_allclose(fused.predict(X, verbose=0), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(fused.predict_mean(X), expected.mean(axis=1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("style", ["sequential", "functional", "subclassed"])
def test_gives_its_members_back_as_plain_models(style):
    members = networks(style)
    for before, after in zip(members, build_fused(members).split(), strict=True):
        assert type(after) is type(before)
        assert all(np.array_equal(a, b) for a, b in zip(before.get_weights(), after.get_weights(), strict=True))


def test_saves_and_loads(tmp_path):
    fused = build_fused(networks())
    fused.save(tmp_path / "fused.keras")
    loaded = keras.saving.load_model(tmp_path / "fused.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), fused.predict(X, verbose=0))


def test_networks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="networks must have one structure; number 1 differs from number 0"):
        build_fused([*networks(count=1), *networks(count=1, hidden=[6, 6])])
    with pytest.raises(ValueError, match="networks must be at least one, received none"):
        build_fused([])

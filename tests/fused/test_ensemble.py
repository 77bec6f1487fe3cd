"""Networks of one structure as one Keras model."""

import keras
import numpy as np
import pytest

import kerasnn
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


def of_two_outputs(seed):
    keras.utils.set_random_seed(seed)
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    hidden = keras.layers.Dense(4 + seed, "tanh")(keras.layers.Concatenate()(list(inputs.values())))
    outputs = {"y": keras.layers.Dense(1)(hidden), "z": keras.layers.Dense(3, "softmax")(hidden)}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"y": "mse", "z": "sparse_categorical_crossentropy"}, metrics={"z": ["accuracy"]})
    return model


def test_an_ensemble_of_any_models_is_saved_and_measured_as_one(tmp_path):
    x = {"a": np.random.default_rng(0).normal(size=(8, 3)), "b": np.ones((8, 2))}
    y = {"y": np.zeros(8), "z": np.arange(8) % 3}
    models = [of_two_outputs(seed) for seed in range(3)]
    for model in models:
        model.fit(x, y, verbose=0)
    expected = [model.predict(x, verbose=0) for model in models]
    ensemble = kerasnn.Ensemble(models, [1, 2, 1])
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    for each in (ensemble, loaded):
        outputs = each.predict(x, verbose=0)
        for name in ("y", "z"):
            mean = (expected[0][name] + 2 * expected[1][name] + expected[2][name]) / 4
            np.testing.assert_allclose(outputs[name], mean, rtol=1e-5)
        logs = each.evaluate(x, y, verbose=0, return_dict=True)
        z = (outputs["z"].argmax(axis=1) == y["z"]).mean()
        assert logs["z_accuracy"] == pytest.approx(z)
        assert logs["y_loss"] == pytest.approx((outputs["y"] ** 2).mean(), rel=1e-5)


def test_greedy_selection_takes_the_mean_that_is_best(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)).astype("float32"), rng.normal(size=(200, 1)).astype("float32")
    models = []
    for seed in range(6):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        models.append(model)
    outputs = [model.predict(x, verbose=0) for model in models]
    chosen, total, best = [], 0, np.inf
    for size in range(1, 11):
        losses = [np.mean(((total + each) / size - y) ** 2) for each in outputs]
        chosen.append(int(np.argmin(losses)))
        total = total + outputs[chosen[-1]]
        if min(losses) < best:
            best, count = min(losses), size
    found = kerasnn.select_ensemble(models, x, y, rounds=10)
    expected = {number: chosen[:count].count(number) / count for number in chosen[:count]}
    assert {
        models.index(member): share for member, share in zip(found.members, found.shares, strict=True)
    } == pytest.approx(expected)
    assert found.evaluate(x, y, verbose=0) == pytest.approx(best, rel=1e-5)
    assert best < min(np.mean((each - y) ** 2) for each in outputs)
    by_score = kerasnn.select_ensemble(models, x, y, rounds=1, score=lambda y, mean: float(np.mean(abs(y - mean))))
    assert models.index(by_score.members[0]) == np.argmin([np.mean(abs(each - y)) for each in outputs])


def test_networks_that_differ_in_an_activation_are_not_fused():
    networks = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kind)]) for kind in ("relu", "tanh")]
    with pytest.raises(ValueError, match="networks must have one structure; number 1 differs from number 0"):
        kerasnn.build_fused(networks)
    with pytest.raises(ValueError, match=r"shares must be 2 numbers of at least 0, not all 0; received \[1.0\]"):
        kerasnn.Ensemble(networks, [1])

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasnn.components import optimizers
from kerasnn.config import catalog

REFERENCE = Path(__file__).parents[1] / "reference" / "golden.json"
GOLDEN = json.loads(REFERENCE.read_text())["torch_optimizers_on_half_w_squared"]


@pytest.mark.parametrize(
    ("key", "spec"),
    [
        ("sgd", "sgd"),
        ("sgd_momentum_0.9", "momentum"),
        ("sgd_momentum_0.9", {"name": "sgd", "momentum": 0.9}),
        # Keras starts the accumulator at 0.1 and adds epsilon under the root; PyTorch starts at 0 and adds it outside.
        ("adagrad_initial_accumulator_0", {"name": "adagrad", "initial_accumulator_value": 0.0, "epsilon": 1e-20}),
        # Keras's rho is 0.9 by default and its epsilon under the root; PyTorch's alpha is 0.99.
        ("rmsprop_alpha_0.99", {"name": "rmsprop", "rho": 0.99, "epsilon": 1e-16}),
        # Keras's epsilon is 1e-7, PyTorch's 1e-8.
        ("adam_betas_0.9_0.99", {"name": "adam", "beta_2": 0.99, "epsilon": 1e-8}),
    ],
)
def test_two_steps_equal_pytorch(key, spec):
    spec = {"name": spec} if isinstance(spec, str) else spec
    optimizer = optimizers.get({**spec, "learning_rate": GOLDEN["lr"]})
    w = keras.Variable(GOLDEN["w0"])
    steps = []
    for _ in range(2):
        gradient = float(w.numpy())
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [w])
        steps.append([gradient, float(w.numpy())])
    np.testing.assert_allclose(steps, GOLDEN[key], rtol=3e-7)


def test_nesterov_looks_ahead():
    # v = 0.9 v - lr g; w += 0.9 v - lr g, on w²/2 from 1 with lr 0.1.
    optimizer = optimizers.get({"name": "nesterov", "learning_rate": 0.1})
    w = keras.Variable(1.0)
    expected, v = 1.0, 0.0
    for _ in range(3):
        gradient = float(w.numpy())
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [w])
        v = 0.9 * v - 0.1 * expected
        expected += 0.9 * v - 0.1 * expected
        assert float(w.numpy()) == pytest.approx(expected, rel=1e-6)


def descend(optimizer, steps=10):
    """Losses of a least-squares problem over compiled updates."""
    kernel = keras.Variable(np.linspace(-1, 1, 12).reshape(4, 3), dtype="float32")
    bias = keras.Variable(np.array([0.5, -0.5, 1.0]), dtype="float32")
    x = tf.constant(np.random.default_rng(0).normal(size=(16, 4)), "float32")
    optimizer.build([kernel, bias])

    @tf.function(jit_compile=True)
    def update():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(x @ kernel.value + bias.value))
        optimizer.apply(tape.gradient(loss, [kernel.value, bias.value]), [kernel, bias])
        return loss

    return np.array([update().numpy() for _ in range(steps)])


@pytest.mark.parametrize("name", catalog.OPTIMIZERS)
def test_every_optimizer_descends_under_xla(name):
    losses = descend(optimizers.get({"name": name, "learning_rate": 0.01}))
    assert np.all(np.diff(losses) < 0)


def sample(argument, rule):
    """A value other than Keras's default that the rule takes."""
    for value in (0.125, 3, True, -0.25):
        if rule.holds(value):
            return value
    raise AssertionError(argument)


@pytest.mark.parametrize("name", catalog.OPTIMIZERS)
def test_every_argument_arrives(name):
    alone = {"clipnorm", "clipvalue", "global_clipnorm"}
    for extra in alone:
        arguments = {
            argument: sample(argument, rule)
            for argument, rule in catalog.OPTIMIZERS[name].items()
            if argument not in alone or argument == extra
        }
        config = optimizers.get({"name": name, **arguments}).get_config()
        assert {key: config[key] for key in arguments} == pytest.approx(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight_decay": 0.01},
        {"clipnorm": 0.5},
        {"clipvalue": 0.05},
        {"global_clipnorm": 0.5},
        {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4},
        {"gradient_accumulation_steps": 2},
        {"loss_scale_factor": 8.0},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_shared_arguments_run_under_xla(arguments):
    plain = descend(optimizers.get({"name": "adam", "learning_rate": 0.01}))
    changed = descend(optimizers.get({"name": "adam", "learning_rate": 0.01, **arguments}))
    assert np.all(np.isfinite(changed))
    assert not np.array_equal(plain, changed)


def test_names_are_classes_of_their_own():
    assert type(optimizers.get("adamw")) is keras.optimizers.AdamW
    assert type(optimizers.get("rmsprop")) is keras.optimizers.RMSprop
    assert optimizers.get("momentum").nesterov is False
    assert optimizers.get("nesterov").nesterov is True
    assert optimizers.get({"name": "nesterov", "momentum": 0.5}).momentum == 0.5
    assert optimizers.get("sgd") is not optimizers.get("sgd")


def test_refuses_what_the_catalog_refuses():
    with pytest.raises(ValueError, match="learning_rate must be a finite number > 0; received nan"):
        optimizers.get({"name": "adam", "learning_rate": float("nan")})
    with pytest.raises(ValueError, match=r"did you mean 'adam'\?"):
        optimizers.get("adm")

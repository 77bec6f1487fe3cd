import inspect
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from kerasnn.config import catalog
from kerasnn.config.catalog import ACTIVATIONS, INITIALIZERS, LOSSES, METRICS, OPTIMIZERS

# What is ours or a variant of a Keras component, with the Keras constructor whose arguments it takes.
OURS = {
    "step": None,
    "srelu": None,
    "crelu": None,
    "rrelu": None,
    "maxout": None,
    "prelu": None,
    "standard_uniform": None,
    "momentum": "sgd",
    "nesterov": "sgd",
}

# Arguments of Keras that a spec cannot give, and why.
NOT_IN_SPECS = {
    id(ACTIVATIONS): {"x", "axis"},  # features are the last axis
    id(INITIALIZERS): {"seed", "input_axes", "output_axes"},  # the layer's
    id(LOSSES): {"axis", "reduction", "name", "dtype"},  # a mean over examples, in float32
    id(OPTIMIZERS): {"name", "kwargs", "exclude_layers", "exclude_embeddings"},  # layers are not known by their paths
    id(METRICS): {"name", "dtype", "axis", "label_weights", "num_regressors", "from_sorted_ids"},
}


def keras_arguments(table, name):
    """The parameters of the Keras function or class behind a name, or None for ours."""
    name = OURS.get(name, name)
    if name is None:
        return None
    if table is ACTIVATIONS:
        target = getattr(keras.activations, name)
    else:
        modules = {
            id(INITIALIZERS): keras.initializers,
            id(LOSSES): keras.losses,
            id(OPTIMIZERS): keras.optimizers,
            id(METRICS): keras.metrics,
        }
        target = catalog.keras_class(modules[id(table)], name)
    if inspect.isclass(target) and target.__init__ is object.__init__:
        return {}
    found = dict(inspect.signature(target).parameters)
    return {key: value for key, value in found.items() if key not in NOT_IN_SPECS[id(table)] | {"args"}}


TABLES = {
    "activation": ACTIVATIONS,
    "initializer": INITIALIZERS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "metric": METRICS,
}
ENTRIES = [pytest.param(table, name, id=f"{kind}-{name}") for kind, table in TABLES.items() for name in table]

# Where a table differs from the signature on purpose.
ADDED = {(id(LOSSES), "sparse_categorical_crossentropy"): {"label_smoothing"}}
REMOVED = {
    (id(OPTIMIZERS), "momentum"): {"nesterov"},
    (id(OPTIMIZERS), "nesterov"): {"nesterov"},
    (id(METRICS), "auc"): {"thresholds"},
}


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_arguments_are_keras_own(table, name):
    parameters = keras_arguments(table, name)
    if parameters is None:
        pytest.skip("ours")
    expected = set(parameters) - REMOVED.get((id(table), name), set()) | ADDED.get((id(table), name), set())
    assert set(table[name]) == expected


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_every_default_keeps_its_rule(table, name):
    for argument, parameter in (keras_arguments(table, name) or {}).items():
        rule = table[name].get(argument)
        if rule is None:
            continue
        assert rule.required == (parameter.default is parameter.empty), argument
        if name in ("momentum", "nesterov") and argument == "momentum":
            continue  # theirs is 0.9
        if not rule.required:
            assert rule.holds(parameter.default), argument
            assert rule.holds(None) == (parameter.default is None), argument


def test_every_keras_activation_is_there():
    functions = {name for name, value in vars(keras.activations).items() if inspect.isfunction(value)}
    names = functions - {"get", "serialize", "deserialize"}
    assert {catalog.canonical(ACTIVATIONS, name) for name in names} <= set(ACTIVATIONS)


def test_every_keras_optimizer_is_there_but_four():
    classes = {value.__name__.lower() for value in vars(keras.optimizers).values() if inspect.isclass(value)}
    left_out = {"optimizer", "lossscaleoptimizer", "multioptimizer", "optimizermap", "schedulefreeadamw"}
    assert classes - set(OPTIMIZERS) == left_out


@pytest.mark.parametrize(
    ("table", "alias", "name"),
    [
        (ACTIVATIONS, "identity", "linear"),
        (INITIALIZERS, "identity", "identity"),
        (ACTIVATIONS, "swish", "silu"),
        (INITIALIZERS, "xavier_normal", "glorot_normal"),
        (INITIALIZERS, "kaiming_uniform", "he_uniform"),
        (LOSSES, "smooth_l1", "huber"),
        (LOSSES, "mape", "mean_absolute_percentage_error"),
        (METRICS, "mse", "mean_squared_error"),
        (OPTIMIZERS, "adam", "adam"),
    ],
)
def test_canonical(table, alias, name):
    assert catalog.canonical(table, alias) == name
    assert catalog.check("component", table, alias) == (name, {})


def test_every_alias_stands_for_a_name_of_some_table():
    names = {name for table in TABLES.values() for name in table}
    assert set(catalog.ALIASES.values()) <= names


def test_check_returns_the_arguments_and_leaves_the_spec():
    spec = {"name": "huber", "delta": 2.0}
    assert catalog.check("loss", LOSSES, spec) == ("huber", {"delta": 2.0})
    assert spec == {"name": "huber", "delta": 2.0}


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("activation", "rleu", r"^activation must be one of linear, .*; received 'rleu' \(did you mean 'relu'\?\)$"),
        ("activation", "xavier_normal", r"^activation must be one of .*; received 'xavier_normal'"),
        ("optimizer", "Adam", r"did you mean 'adam'\?"),
        ("activation", 3, r"^activation must be a name or a mapping with the key 'name'; received 3$"),
        ("activation", None, r"^activation must be a name or a mapping with the key 'name'; received None$"),
        (
            "activation",
            {"slope": 1},
            r"^activation must be a name or a mapping with the key 'name'; received \{'slope'",
        ),
        ("activation", {"name": 1}, r"^activation must be a name or a mapping with the key 'name'; received"),
        (
            "activation",
            {"name": "leaky_relu", "slope": 0.1},
            r"^activation leaky_relu: argument must be one of negative_slope; received 'slope'",
        ),
        ("activation", {"name": "relu6", "slope": 1}, r"^activation relu6 takes no arguments; received 'slope'$"),
        (
            "loss",
            {"name": "mse", "from_logits": True},
            r"^loss mean_squared_error takes no arguments; received 'from_logits'; taken by categorical_crossentropy, ",
        ),
        ("loss", {"name": "huber", "label_smoothing": 0.1}, r"received 'label_smoothing'; taken by categorical_cross"),
        (
            "activation",
            {"name": "leaky_relu", "negative_slope": math.nan},
            r"^activation leaky_relu: negative_slope must be a finite number >= 0; received nan$",
        ),
        ("initializer", {"name": "constant", "value": math.inf}, r"value must be a finite number; received inf"),
        ("initializer", {"name": "constant", "value": "1"}, r"value must be a finite number; received '1'"),
        ("initializer", {"name": "constant", "value": True}, r"value must be a finite number; received True"),
        (
            "initializer",
            {"name": "normal", "stddev": 0},
            r"^initializer random_normal: stddev must be .* > 0; received 0",
        ),
        (
            "initializer",
            {"name": "uniform", "minval": 0.1},
            r"^initializer random_uniform: minval must be < maxval; received minval 0.1, maxval 0.05$",
        ),
        (
            "initializer",
            {"name": "variance_scaling", "mode": "fan"},
            r"mode must be one of fan_in, fan_out, fan_avg; received 'fan'",
        ),
        (
            "activation",
            {"name": "rrelu", "lower": 0.5},
            r"^activation rrelu: lower must be <= upper; received lower 0.5",
        ),
        ("activation", {"name": "maxout", "pieces": 1}, r"pieces must be an integer >= 2; received 1"),
        ("activation", {"name": "maxout", "pieces": 2.0}, r"pieces must be an integer >= 2; received 2.0"),
        ("activation", "threshold", r"^activation threshold: threshold is required, a finite number; received 'thresh"),
        ("metric", "precision_at_recall", r"^metric precision_at_recall: recall is required, a number in \[0, 1\]"),
        ("optimizer", {"name": "sgd", "learning_rate": math.nan}, r"learning_rate must be a finite number > 0; rec"),
        ("optimizer", {"name": "sgd", "learning_rate": 0}, r"learning_rate must be a finite number > 0; received 0$"),
        (
            "optimizer",
            {"name": "sgd", "learning_rate": -0.1},
            r"learning_rate must be a finite number > 0; received -0",
        ),
        ("optimizer", {"name": "sgd", "momentum": 1}, r"momentum must be a number in \[0, 1\); received 1"),
        ("optimizer", {"name": "adam", "beta_1": 1.0}, r"beta_1 must be a number in \[0, 1\); received 1.0"),
        ("optimizer", {"name": "adam", "beta_2": -0.1}, r"beta_2 must be a number in \[0, 1\); received -0.1"),
        ("optimizer", {"name": "adam", "epsilon": 0.0}, r"epsilon must be a finite number > 0; received 0.0"),
        (
            "optimizer",
            {"name": "adam", "clipnorm": 0.0},
            r"clipnorm must be a finite number > 0, or null; received 0.0",
        ),
        ("optimizer", {"name": "adam", "weight_decay": -1}, r"weight_decay must be a finite number >= 0, or null; rec"),
        ("optimizer", {"name": "adam", "use_ema": 1}, r"use_ema must be true or false; received 1"),
        ("optimizer", {"name": "adam", "momentum": 0.9}, r"^optimizer adam: argument .*; taken by sgd, momentum, nes"),
        (
            "optimizer",
            {"name": "adam", "gradient_accumulation_steps": 1},
            r"gradient_accumulation_steps must be an integer >= 2, or null; received 1",
        ),
        (
            "optimizer",
            {"name": "adam", "clipnorm": 1.0, "clipvalue": 1.0},
            r"^optimizer adam: at most one of clipnorm, clipvalue, global_clipnorm can be set; "
            r"received clipnorm and clipvalue$",
        ),
        (
            "optimizer",
            {"name": "sgd", "nesterov": True},
            r"^optimizer sgd: nesterov needs momentum > 0; received momentum 0.0$",
        ),
        ("optimizer", {"name": "nesterov", "momentum": 0}, r"momentum must be a number in \(0, 1\); received 0"),
        (
            "optimizer",
            {"name": "adam", "ema_overwrite_frequency": 5},
            r"ema_overwrite_frequency needs use_ema true; rec",
        ),
        (
            "loss",
            {"name": "bce", "label_smoothing": 1.0},
            r"label_smoothing must be a number in \[0, 1\); received 1.0",
        ),
        (
            "loss",
            {"name": "sparse_categorical_crossentropy", "label_smoothing": 0.1, "ignore_class": 0},
            r"label_smoothing and ignore_class exclude each other",
        ),
        ("loss", {"name": "binary_focal_crossentropy", "gamma": 0.5}, r"gamma must be a finite number >= 1; received"),
    ],
)
def test_refusals_are_one_line(kind, spec, message):
    with pytest.raises(ValueError, match=message) as error:
        catalog.check(kind, TABLES[kind], spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "spec"),
    [
        (OPTIMIZERS, {"name": "adam", "clipnorm": 1.0, "clipvalue": None}),
        (OPTIMIZERS, {"name": "sgd", "nesterov": True, "momentum": 0.9}),
        (OPTIMIZERS, {"name": "adam", "use_ema": True, "ema_overwrite_frequency": 5}),
        (OPTIMIZERS, {"name": "adam", "learning_rate": np.float32(0.1)}),
        (ACTIVATIONS, {"name": "rrelu", "lower": 0.2, "upper": 0.2}),
        (LOSSES, {"name": "sparse_categorical_crossentropy", "label_smoothing": 0.1, "ignore_class": None}),
    ],
)
def test_accepted(table, spec):
    catalog.check("component", table, spec)


# Labels and predictions that every metric of a kind can read.
ONE_HOT = ([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]] * 2)
SETTINGS = {
    "top_k_categorical_accuracy": {"k": 2},
    "sparse_top_k_categorical_accuracy": {"k": 2},
    "precision_at_recall": {"recall": 0.5},
    "recall_at_precision": {"precision": 0.5},
    "sensitivity_at_specificity": {"specificity": 0.5},
    "specificity_at_sensitivity": {"sensitivity": 0.5},
}


@pytest.mark.parametrize("name", [name for name in METRICS if name != "accuracy"])
def test_every_metric_resolves_and_runs(name):
    metric = catalog.keras_class(keras.metrics, name)(**SETTINGS.get(name, {}))
    y_true, y_pred = np.array(ONE_HOT[0]), np.array(ONE_HOT[1], "float32")[:4]
    metric.update_state(y_true.argmax(-1) if name.startswith("sparse") else y_true, y_pred)
    assert np.all(np.isfinite(metric.result()))


def test_keras_class_of_an_unknown_name():
    with pytest.raises(KeyError):
        catalog.keras_class(keras.losses, "nothing")


def test_catalog_needs_no_keras():
    code = "import sys, kerasnn.config.catalog; assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

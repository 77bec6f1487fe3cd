"""All components that a configuration can name, with their arguments and the rules for the arguments' values.

A component is described by a *spec*: a name (`"relu"`) or a mapping of a name and arguments
(`{"name": "leaky_relu", "negative_slope": 0.1}`). A spec is checked without importing Keras.
"""

import math
from collections.abc import Callable, Mapping
from inspect import isclass
from numbers import Integral, Real
from types import ModuleType
from typing import Any, NamedTuple

from kerasnn.config.schema import one_of, short


class Rule(NamedTuple):
    """The rule for the value of one argument."""

    text: str
    holds: Callable[[Any], bool]
    required: bool = False


Table = Mapping[str, Mapping[str, Rule]]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _number(text: str, holds: Callable[[Any], bool]) -> Rule:
    return Rule(text, lambda value: _is_number(value) and holds(value))


def _integer(minimum: int) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum

    return Rule(f"an integer >= {minimum}", holds)


def _choice(*choices: str) -> Rule:
    return Rule(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def _optional(rule: Rule) -> Rule:
    return Rule(f"{rule.text}, or null", lambda value: value is None or rule.holds(value))


def _required(rule: Rule) -> Rule:
    return rule._replace(required=True)


_NUMBER = _number("a finite number", lambda value: True)
_POSITIVE = _number("a finite number > 0", lambda value: value > 0)
_NEGATIVE = _number("a finite number < 0", lambda value: value < 0)
_NON_NEGATIVE = _number("a finite number >= 0", lambda value: value >= 0)
_NON_POSITIVE = _number("a finite number <= 0", lambda value: value <= 0)
_AT_LEAST_1 = _number("a finite number >= 1", lambda value: value >= 1)
_FRACTION = _number("a number in [0, 1)", lambda value: 0 <= value < 1)
_OPEN_FRACTION = _number("a number in (0, 1)", lambda value: 0 < value < 1)
_SHARE = _number("a number in [0, 1]", lambda value: 0 <= value <= 1)
_FLAG = Rule("true or false", lambda value: isinstance(value, bool))

ACTIVATIONS: Table = {
    "linear": {},
    "step": {},
    "sigmoid": {},
    "hard_sigmoid": {},
    "sparse_sigmoid": {},
    "log_sigmoid": {},
    "tanh": {},
    "hard_tanh": {},
    "tanh_shrink": {},
    "relu": {"negative_slope": _NON_NEGATIVE, "max_value": _optional(_NON_NEGATIVE), "threshold": _NUMBER},
    "relu6": {},
    "leaky_relu": {"negative_slope": _NON_NEGATIVE},
    "prelu": {"initial_slope": _NUMBER},
    "rrelu": {"lower": _NON_NEGATIVE, "upper": _NON_NEGATIVE},
    "srelu": {},
    "crelu": {},
    "elu": {"alpha": _NON_NEGATIVE},
    "selu": {},
    "celu": {"alpha": _POSITIVE},
    "gelu": {"approximate": _FLAG},
    "silu": {},
    "hard_silu": {},
    "mish": {},
    "softplus": {},
    "sparse_plus": {},
    "squareplus": {"b": _NON_NEGATIVE},
    "softsign": {},
    "exponential": {},
    "soft_shrink": {"threshold": _NON_NEGATIVE},
    "hard_shrink": {"threshold": _NON_NEGATIVE},
    "threshold": {"threshold": _required(_NUMBER), "default_value": _required(_NUMBER)},
    "softmax": {},
    "log_softmax": {},
    "sparsemax": {},
    "glu": {},
    "maxout": {"pieces": _integer(2)},
}
"""Activations. Those that combine features (softmax, glu, maxout, ...) do so along the last axis."""

INITIALIZERS: Table = {
    "zeros": {},
    "ones": {},
    "constant": {"value": _NUMBER},
    "random_uniform": {"minval": _NUMBER, "maxval": _NUMBER},
    "random_normal": {"mean": _NUMBER, "stddev": _POSITIVE},
    "truncated_normal": {"mean": _NUMBER, "stddev": _POSITIVE},
    "standard_uniform": {},
    "glorot_uniform": {},
    "glorot_normal": {},
    "he_uniform": {},
    "he_normal": {},
    "lecun_uniform": {},
    "lecun_normal": {},
    "variance_scaling": {
        "scale": _POSITIVE,
        "mode": _choice("fan_in", "fan_out", "fan_avg"),
        "distribution": _choice("truncated_normal", "untruncated_normal", "uniform"),
    },
    "orthogonal": {"gain": _NUMBER},
    "identity": {"gain": _NUMBER},
}
"""Initializers. The seed comes from the layer, not from the spec."""

_LOGITS = {"from_logits": _FLAG}
_SMOOTHING = {"label_smoothing": _FRACTION}

LOSSES: Table = {
    "categorical_crossentropy": _LOGITS | _SMOOTHING,
    "sparse_categorical_crossentropy": _LOGITS | _SMOOTHING | {"ignore_class": _optional(_integer(-1))},
    "binary_crossentropy": _LOGITS | _SMOOTHING,
    "categorical_focal_crossentropy": {"alpha": _POSITIVE, "gamma": _NON_NEGATIVE} | _LOGITS | _SMOOTHING,
    # Below 1 the gradient of Keras's focal factor is infinite where a prediction is certain.
    "binary_focal_crossentropy": {"apply_class_balancing": _FLAG, "alpha": _SHARE, "gamma": _AT_LEAST_1}
    | _LOGITS
    | _SMOOTHING,
    "kl_divergence": {},
    "poisson": {},
    "mean_squared_error": {},
    "mean_absolute_error": {},
    "mean_absolute_percentage_error": {},
    "mean_squared_logarithmic_error": {},
    "huber": {"delta": _POSITIVE},
    "log_cosh": {},
    "cosine_similarity": {},
    "hinge": {},
    "squared_hinge": {},
    "categorical_hinge": {},
}
"""Losses; each is a mean over the examples."""

_ANY_OPTIMIZER = {
    "learning_rate": _POSITIVE,
    "weight_decay": _optional(_NON_NEGATIVE),
    "clipnorm": _optional(_POSITIVE),
    "clipvalue": _optional(_POSITIVE),
    "global_clipnorm": _optional(_POSITIVE),
    "use_ema": _FLAG,
    "ema_momentum": _SHARE,
    "ema_overwrite_frequency": _optional(_integer(1)),
    "loss_scale_factor": _optional(_POSITIVE),
    "gradient_accumulation_steps": _optional(_integer(2)),
}
_EPSILON = {"epsilon": _POSITIVE}
_BETAS = {"beta_1": _FRACTION, "beta_2": _FRACTION}

OPTIMIZERS: Table = {
    "sgd": _ANY_OPTIMIZER | {"momentum": _FRACTION, "nesterov": _FLAG},
    "momentum": _ANY_OPTIMIZER | {"momentum": _OPEN_FRACTION},
    "nesterov": _ANY_OPTIMIZER | {"momentum": _OPEN_FRACTION},
    "adagrad": _ANY_OPTIMIZER | {"initial_accumulator_value": _NON_NEGATIVE} | _EPSILON,
    "adadelta": _ANY_OPTIMIZER | {"rho": _FRACTION} | _EPSILON,
    "rmsprop": _ANY_OPTIMIZER | {"rho": _FRACTION, "momentum": _FRACTION, "centered": _FLAG} | _EPSILON,
    "adam": _ANY_OPTIMIZER | _BETAS | {"amsgrad": _FLAG} | _EPSILON,
    "adamw": _ANY_OPTIMIZER | _BETAS | {"amsgrad": _FLAG, "weight_decay": _NON_NEGATIVE} | _EPSILON,
    "adamax": _ANY_OPTIMIZER | _BETAS | _EPSILON,
    "nadam": _ANY_OPTIMIZER | _BETAS | _EPSILON,
    "lamb": _ANY_OPTIMIZER | _BETAS | _EPSILON,
    "lion": _ANY_OPTIMIZER | _BETAS,
    "ftrl": _ANY_OPTIMIZER
    | {
        "learning_rate_power": _NON_POSITIVE,
        "initial_accumulator_value": _NON_NEGATIVE,
        "l1_regularization_strength": _NON_NEGATIVE,
        "l2_regularization_strength": _NON_NEGATIVE,
        "l2_shrinkage_regularization_strength": _NON_NEGATIVE,
        "beta": _NON_NEGATIVE,
    },
    "adafactor": _ANY_OPTIMIZER
    | {
        "beta_2_decay": _NEGATIVE,
        "epsilon_1": _POSITIVE,
        "epsilon_2": _POSITIVE,
        "clip_threshold": _POSITIVE,
        "relative_step": _FLAG,
    },
    "muon": _ANY_OPTIMIZER
    | {
        "momentum": _FRACTION,
        "nesterov": _FLAG,
        "ns_steps": _integer(1),
        "muon_a": _NUMBER,
        "muon_b": _NUMBER,
        "muon_c": _NUMBER,
        "rms_rate": _POSITIVE,
        "adam_beta_1": _FRACTION,
        "adam_beta_2": _FRACTION,
        "weight_decay": _NON_NEGATIVE,
        "adam_weight_decay": _NON_NEGATIVE,
        "adam_lr_ratio": _POSITIVE,
    }
    | _EPSILON,
}
"""Optimizers. `momentum` and `nesterov` are `sgd` with momentum 0.9; `nesterov` sets Nesterov's momentum."""

_THRESHOLDS = {"thresholds": _optional(_SHARE)}
_RETRIEVAL = _THRESHOLDS | {"top_k": _optional(_integer(1)), "class_id": _optional(_integer(0))}
_CURVE_POINT = {"num_thresholds": _integer(2), "class_id": _optional(_integer(0))}
_F_SCORE = {"average": _optional(_choice("micro", "macro", "weighted")), "threshold": _optional(_OPEN_FRACTION)}

METRICS: Table = {
    "accuracy": {},
    "binary_accuracy": {"threshold": _OPEN_FRACTION},
    "categorical_accuracy": {},
    "sparse_categorical_accuracy": {},
    "top_k_categorical_accuracy": {"k": _integer(1)},
    "sparse_top_k_categorical_accuracy": {"k": _integer(1)},
    "precision": _RETRIEVAL,
    "recall": _RETRIEVAL,
    "f1_score": _F_SCORE,
    "fbeta_score": _F_SCORE | {"beta": _POSITIVE},
    "auc": {
        "num_thresholds": _integer(2),
        "curve": _choice("ROC", "PR", "PRGAIN"),
        "summation_method": _choice("interpolation", "minoring", "majoring"),
        "multi_label": _FLAG,
        "num_labels": _optional(_integer(1)),
        "from_logits": _FLAG,
    },
    "true_positives": _THRESHOLDS,
    "true_negatives": _THRESHOLDS,
    "false_positives": _THRESHOLDS,
    "false_negatives": _THRESHOLDS,
    "precision_at_recall": {"recall": _required(_SHARE)} | _CURVE_POINT,
    "recall_at_precision": {"precision": _required(_SHARE)} | _CURVE_POINT,
    "sensitivity_at_specificity": {"specificity": _required(_SHARE)} | _CURVE_POINT,
    "specificity_at_sensitivity": {"sensitivity": _required(_SHARE)} | _CURVE_POINT,
    "categorical_crossentropy": _LOGITS | _SMOOTHING,
    "sparse_categorical_crossentropy": _LOGITS | {"ignore_class": _optional(_integer(-1))},
    "binary_crossentropy": _LOGITS | _SMOOTHING,
    "kl_divergence": {},
    "poisson": {},
    "mean_squared_error": {},
    "root_mean_squared_error": {},
    "mean_absolute_error": {},
    "mean_absolute_percentage_error": {},
    "mean_squared_logarithmic_error": {},
    "log_cosh_error": {},
    "r2_score": {"class_aggregation": _choice("uniform_average", "variance_weighted_average")},
    "cosine_similarity": {},
    "pearson_correlation": {},
    "concordance_correlation": {},
    "hinge": {},
    "squared_hinge": {},
    "categorical_hinge": {},
}
"""Metrics. `accuracy` is the accuracy of the task: binary or categorical, with integer or one-hot labels."""

ALIASES = {
    "identity": "linear",
    "swish": "silu",
    "hard_swish": "hard_silu",
    "uniform": "random_uniform",
    "normal": "random_normal",
    "xavier_uniform": "glorot_uniform",
    "xavier_normal": "glorot_normal",
    "kaiming_uniform": "he_uniform",
    "kaiming_normal": "he_normal",
    "smooth_l1": "huber",
    "bce": "binary_crossentropy",
    "kld": "kl_divergence",
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
    "rmse": "root_mean_squared_error",
}
"""Alternative spellings. A name in the table takes precedence (the initializer `identity` is not an alias)."""


def canonical(table: Table, name: str) -> str:
    """A name in the table's spelling (`"mse"` is `"mean_squared_error"`); an unknown name is returned unchanged."""
    return name if name in table else ALIASES.get(name, name)


def check(kind: str, table: Table, spec: object) -> tuple[str, dict[str, Any]]:
    """Check a spec against a table.

    Args:
        kind: kind of the component, for the error message (`"activation"`).
        table: component names, their arguments and the rules for these.
        spec: a name, or a mapping with the key `name` and arguments.

    Returns:
        The name in the table's spelling, and the given arguments.

    Raises:
        ValueError: one line, if the spec has neither form, the name or an argument is unknown, a required argument is
            missing, a value breaks its rule, or two arguments contradict each other.

    >>> check("loss", LOSSES, {"name": "smooth_l1", "delta": 0.5})
    ('huber', {'delta': 0.5})
    """
    match {"name": spec} if isinstance(spec, str) else spec:
        case {"name": str() as given, **rest}:
            name = canonical(table, given)
            arguments = {str(argument): value for argument, value in rest.items()}
        case _:
            raise ValueError(f"{kind} must be a name or a mapping with the key 'name'; received {short(spec)}")
    if name not in table:
        raise ValueError(one_of(kind, given, table))
    rules = table[name]
    for argument, value in arguments.items():
        if argument not in rules:
            raise ValueError(_unknown_argument(kind, table, name, argument))
        if not rules[argument].holds(value):
            raise ValueError(f"{kind} {name}: {argument} must be {rules[argument].text}; received {short(value)}")
    for argument, rule in rules.items():
        if rule.required and argument not in arguments:
            raise ValueError(f"{kind} {name}: {argument} is required, {rule.text}; received {short(spec)}")
    if fault := _contradiction(name, arguments):
        raise ValueError(f"{kind} {name}: {fault}")
    return name, arguments


def _unknown_argument(kind: str, table: Table, name: str, argument: str) -> str:
    if table[name]:
        line = one_of(f"{kind} {name}: argument", argument, table[name])
    else:
        line = f"{kind} {name} takes no arguments; received {argument!r}"
    takers = [other for other, rules in table.items() if argument in rules]
    return f"{line}; taken by {', '.join(takers)}" if takers else line


def _contradiction(name: str, arguments: Mapping[str, Any]) -> str | None:
    """The contradiction between arguments that each follow their rule, or None."""

    def both(low: str, high: str, defaults: tuple[float, float], relation: str) -> str | None:
        values = arguments.get(low, defaults[0]), arguments.get(high, defaults[1])
        wrong = values[0] >= values[1] if relation == "<" else values[0] > values[1]
        return f"{low} must be {relation} {high}; received {low} {values[0]}, {high} {values[1]}" if wrong else None

    clips = [key for key in ("clipnorm", "clipvalue", "global_clipnorm") if arguments.get(key) is not None]
    if len(clips) > 1:
        return f"at most one of clipnorm, clipvalue, global_clipnorm can be set; received {' and '.join(clips)}"
    if arguments.get("ema_overwrite_frequency") is not None and not arguments.get("use_ema", False):
        return f"ema_overwrite_frequency needs use_ema true; received {arguments['ema_overwrite_frequency']}"
    match name:
        case "sgd" if arguments.get("nesterov") and not arguments.get("momentum"):
            return f"nesterov needs momentum > 0; received momentum {arguments.get('momentum', 0.0)}"
        case "random_uniform":
            return both("minval", "maxval", (-0.05, 0.05), "<")
        case "rrelu":
            return both("lower", "upper", (1 / 8, 1 / 3), "<=")
        case "sparse_categorical_crossentropy" if (
            arguments.get("label_smoothing") and arguments.get("ignore_class") is not None
        ):
            return f"label_smoothing and ignore_class exclude each other; received {short(dict(arguments))}"
    return None


def keras_class(module: ModuleType, name: str) -> type:
    """The Keras class with a catalog name; class names have capitals instead of underscores (`KLDivergence`).

    Args:
        module: `keras.losses`, `keras.optimizers`, `keras.metrics`, ...
        name: a name in the catalog's spelling (`"kl_divergence"`).

    Raises:
        KeyError: if the module has no such class.
    """
    classes = {key.lower(): value for key, value in vars(module).items() if isclass(value)}
    return classes[name.replace("_", "")]

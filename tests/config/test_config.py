import json

import pytest

from kerasnn.config.description import parse_json, replace_at
from kerasnn.config.run import RunConfig
from kerasnn.config.schedules import Cosine, Step
from kerasnn.config.sections import ConvLayer, DataConfig, DenseLayer, NetworkConfig, TrainingConfig


def test_json_both_ways():
    config = RunConfig(
        task="multiclass",
        style="subclassed",
        network=NetworkConfig(hidden=(50, {"units": 20, "activation": "tanh", "dropout": 0.2, "l2": 1e-4})),
        schedule=Step(step_size=3, warmup=1),
        training={"early_stopping": {"patience": 3}, "class_weight": {0: 1.0, 1: 2.0}},
    )
    assert RunConfig.from_json(config.to_json()) == config
    assert RunConfig.model_validate(json.loads(config.to_json())) == config


def test_plain_layer_is_an_integer_in_json():
    network = NetworkConfig(hidden=(50, {"units": 20, "activation": "tanh"}))
    first, second = network.model_dump()["hidden"]
    assert first == 50
    assert second["units"] == 20
    assert second["activation"] == "tanh"


def test_layer_with_filters_is_a_convolution():
    network = NetworkConfig(hidden=({"filters": 4, "pool": 2}, 10))
    assert network.hidden == (ConvLayer(filters=4, pool=2), DenseLayer(units=10))


def test_aliases_are_kept_in_one_spelling():
    network = NetworkConfig(activation="identity", kernel_initializer="xavier_normal")
    assert (network.activation, network.kernel_initializer) == ("linear", "glorot_normal")
    assert RunConfig(task="regression", loss={"name": "mse"}).loss_name == "mean_squared_error"


@pytest.mark.parametrize(
    ("task", "one_hot", "loss", "activation", "metrics"),
    [
        ("binary", False, "binary_crossentropy", "sigmoid", ("accuracy",)),
        ("multiclass", False, "sparse_categorical_crossentropy", "softmax", ("accuracy",)),
        ("multiclass", True, "categorical_crossentropy", "softmax", ("accuracy",)),
        ("multilabel", False, "binary_crossentropy", "sigmoid", ("accuracy",)),
        ("regression", False, "mean_squared_error", "linear", ("mean_absolute_error",)),
    ],
)
def test_task_decides_loss_output_and_metrics(task, one_hot, loss, activation, metrics):
    config = RunConfig(task=task, data={"one_hot": one_hot})
    assert (config.loss_name, config.output_activation, config.metrics) == (loss, activation, metrics)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"loss": {"name": "mse"}}, "loss.name for task multiclass with integer labels .*or set data.one_hot"),
        ({"network": {"output_activation": "sigmoid"}}, "must be softmax for task multiclass .*received 'sigmoid'"),
        (
            {"data": {"one_hot": True}, "loss": {"name": "mse"}, "network": {"output_activation": "sigmoid"}},
            "must suit task multiclass, as softmax does; received 'sigmoid'",
        ),
        ({"task": "binary", "network": {"output_activation": "softmax"}}, "must be sigmoid for task binary"),
        ({"task": "regression", "network": {"output_activation": "softmax"}}, "must suit task regression"),
        ({"task": "regression", "loss": {"name": "hinge"}}, "loss.name for task regression .*received 'hinge'"),
        ({"task": "binary", "loss": {"name": "categorical_crossentropy"}}, "did you mean 'binary_crossentropy'"),
        ({"network": {"output_activation": "linear"}}, "or set loss.from_logits"),
        ({"loss": {"from_logits": True}, "network": {"output_activation": "softmax"}}, "needs a linear output"),
        ({"task": "regression", "loss": {"label_smoothing": 0.1}}, "mean_squared_error takes no arguments"),
        ({"loss": {"label_smoothing": 1.0}}, "loss.label_smoothing must be less than 1, received 1.0"),
        ({"loss": {"arguments": {"delta": 1.0}}}, "loss.arguments need a loss.name"),
        ({"loss": {"name": "hubber"}}, "did you mean 'huber'"),
        ({"task": "regression", "data": {"one_hot": True}}, "data.one_hot is for task multiclass"),
        ({"task": "regression", "training": {"class_weight": "balanced"}}, "class_weight is for task binary or"),
        ({"network": {"hidden": [{"filters": 3}]}}, "data.flatten must be false"),
        ({"network": {"hidden": [5, {"filters": 3}]}}, "must come before dense ones"),
        ({"network": {"hidden": [0]}}, "network.hidden.0 must be greater than 0, received 0"),
        ({"network": {"hidden": [True]}}, "network.hidden.0 must be"),
        ({"network": {"hidden": [{"units": 3, "activation": "reluu"}]}}, "network.hidden.0.activation .*'relu'"),
        ({"network": {"activation": {"name": "elu", "alfa": 1.0}}}, "network.activation elu: .*did you mean 'alpha'"),
        ({"network": {"kernel_initializer": "he"}}, "network.kernel_initializer: initializer must be one of"),
        ({"regularization": {"dropout": 1.0}}, "regularization.dropout must be less than 1"),
        ({"regularization": {"l2": -1e-3}}, "regularization.l2 must be greater than or equal to 0"),
        ({"optimizer": {"name": "adm"}}, "did you mean 'adam'"),
        ({"optimizer": {"learning_rate": -1}}, "learning_rate must be a finite number > 0; received -1"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate must be a finite number"),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, "received 'momentum'.*taken by sgd"),
        ({"optimizer": {"clipnorm": 1, "clipvalue": 1}}, "at most one of clipnorm, clipvalue, global_clipnorm"),
        ({"schedule": "cosin"}, "schedule.name must be one of .*did you mean 'cosine'"),
        ({"schedule": {"name": "constant", "warmup": 20}}, "warmup must be shorter than the run's 20 epochs"),
        (
            {"schedule": "one_cycle", "optimizer": {"name": "sgd"}},
            "schedule.cycle_momentum needs an optimizer with momentum, received 'sgd'",
        ),
        ({"training": {"epochs": 0}}, "training.epochs must be greater than 0, received 0"),
        ({"training": {"batch_size": 0}}, "training.batch_size must be greater than 0, received 0"),
        ({"training": {"class_weight": {"0": -1}}}, "training.class_weight.0 must be greater than or equal to 0"),
        ({"training": {"monitor": "val_acc"}}, "training.monitor must be one of .*did you mean 'val_accuracy'"),
        ({"training": {"early_stopping": {"monitor": "auc"}}}, "training.early_stopping.monitor must be one of"),
        ({"training": {"plateau": {"monitor": "x"}}}, "training.plateau.monitor must be one of"),
        ({"data": {"validation_share": 0}, "training": {"monitor": "val_loss"}}, "must be one of loss, accuracy;"),
        ({"data": {"validation_share": 1.0}}, "data.validation_share must be less than 1"),
        ({"data": {"name": "csv"}}, "path must name the file when name is 'table'"),
        ({"devices": {"deterministic": True, "jit_compile": True}}, "deterministic switches XLA off"),
        (
            {"devices": {"device": ["CPU:0", "CPU:1"], "strategy": "one_device"}},
            "several devices are for strategy auto",
        ),
        ({"devices": {"device": ["CPU:0", "CPU:0"]}}, "device must name each device once"),
        ({"devices": {"workers": 2, "strategy": "mirrored"}}, "workers are for strategy auto or multi_worker"),
        ({"devices": {"workers": 2, "device": "CPU:0"}}, "so device must be null, received 'CPU:0'"),
        ({"seed": -1}, "seed must be greater than or equal to 0"),
        ({"trainin": {}}, "did you mean 'training'"),
    ],
)
def test_contradiction_is_refused_in_one_line(fields, line):
    with pytest.raises(ValueError, match=line) as error:
        RunConfig(**fields)
    assert "\n" not in str(error.value)


def test_replace_at_dotted_keys():
    config = replace_at(
        RunConfig(),
        {
            "optimizer.learning_rate": 0.01,
            "network.hidden.0": 30,
            "network.hidden.1.activation": "tanh",
            "network.activation": "leaky_relu",
            "network.activation.negative_slope": 0.1,
            "training.early_stopping.patience": 3,
            "schedule": Cosine(end_factor=0.1),
        },
    )
    assert config.optimizer.learning_rate == 0.01
    assert config.network.hidden == (DenseLayer(units=30), DenseLayer(units=100, activation="tanh"))
    assert config.network.activation == {"name": "leaky_relu", "negative_slope": 0.1}
    assert config.training.early_stopping.patience == 3
    assert config.schedule == Cosine(end_factor=0.1)


def test_changed_schedule_name_starts_from_its_defaults():
    config = RunConfig(schedule=Step(step_size=3))
    changed = replace_at(config, {"schedule.end_factor": 0.1, "schedule.name": "cosine"})
    assert changed.schedule == Cosine(end_factor=0.1)
    assert replace_at(config, {"schedule.gamma": 0.3}).schedule == Step(step_size=3, gamma=0.3)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optimizr.learning_rate": 1}, "did you mean 'optimizer'"),
        ({"optimizer.learning_rat": 1}, "did you mean 'learning_rate'"),
        ({"network.hidden.7": 3}, "position from 0 to 1 at '7'"),
        ({"training.epochs": "many"}, "training.epochs must be a valid integer"),
        ({"data.flatten.x": 3}, "key must name a value, received 'data.flatten.x'"),
    ],
)
def test_replace_at_refuses_unknown_keys(changes, line):
    with pytest.raises(ValueError, match=line):
        replace_at(RunConfig(), changes)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"seed": 1, "seed": 2}', "each key once, received 'seed' twice"),
        ("[1]", r"must hold an object, received \[1\]"),
        ('{"seed": NaN}', "must be finite, received NaN"),
        ('{"seed": -Infinity}', "must be finite, received -Infinity"),
        ('{"seed": ', "must be valid: .* at line 1 column"),
        ("[" * 100_000, "nested this deeply"),
        ('{"a":' * 100_000, "nested this deeply"),
    ],
)
def test_json_is_read_strictly(text, line):
    with pytest.raises(ValueError, match=line):
        parse_json(text)


def test_load_names_the_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"sed": 1}')
    with pytest.raises(ValueError, match=r"config.json: key must be one of .*did you mean 'seed'"):
        RunConfig.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="config must be a JSON file or a run folder"):
        RunConfig.load(tmp_path / "nothing")


def test_every_field_is_described():
    def undescribed(schema, path):
        for key, field in schema.model_fields.items():
            here = f"{path}.{key}"
            if field.description is None and key != "name":
                yield here
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                yield from undescribed(inner, here)

    for schema in (RunConfig, DenseLayer, ConvLayer, Step, Cosine, TrainingConfig, DataConfig):
        assert list(undescribed(schema, schema.__name__)) == []

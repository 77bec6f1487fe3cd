"""Searches as data: spaces, conditions, and what is refused before anything trains."""

import json

import pytest

from kerasnn.config.monitor import better_direction
from kerasnn.config.run import RunConfig
from kerasnn.search.config import SearchConfig
from kerasnn.search.space import DEFAULT_SPACE, Choice, Range, active_values, ordered

RATE = {"optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"}}
NAME = {"optimizer.name": {"choices": ["sgd", "adam"]}}


def test_json_gives_the_same_search_back():
    config = SearchConfig(
        space={**DEFAULT_SPACE, **NAME}, oracle="hyperband", stopper="halving", objective="val_accuracy"
    )
    assert SearchConfig.model_validate(json.loads(config.to_json())) == config


@pytest.mark.parametrize(
    ("objective", "name", "direction"),
    [
        (None, "val_loss", "min"),
        ("val_accuracy", "val_accuracy", "max"),
        ({"name": "loss", "direction": "max"}, "loss", "max"),
    ],
)
def test_objective_and_its_direction(objective, name, direction):
    config = SearchConfig(objective=objective)
    assert (config.objective_name, config.direction) == (name, direction)
    training = config.run_with({}).training
    assert (training.monitor, better_direction(training.monitor, training.monitor_mode)) == (name, direction)


def test_without_an_objective_the_runs_monitor_and_its_mode_decide():
    config = SearchConfig(run={"training": {"monitor": "accuracy", "monitor_mode": "min"}})
    assert (config.objective_name, config.direction) == ("accuracy", "min")
    assert config.run_with({}).training.monitor_mode == "min"


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (Range(min=0.0, max=0.5, step=0.1), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        (Range(min=2, max=40, step=2, sampling="log"), (2, 4, 8, 16, 32)),
        (Range(min=1, max=8, step=3), (1, 4, 7)),
        (Range(min=0.0, max=0.5), ()),
        (Choice(choices=(None, [50], "x")), (None, [50], "x")),
    ],
)
def test_values_of_a_parameter(parameter, values):
    assert parameter.values == values
    assert list(map(type, parameter.values)) == list(map(type, values))


def test_a_key_is_active_where_all_its_ancestors_say_so():
    # Declared before what it depends on.
    config = SearchConfig(
        space={
            "optimizer.nesterov": {"choices": [True, False], "when": {"optimizer.momentum": [0.9]}},
            "optimizer.momentum": {"choices": [0.0, 0.9], "when": {"optimizer.name": ["sgd"]}},
            **NAME,
        }
    )
    assert list(ordered(config.space)) == ["optimizer.name", "optimizer.momentum", "optimizer.nesterov"]
    values = {"optimizer.name": "adam", "optimizer.momentum": 0.9, "optimizer.nesterov": True}
    assert active_values(config.space, values) == {"optimizer.name": "adam"}
    assert active_values(config.space, {**values, "optimizer.name": "sgd", "optimizer.momentum": 0.0}) == {
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.0,
    }
    assert active_values(config.space, {**values, "optimizer.name": "sgd"}) == {**values, "optimizer.name": "sgd"}


def test_a_key_within_another_changes_a_copy():
    choices = [[50], [50, 100]]
    config = SearchConfig(space={"network.hidden.0": Range(min=8, max=64), "network.hidden": {"choices": choices}})
    run = config.run_with({"network.hidden.0": 8, "network.hidden": config.space["network.hidden"].choices[1]})
    assert [layer.units for layer in run.network.hidden] == [8, 100]
    assert config.space["network.hidden"].choices == ([50], [50, 100])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"space": {}}, "space must name at least one key"),
        ({"space": {"optimizer.learning_rte": {"min": 0.1, "max": 0.2}}}, "did you mean 'learning_rate'"),
        ({"space": {"optimizer.learning_rate": {"min": 0.1, "max": 0.2, "smpling": "log"}}}, "did you mean 'sampling'"),
        ({"space": {"optimizer.learning_rate": {"min": 0.2, "max": 0.1}}}, "max must be above min"),
        ({"space": {"optimizer.learning_rate": {"min": 0.0, "max": 0.1, "sampling": "log"}}}, "min must be above 0"),
        (
            {"space": {"regularization.l2": {"min": 0.1, "max": 1.0, "step": 1.0, "sampling": "log"}}},
            "step must be above 1",
        ),
        ({"space": {"regularization.l2": {"min": 0.0, "max": 0.1, "step": 0.2}}}, "step must fit"),
        ({"space": {"network.hidden.0": {"min": 1, "max": 9, "step": 0.5}}}, "step must be an integer"),
        ({"space": {"regularization.l2": {"min": 0, "max": 1}}}, "give 0.0 and 1.0"),
        ({"space": {"regularization.dropout": {"min": 0.0, "max": 1.0}}}, "dropout must be less than 1"),
        ({"space": {"network.activation": {"choices": ["relu", "tahn"]}}}, "did you mean 'tanh'"),
        ({"space": {"network.activation": {"choices": ["relu", "relu"]}}}, "choices must differ"),
        ({"space": {"network.hidden": {"choices": [{1, 2}]}}}, "JSON can hold"),
        (
            {"space": {**NAME, "optimizer.momentum": {"min": 0.0, "max": 0.9}}},
            "optimizer.name 'adam', optimizer.momentum",
        ),
        ({"space": {"optimizer.momentum": {"choices": [0.9], "when": {"optimizer.nam": ["sgd"]}}}}, "'optimizer.nam'"),
        ({"space": {**RATE, "seed": {"choices": [1], "when": {"optimizer.learning_rate": [1e-4]}}}}, "is a range"),
        (
            {"space": {**NAME, "optimizer.momentum": {"choices": [0.9], "when": {"optimizer.name": ["sgdd"]}}}},
            "choices of",
        ),
        ({"space": {"seed": {"choices": [1], "when": {"seed": [1]}}}}, "circle"),
        ({"space": {"training.monitor": {"choices": ["loss"]}}}, "objective decides"),
        ({"space": {"report.graph": {"choices": [True]}}}, "same for all trials"),
        ({"space": {"training.epochs": {"min": 1, "max": 3}}, "oracle": "hyperband"}, "hyperband decides"),
        # Each alone is valid; only together they are not.
        (
            {
                "space": {
                    "loss.from_logits": {"choices": [False, True]},
                    "network.output_activation": {"choices": [None, "softmax"]},
                }
            },
            "loss.from_logits needs a linear output",
        ),
        ({"objective": "val_acc"}, "objective.name must be one of loss, accuracy, val_loss, val_accuracy; received"),
        ({"oracle": "hyperbnd"}, "did you mean 'hyperband'"),
        ({"stopper": "medain"}, "stopper.name must be one of"),
        ({"trials": 0}, "trials must be greater than 0"),
    ],
)
def test_refusals_are_one_line(settings, line):
    with pytest.raises(ValueError, match=line) as error:
        SearchConfig(**settings)
    assert "\n" not in str(error.value)


def test_default_space_is_that_of_the_default_run():
    run = SearchConfig().run_with({key: parameter.extremes[-1] for key, parameter in DEFAULT_SPACE.items()})
    assert run.network.activation == "gelu"
    assert run.data == RunConfig().data

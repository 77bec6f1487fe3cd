"""Population-based training: what is proposed, copied, resumed, shown and refused."""

import csv
import itertools
import math
import re

import keras
import numpy as np
import pytest

import kerasnn
from kerasnn.fused.population import Population
from kerasnn.models.from_config import compile_model
from kerasnn.report.write_report import report
from kerasnn.search import search
from kerasnn.search.config import SearchConfig
from kerasnn.search.generations import lineage
from kerasnn.search.journal import read_journal
from kerasnn.search.population_oracle import PopulationOracle
from kerasnn.search.population_trainer import PopulationTrainer

SPACE = {
    "optimizer.learning_rate": {"min": 1e-3, "max": 1e-1, "sampling": "log"},
    "regularization.dropout": {"min": 0.0, "max": 0.5},
}
RUN = {
    "network": {"hidden": [8]},
    "training": {"epochs": 5, "batch_size": 256},
    "report": {"progress": "silent", "tensorboard": False},
}


def config_of(**settings):
    oracle = {"name": "pbt", "members": 4, "interval": 2, **settings.pop("oracle", {})}
    return SearchConfig.model_validate({"run": RUN, "space": SPACE, "oracle": oracle, "trials": 12, **settings})


def told(oracle, scores):
    """The next interval, after these results of the one before it."""
    batch = oracle.ask(4)
    for proposal, score in zip(batch, scores, strict=True):
        oracle.tell(proposal.number, None if score is None else [score])
    return batch


# Proposals


def test_the_worst_go_on_from_the_best_with_changed_values():
    oracle = PopulationOracle(config_of())
    first = told(oracle, [0.3, 0.9, 0.1, 0.5])
    second = told(oracle, [0.1] * 4)
    assert [(each.number, each.epochs, each.continues) for each in first] == [(at, 2, None) for at in range(4)]
    assert [(each.number, each.epochs, each.continues) for each in second] == [
        (4, 4, 0),
        (5, 4, 2),
        (6, 4, 2),
        (7, 4, 3),
    ]
    for at in (0, 2, 3):
        assert second[at].values == first[at].values
    moved, parent = second[1].values, first[2].values
    assert moved.keys() == parent.keys()
    assert moved != parent
    assert [each.epochs for each in told(oracle, [0.1] * 4)] == [5] * 4
    assert oracle.ask(4) == []


def test_values_are_moved_by_a_fifth_or_to_a_neighbour_within_the_range():
    space = {
        "optimizer.learning_rate": {"min": 0.001, "max": 0.1, "sampling": "log"},
        "regularization.l2": {"min": 0.0, "max": 0.5, "step": 0.1},
        "loss.label_smoothing": {"choices": [0.1, 0.2, 0.3]},
    }
    oracle = PopulationOracle(config_of(space=space, oracle={"resample": 0.0}))
    steps, choices = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3]
    for seed in range(20):
        oracle = PopulationOracle(config_of(space=space, seed=seed, oracle={"resample": 0.0}))
        parent = told(oracle, [1, 2, 3, 4])[0].values
        moved = oracle.ask(4)[3].values
        rate = parent["optimizer.learning_rate"]
        allowed = [min(max(rate * factor, 0.001), 0.1) for factor in (0.8, 1.2)]
        assert moved["optimizer.learning_rate"] in allowed
        for key, values in (("regularization.l2", steps), ("loss.label_smoothing", choices)):
            at = values.index(parent[key])
            assert moved[key] in (values[max(at - 1, 0)], values[min(at + 1, len(values) - 1)])


def test_proposals_follow_from_the_seed_and_the_results():
    def found(seed, scores):
        oracle = PopulationOracle(config_of(seed=seed))
        return [[each.to_json() for each in told(oracle, scores)] for _ in range(3)]

    assert found(1, [1, 2, 3, 4]) == found(1, [1, 2, 3, 4])
    assert found(1, [1, 2, 3, 4])[0] == found(1, [4, 3, 2, 1])[0]
    assert found(1, [1, 2, 3, 4])[1] != found(1, [4, 3, 2, 1])[1]
    assert found(1, [1, 2, 3, 4])[0] != found(2, [1, 2, 3, 4])[0]


def test_failed_members_are_all_replaced():
    oracle = PopulationOracle(config_of())
    told(oracle, [None, 0.5, None, 0.7])
    assert [each.continues for each in told(oracle, [None] * 4)] == [1, 1, 1, 3]
    assert oracle.ask(4) == []


# Training


def build(values):
    keras.utils.set_random_seed(3)
    layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(values.get("drop", 0.2))]
    model = keras.Sequential([*layers, keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(values["rate"], beta_1=values.get("beta", 0.9)), "mse")
    return model


X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = X[:, :1] * 2
EXAMPLES = {
    "rate": [build({"rate": rate}) for rate in (0.01, 0.02)],
    "drop": [build({"rate": 0.01, "drop": drop}) for drop in (0.1, 0.3)],
}


def population(rates):
    arguments = {"x": X, "y": Y, "batch_size": 8, "validation_data": (X[:8], Y[:8])}
    return Population([build({"rate": rate}) for rate in rates], EXAMPLES, arguments, epochs=4, seed=5)


def test_members_train_as_alone():
    together = population([0.01, 0.03])
    logs = [together.train(epoch) for epoch in range(2)]
    for member, rate in enumerate((0.01, 0.03)):
        model = build({"rate": rate})
        arguments = {"batch_size": 8, "epochs": 2, "validation_data": (X[:8], Y[:8]), "verbose": 0}
        history = kerasnn.fit(model, X, Y, seed=5, **arguments).history
        for name, values in history.items():
            assert [log[member][name] for log in logs] == pytest.approx(values, abs=1e-5)
        for weight, alone in zip(together.weights(member), model.get_weights(), strict=True):
            np.testing.assert_allclose(weight, alone, atol=1e-5)


def test_a_copied_member_has_the_bits_of_the_best():
    members = population([0.01, 0.02, 0.03])
    members.train(0)
    before = members.state()
    members.gather([2, 1, 2])
    after = members.state()
    copied = [np.array_equal(old[2], new[0], equal_nan=True) for old, new in zip(before, after, strict=True)]
    changed = [not np.array_equal(old[0], old[2]) for old in before]
    own = [old.dtype == np.uint32 for old in before]
    # All variables, optimizer and metrics included, but for the state of the random numbers.
    assert all(same != is_own for same, is_own in zip(copied, own, strict=True) if is_own is False)
    assert sum(changed) > 8
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[1:], old[1:])
    members.set_numbers(0, build({"rate": 0.5, "drop": 0.4}))
    differing = [at for at, new in enumerate(members.state()) if not np.array_equal(new, after[at])]
    assert [after[at].shape for at in differing] == [(3,)]
    assert members.state()[differing[0]].tolist() == pytest.approx([0.5, 0.02, 0.03])


def test_a_restored_population_goes_on_to_the_same_bits():
    whole, broken = population([0.01, 0.02]), population([0.01, 0.02])
    whole.train(0)
    kept = whole.state()
    whole.train(1)
    broken.restore(kept)
    broken.train(1)
    for one, other in zip(whole.state(), broken.state(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="the state must be this population's"):
        population([0.01] * 3).restore(kept)


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("units", lambda units: {"units": units}, "units changes the program"),
        ("start", lambda start: {"start": start}, "start does not"),
    ],
)
def test_values_that_no_program_holds_are_refused(name, values, line):
    def other(value):
        keras.utils.set_random_seed(0)
        initial = keras.initializers.Constant(value if name == "start" else 0.1)
        units = value if name == "units" else 3
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, kernel_initializer=initial)])
        model.add(keras.layers.Dense(1))
        model.compile("sgd", "mse")
        return model

    with pytest.raises(ValueError, match=line):
        Population([other(2), other(2)], {name: [other(2), other(4)]}, {"x": X, "y": Y}, 1, seed=0)


# The search


def proposals_of(folder):
    return [entry for entry in read_journal(folder / "journal.jsonl") if "proposal" in entry]


def results_of(result):
    return [(trial.number, trial.values, trial.score, trial.curve, trial.continues) for trial in result.trials]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return search(config_of(), tmp_path_factory.mktemp("pbt") / "whole")


def test_a_killed_population_goes_on_to_the_same_bits(found, monkeypatch, tmp_path):
    write = PopulationTrainer._write

    def killed(self, batch):
        write(self, batch)
        raise KeyboardInterrupt

    folder = tmp_path / "killed"
    for _ in range(2):
        # Killed after the state is written and before the results are.
        monkeypatch.setattr(PopulationTrainer, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            search(config_of(), folder)
        monkeypatch.setattr(PopulationTrainer, "_write", write)
        calls = []

        def later(self, batch, calls=calls):
            if calls:
                raise KeyboardInterrupt
            calls.append(batch)
            return write(self, batch)

        # Killed in the interval after the next.
        monkeypatch.setattr(PopulationTrainer, "_write", later)
        with pytest.raises(KeyboardInterrupt):
            search(config_of(), folder)
    monkeypatch.setattr(PopulationTrainer, "_write", write)
    again = search(config_of(), folder)
    assert results_of(again) == results_of(found)
    assert proposals_of(folder) == proposals_of(found.search_dir)
    models = [
        kerasnn.load_model(each.search_dir / "models" / f"{found.best.number:04d}.keras") for each in (again, found)
    ]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    assert list((folder / "population").iterdir()) == []


def test_the_winner_is_saved_and_its_line_is_whole(found):
    by_number = {trial.number: trial for trial in found.trials}
    line = lineage(found.best, by_number)
    assert [trial.epochs for trial in line] == [2, 4, 5][: len(line)]
    for before, after in itertools.pairwise(line):
        assert after.curve[: len(before.curve)] == before.curve
    assert found.best.score == found.best.curve[-1]
    assert found.best.score == min(trial.score for trial in found.trials)
    model = kerasnn.load_model(found.search_dir / "models" / f"{found.best.number:04d}.keras")
    data = kerasnn.load_data(found.config.run.data.model_copy(update={"scaling": "none", "flatten": False}))
    compile_model(model, found.config.run_with(found.best.values))
    x = data.x_validation.reshape(-1, *data.raw_shape)
    loss = model.evaluate(x, data.y_validation, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(found.best.score, abs=1e-4)
    with pytest.raises(ValueError, match="has no run that gives its score again; models/ has it"):
        found.best_config  # noqa: B018
    assert not (found.search_dir / "best_config.json").exists()


def test_intervals_are_a_table_and_schedules_are_drawn(found):
    rows = list(csv.DictReader((found.search_dir / "generations.csv").read_text().splitlines()))
    assert [(row["interval"], row["epochs"], row["replaced"]) for row in rows] == [
        ("1", "2", "0"),
        ("2", "4", "1"),
        ("3", "5", "1"),
    ]
    assert float(rows[-1]["best val_loss"]) == min(t.score for t in found.trials if t.number >= 8)
    page = report(found.search_dir).read_text()
    assert "Schedules" in page
    assert "Intervals" in page


def test_a_function_that_builds_models_is_searched_by_a_population(tmp_path):
    def build_of(hp):
        return build({"rate": hp.Float("rate", 1e-3, 1e-1, sampling="log"), "beta": hp.Float("beta", 0.5, 0.95)})

    options = {"validation_data": (X[:8], Y[:8]), "epochs": 4, "batch_size": 8, "trials": 8, "progress": "silent"}
    oracle = {"name": "pbt", "members": 4, "interval": 2}
    found = search(build_of, X, Y, oracle=oracle, search_dir=tmp_path / "search", **options)
    (model,) = found.best_models()
    assert model.evaluate(X[:8], Y[:8], verbose=0) == pytest.approx(found.best.score, abs=1e-5)
    assert {trial.epochs for trial in found.trials} == {2, 4}
    with pytest.raises(ValueError, match="callbacks must be none for pbt"):
        search(
            build_of, X, Y, oracle=oracle, search_dir=tmp_path / "b", callbacks=[keras.callbacks.History()], **options
        )
    with pytest.raises(ValueError, match="workers must be 1 for pbt, received 2"):
        search(build_of, X, Y, oracle=oracle, search_dir=tmp_path / "b", workers=2, **options)
    assert not (tmp_path / "b").exists()


def test_members_that_diverge_fail_and_are_replaced(tmp_path):
    run = {**RUN, "optimizer": {"name": "sgd"}}
    space = {"optimizer.learning_rate": {"choices": [0.01, 1e30]}}
    found = search(config_of(run=run, space=space, oracle={"resample": 0.0}, seed=1), tmp_path / "search")
    first = [trial for trial in found.trials if trial.number < 4]
    assert {trial.status for trial in first} == {"completed", "failed"}
    for trial in found.trials:
        if trial.status == "failed":
            assert trial.error.startswith("loss and weights must stay finite")
            continue
        assert math.isfinite(trial.score)
    failed = [trial.number for trial in first if trial.status == "failed"]
    parents = {trial.number: trial.continues for trial in found.trials if 4 <= trial.number < 8}
    assert all(parents[number + 4] not in failed for number in failed)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"trials": 11}, "trials must be at least 12 for pbt (4 members in 3 intervals), received 11"),
        (
            {"stopper": "median"},
            "stopper must be null for pbt, received 'median'",
        ),
        ({"seeds_per_trial": 2}, "seeds_per_trial must be 1 for pbt, received 2"),
        ({"workers": 2}, "workers must be 1 for pbt, received 2"),
        ({"trials_at_once": 4}, "trials_at_once must be null for pbt, received 4"),
        ({"run": {**RUN, "schedule": "cosine"}}, "run.schedule must be constant for pbt, received 'cosine'"),
        ({"space": {"training.batch_size": {"choices": [8, 16]}}}, "space must not contain training.batch_size"),
        ({"objective": ("val_loss", "val_accuracy")}, "oracle must be one of random, grid, tpe, gp, nsga2 for several"),
        (
            {
                "space": {
                    "optimizer.name": {"choices": ["sgd", "adam"]},
                    "optimizer.momentum": {"min": 0.1, "max": 0.9, "when": {"optimizer.name": ["sgd"]}},
                }
            },
            "space must have no conditions for pbt, received one for optimizer.momentum",
        ),
    ],
)
def test_what_a_population_cannot_have_is_refused(settings, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}"):
        config_of(**settings)


def test_a_key_that_changes_the_program_is_refused(tmp_path):
    space = {**SPACE, "network.activation": {"choices": ["relu", "tanh"]}}
    with pytest.raises(ValueError, match=r"network\.activation changes the program"):
        search(config_of(space=space), tmp_path / "search")
    assert not (tmp_path / "search").exists()

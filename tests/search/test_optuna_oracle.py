"""Optuna's samplers behind the search's ask-and-tell."""

import hashlib
import importlib.util
import re
from importlib import metadata

import pytest

from kerasnn.search import proposers
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import read_journal
from kerasnn.search.optuna_oracle import OptunaOracle
from kerasnn.search.proposers import check_installed, proposer_of
from kerasnn.search.run_search import search
from kerasnn.search.space import canonical_json

SPACE = {
    "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"},
    "regularization.dropout": {"min": 0.0, "max": 0.5},
    "optimizer.name": {"choices": ["sgd", "adam"]},
    "optimizer.momentum": {"min": 0.1, "max": 0.9, "step": 0.2, "when": {"optimizer.name": ["sgd"]}},
    "optimizer.nesterov": {"choices": [True, False], "when": {"optimizer.name": ["sgd"]}},
    "training.batch_size": {"min": 8, "max": 64},
    "network.hidden": {"choices": [[8], [4, 4]]},
}
ORACLES = [
    {"name": "tpe", "startup_trials": 5},
    {"name": "cmaes", "population_size": 4},
    {"name": "nsga2", "population_size": 4},
    pytest.param(
        {"name": "gp", "startup_trials": 5},
        marks=pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch"),
    ),
]


def config_of(oracle, **settings):
    return SearchConfig.model_validate(
        {"space": SPACE, "oracle": oracle, "trials": 24, "trials_at_once": 4, **settings}
    )


def score(values):
    """Low for a dropout near 0.2, adam, and a batch size near 32."""
    distance = (values["regularization.dropout"] - 0.2) ** 2 + abs(values["training.batch_size"] - 32) / 100
    return distance + (values["optimizer.name"] == "sgd")


def proposed(config, trials=24, order=1):
    """The values that are proposed when every fifth trial fails; results are told in the order given."""
    oracle, found = proposer_of(config), []
    while len(found) < trials:
        batch = oracle.ask(4)
        found += [proposal.values for proposal in batch]
        for proposal in batch[::order]:
            oracle.tell(proposal.number, None if proposal.number % 5 == 3 else [score(proposal.values)])
    return found


def digest(values):
    return hashlib.sha256("".join(map(canonical_json, values)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle["name"])
def test_proposals_are_valid_and_follow_from_the_seed(oracle):
    config = config_of(oracle)
    found = proposed(config)
    assert found == proposed(config)
    assert found != proposed(config_of(oracle, seed=1))
    for values in found:
        assert (
            ("optimizer.momentum" in values) == ("optimizer.nesterov" in values) == (values["optimizer.name"] == "sgd")
        )
        assert 1e-4 <= values["optimizer.learning_rate"] <= 1e-1
        assert type(values["training.batch_size"]) is int
        assert values.get("optimizer.momentum", 0.1) in (0.1, 0.3, 0.5, 0.7, 0.9)
        assert values.get("optimizer.nesterov", True) in (True, False)
        config.run_with(values)
    assert len({canonical_json(values) for values in found}) == len(found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # NumPy rounds tpe's densities by the processor.
        ("tpe", ("fc94228a67a01a93", "25f4d8ed24072c4a")),
        ("cmaes", ("43f73ff4d731e99e",)),
        ("nsga2", ("0b3b60f6461d445c",)),
    ],
)
def test_proposals_are_those_of_the_recorded_version(name, expected):
    """And of the recorded process, with other hashes of its strings."""
    if metadata.version("optuna") != "5.0.0":
        pytest.skip("recorded with Optuna 5.0.0")
    assert digest(proposed(config_of(name), trials=16)) in expected


def test_samplers_learn_from_results():
    """The last of 48 proposals are nearer to the best values than random ones."""
    for oracle in ORACLES[:3]:
        found = list(map(score, proposed(config_of({**oracle}), 48)))
        assert sum(found[-16:]) < 0.7 * sum(found[:16])


def test_values_proposed_before_give_way_to_others_until_the_space_is_exhausted():
    space = {"network.hidden": {"choices": [[4], [8]]}, "optimizer.name": {"choices": ["sgd", "adam"]}}
    oracle = OptunaOracle(config_of("tpe", space=space))
    found = []
    for _ in range(4):
        batch = oracle.ask(3)
        found += [canonical_json(proposal.values) for proposal in batch]
        for proposal in batch:
            oracle.tell(proposal.number, [1.0])
    assert len(found) == len(set(found)) == 4


def test_a_search_goes_on_with_the_same_proposals(monkeypatch, tmp_path):
    from tests.search.test_search_replay import Trainer, shown

    def run(folder, kill_after=None):
        trainer = Trainer(kill_after=kill_after, fails=(2,))
        monkeypatch.setattr("kerasnn.search.run_search.Trainer", trainer)
        settings = {"training": {"epochs": 3}, "report": {"progress": "silent", "tensorboard": False}}
        return search(config_of(ORACLES[0], trials=14, run=settings), folder)

    whole = run(tmp_path / "whole")
    for kill_after in (0, 5, 4):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", kill_after)
    assert shown(run(tmp_path / "killed")) == shown(whole)
    header = read_journal(tmp_path / "killed" / "journal.jsonl")[0]
    assert header["optuna"] == metadata.version("optuna")


@pytest.mark.parametrize(
    ("oracle", "absent", "line"),
    [
        ("tpe", {"optuna"}, "oracle tpe needs Optuna: pip install 'kerasnn[optuna]'"),
        ("cmaes", {"optuna", "cmaes"}, "oracle cmaes needs Optuna and cmaes: pip install 'kerasnn[optuna]'"),
        ("gp", {"torch"}, "oracle gp needs PyTorch: pip install 'kerasnn[gp]'"),
    ],
)
def test_a_missing_library_is_a_line_before_anything_is_written(monkeypatch, tmp_path, oracle, absent, line):
    present = importlib.util.find_spec
    monkeypatch.setattr(proposers, "find_spec", lambda name: None if name in absent else present("json"))
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        search(config_of(oracle), tmp_path / "search")
    assert not (tmp_path / "search").exists()
    check_installed(config_of("random"))


def test_cmaes_needs_numbers():
    with pytest.raises(ValueError, match=r"space must have two ranges without conditions for cmaes, received 1$"):
        config_of("cmaes", space={"regularization.dropout": {"min": 0.0, "max": 0.5}})

"""Searches with several objectives: the front, its marks, and refusals."""

import csv
import io
import re

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kerasnn.report.write_report import report
from kerasnn.search.config import SearchConfig
from kerasnn.search.pareto import fronts
from kerasnn.search.progress import SearchProgress
from kerasnn.search.result import read_search
from kerasnn.search.run_search import search
from kerasnn.search.trial import Outcome, Trial, best_of, ranked

POINTS = [(1, 4), (2, 2), (4, 1), (3, 3), (4, 4), (2, 2), (1, 5)]
BOTH = ("val_loss", "val_accuracy")
ABLE = "random, grid, tpe, gp, nsga2"


def config_of(**settings):
    quiet = {"training": {"epochs": 3}, "report": {"progress": "silent"}}
    space = {"regularization.dropout": {"min": 0.0, "max": 0.5}, "regularization.l2": {"min": 0.0, "max": 0.1}}
    return SearchConfig.model_validate({"run": quiet, "space": space, "objective": BOTH, "trials": 12, **settings})


class Trainer:
    """Trials whose loss falls and whose accuracy falls with the dropout: all are on the front, but for the failed."""

    def __init__(self, config, data_of):
        self.config = config

    def train(self, batch, proposals, on_epoch):
        for proposal in proposals:
            dropout = proposal.values["regularization.dropout"]
            if proposal.number == 3:
                yield [Outcome(3, "failed", ({"val_loss": [1.0]},), 0.1, error="loss is NaN")]
                continue
            # Epoch 2 has the best loss, epoch 3 the best accuracy. Trial 5 is beaten by others.
            worse = proposal.number == 5
            losses = [3.0, 1 - dropout + worse, 2.5]
            history = {"val_loss": losses, "val_accuracy": [0.1, 0.5 - dropout - worse, 0.99], "loss": losses}
            yield [Outcome(proposal.number, "completed", (history,), 0.1)]


def test_fronts_of_known_points():
    assert fronts(POINTS) == [0, 0, 0, 1, 2, 0, 1]
    assert fronts([]) == []


def test_trials_are_ranked_by_front_then_by_the_first_objective():
    config = config_of()
    trials = [
        Trial(number, {}, "completed", score=loss, metrics={"val_loss": loss, "val_accuracy": 1 - other / 10})
        for number, (loss, other) in enumerate(POINTS)
    ]
    trials.append(Trial(7, {}, "failed"))
    assert [trial.number for trial in ranked(trials, config)] == [0, 1, 5, 2, 6, 3, 4, 7]
    assert [trial.number for trial in best_of(trials, config)] == [0, 1, 5, 2]
    assert [trial.number for trial in best_of(trials, config_of(objective="val_loss"))] == [0]
    assert best_of([Trial(7, {}, "failed")], config) == []


@pytest.fixture
def found(monkeypatch, tmp_path):
    monkeypatch.setattr("kerasnn.search.run_search.Trainer", Trainer)
    return search(config_of(), tmp_path / "search")


def test_the_front_is_the_best_and_a_single_best_is_refused(found):
    best = [trial.number for trial in found.best_trials]
    assert sorted(best) == [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]
    # Both values are those of the epoch with the best first objective.
    trial = found.best_trials[0]
    dropout = trial.values["regularization.dropout"]
    assert (trial.epoch, trial.objectives(found.config)) == (2, [1 - dropout, 0.5 - dropout])
    line = "^the best trial needs one objective, received val_loss, val_accuracy; best_trials is their Pareto front$"
    for name in ("best", "best_config"):
        with pytest.raises(ValueError, match=line):
            getattr(found, name)
    assert not (found.search_dir / "best_config.json").exists()
    assert [trial.number for trial in read_search(found.search_dir).best_trials] == best


def test_table_csv_hparams_and_report_show_the_front(found):
    lines = found.table(12).splitlines()
    assert lines[0].split()[:4] == ["rank", "trial", "val_loss", "val_accuracy"]
    assert [line.split()[0].endswith("*") for line in lines[1:]] == [True] * 10 + [False] * 2
    rows = list(csv.DictReader((found.search_dir / "trials.csv").read_text().splitlines()))
    assert {int(row["trial"]): row["on_front"] for row in rows if row["on_front"] == "0"} == {3: "0", 5: "0"}
    marks = {}
    for number in range(12):
        events = EventAccumulator(str(found.search_dir / "trials" / f"{number:04d}"))
        events.Reload()
        marks[number] = events.Scalars("on_front")[0].value
        if number != 3:
            assert events.Scalars("score/val_accuracy")[0].value == pytest.approx(
                next(trial.metrics["val_accuracy"] for trial in found.trials if trial.number == number)
            )
    assert [number for number, mark in marks.items() if not mark] == [3, 5]
    page = report(found.search_dir).read_text()
    assert "Pareto front" in page
    assert "The best trial" not in page


def test_progress_counts_the_front():
    stream = io.StringIO()
    config = config_of(run={"report": {"progress": "lines"}}, trials=2)
    trial = Trial(0, {}, "completed", score=0.5, metrics={"val_loss": 0.5, "val_accuracy": 0.9})
    SearchProgress(config, stream).results([trial, Trial(1, {}, "failed")])
    assert stream.getvalue() == "2/2 trials, 0 s, 1 on the Pareto front\n"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"oracle": "bayesian"}, f"oracle must be one of {ABLE} for several objectives, received bayesian"),
        ({"oracle": "hyperband"}, f"oracle must be one of {ABLE} for several objectives, received hyperband"),
        ({"oracle": "cmaes"}, f"oracle must be one of {ABLE} for several objectives, received cmaes"),
        ({"stopper": "median"}, "stopper must be null with several objectives, received median"),
        ({"objective": ("val_loss", "val_loss")}, "objective must name different values, received val_loss, val_loss"),
        ({"objective": ()}, "objective must name at least one logged value, received []"),
    ],
)
def test_what_several_objectives_cannot_have_is_refused(settings, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        config_of(**settings)


def test_an_objective_that_is_not_logged_is_refused():
    with pytest.raises(ValueError, match="val_recall"):
        config_of(objective=("val_loss", {"name": "val_recall", "direction": "max"}))

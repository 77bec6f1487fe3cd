"""A search without its training: what is proposed, kept, replayed and shown. Trials are answered by a formula."""

import csv
import io
import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from kerasnn.config.run import RunConfig
from kerasnn.search import progress as progress_module
from kerasnn.search import run_search
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import Journal, read_journal
from kerasnn.search.oracle import Oracle
from kerasnn.search.progress import SearchProgress
from kerasnn.search.run_search import search
from kerasnn.search.trial import Outcome, Trial

SPACE = {
    "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"},
    "regularization.dropout": {"min": 0.0, "max": 0.5},
    "optimizer.name": {"choices": ["sgd", "adam"]},
    "optimizer.momentum": {"min": 0.0, "max": 0.9, "step": 0.3, "when": {"optimizer.name": ["sgd"]}},
    "network.hidden": {"choices": [[8], [4, 4]]},
}
GRID = {key: SPACE[key] for key in ("optimizer.name", "optimizer.momentum", "network.hidden")}
ORACLES = ["random", "grid", {"name": "bayesian", "initial_points": 4}, "hyperband"]
QUIET = {"training": {"epochs": 9}, "report": {"progress": "silent", "tensorboard": False}}


def config_of(oracle="random", **settings):
    settings = {"trials": 14, "trials_at_once": 5, "run": QUIET, "space": SPACE, **settings}
    return SearchConfig.model_validate({"oracle": oracle, **settings})


def curve(config, epochs):
    """Falls with the epochs, and ends the lower the nearer the dropout is to 0.2."""
    floor = (config.regularization.dropout - 0.2) ** 2 + (config.optimizer.name == "sgd") + 0.001 * config.seed
    return [floor + 1 / (epoch + 1) for epoch in range(epochs)]


class Trainer:
    """Answers trials in pairs; raises in the pair after `kill_after`; fails the trials that `fails` names."""

    def __init__(self, kill_after=None, fails=()):
        self.kill_after, self.fails, self.trained = kill_after, fails, []

    def __call__(self, config, data):
        self.config = config
        return self

    def train(self, batch, proposals, on_epoch):
        for at in range(0, len(proposals), 2):
            if self.kill_after is not None and len(self.trained) >= self.kill_after:
                raise KeyboardInterrupt
            yield [self.outcome(proposal) for proposal in proposals[at : at + 2]]

    def outcome(self, proposal):
        self.trained.append(proposal.number)
        if proposal.number in self.fails:
            return Outcome(proposal.number, "failed", ({"val_loss": [1.0]},), 0.1, error="loss is NaN")
        curves = [curve(run, proposal.epochs) for run in self.config.runs_with(proposal.values)]
        histories = tuple({"val_loss": values, "accuracy": [-value for value in values]} for values in curves)
        return Outcome(proposal.number, "completed", histories, 0.1)


def test_searches_of_different_seeds_share_no_trials():
    found = [proposal.values for seed in range(8) for proposal in Oracle(config_of(seed=seed)).ask(8)]
    assert len({values["optimizer.learning_rate"] for values in found}) == 64


@pytest.fixture
def trainer(monkeypatch):
    def use(**options):
        trainer = Trainer(**options)
        monkeypatch.setattr(run_search, "Trainer", trainer)
        return trainer

    return use


def shown(result):
    return [(trial.number, trial.values, trial.status, trial.score, trial.epoch) for trial in result.trials]


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_a_killed_search_goes_on_as_if_it_had_not_been(trainer, tmp_path, oracle):
    # The Gaussian process takes its time.
    config = config_of(
        oracle, trials=14 if isinstance(oracle, str) else 8, **({"space": GRID} if oracle == "grid" else {})
    )
    trainer()
    whole = search(config, tmp_path / "whole")
    trained = set()
    for kill_after in (0, 1, 3):
        killed = trainer(kill_after=kill_after)
        with pytest.raises(KeyboardInterrupt):
            search(config, tmp_path / "killed")
        # What was answered is not trained again.
        assert not trained & set(killed.trained)
        trained |= set(killed.trained)
    last = trainer()
    assert shown(search(config, tmp_path / "killed")) == shown(whole)
    assert sorted(trained | set(last.trained)) == sorted(trial.number for trial in whole.trials)
    proposals = [
        [
            json.loads(line)
            for line in (tmp_path / name / "journal.jsonl").read_text().splitlines()
            if "proposal" in line
        ]
        for name in ("whole", "killed")
    ]
    assert proposals[0] == proposals[1]
    for name in ("best_config.json", "config.json"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()


@pytest.mark.parametrize(("oracle", "count"), [("random", 40), ("grid", 3)])
def test_whole_steps_are_proposed_to_the_last(oracle, count):
    config = config_of(oracle, space={"training.batch_size": {"min": 8, "max": 24, "step": 8}})
    found = [proposal.values["training.batch_size"] for proposal in Oracle(config).ask(count)]
    assert set(found) == {8, 16, 24}
    assert {type(value) for value in found} == {int}


def test_results_that_are_half_on_disk_count_as_none(trainer, tmp_path):
    trainer()
    whole = search(config_of(), tmp_path)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    cut = next(at for at, line in enumerate(lines) if '"result": 1,' in line)
    # Trial 0 trained together with trial 1, of whose line only a part remains.
    journal.write_text("".join(lines[:cut]) + lines[cut][:20])
    again = trainer()
    assert shown(search(config_of(), tmp_path)) == shown(whole)
    assert again.trained == list(range(14))


def test_a_finished_search_trains_nothing_and_more_trials_go_on(trainer, tmp_path):
    trainer()
    first = search(config_of(), tmp_path)
    again = trainer()
    assert shown(search(config_of(), tmp_path)) == shown(first)
    assert again.trained == []
    more = search(config_of(trials=17), tmp_path)
    assert again.trained == [14, 15, 16]
    assert [trial for trial in shown(more) if trial[0] < 14] == shown(first)
    trainer()
    assert shown(search(config_of(trials=17), tmp_path / "new")) == shown(more)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"trials_at_once": 6}, "trials_at_once"),
        ({"space": {**SPACE, "optimizer.name": {"choices": ["sgd", "rmsprop"]}}}, "space.optimizer.name.choices"),
        ({"run": {**QUIET, "training": {"epochs": 8}}}, "run.training.epochs"),
        ({"oracle": "hyperband", "stopper": "median"}, "oracle.name, oracle.factor, stopper"),
        ({"run": {**QUIET, "data": {"seed": 1}}}, "run.data.seed, data \\(its examples\\)"),
    ],
)
def test_other_settings_are_refused_by_name(trainer, tmp_path, settings, named):
    trainer(kill_after=3)
    with pytest.raises(KeyboardInterrupt):
        search(config_of(), tmp_path)
    with pytest.raises(ValueError, match=f"began with another {named};") as error:
        search(config_of(**settings), tmp_path)
    assert "\n" not in str(error.value)


def test_a_changed_proposal_is_refused(trainer, tmp_path):
    trainer()
    search(config_of(), tmp_path)
    journal = tmp_path / "journal.jsonl"
    entries = read_journal(journal)
    changed = next(entry for entry in entries if entry.get("values", {}).get("optimizer.name") == "sgd")
    changed["values"]["optimizer.name"] = "adam"
    journal.unlink()
    with Journal(journal) as written:
        written.append(entries)
    with pytest.raises(ValueError, match=r"has another values\.optimizer\.name; the search began with keras-tuner"):
        search(config_of(), tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="search_dir must be new, empty or a search's folder"):
        search(config_of(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_trial_is_recorded_and_the_search_goes_on(trainer, tmp_path):
    trainer(fails=(0, 1, 2, 3, 4, 7))
    result = search(config_of(), tmp_path)
    assert [trial.number for trial in result.trials[-6:]] == [0, 1, 2, 3, 4, 7]
    assert {(trial.status, trial.score, trial.error) for trial in result.trials[-6:]} == {
        ("failed", None, "loss is NaN")
    }
    assert result.best.score == min(trial.score for trial in result.trials[:8])
    assert len(result.trials) == 14
    trainer()
    assert shown(search(config_of(), tmp_path)) == shown(result)


def test_a_search_of_failures_says_so(trainer, tmp_path):
    trainer(fails=range(14))
    with pytest.raises(ValueError, match="all 14 failed, the first with: loss is NaN"):
        search(config_of(), tmp_path)


def test_seeds_give_mean_and_deviation(trainer, tmp_path):
    trainer()
    best = search(config_of(seeds_per_trial=3), tmp_path).best
    floor = (best.values["regularization.dropout"] - 0.2) ** 2 + (best.values["optimizer.name"] == "sgd") + 1 / 9
    assert best.score == pytest.approx(floor + 0.001)
    assert best.std == pytest.approx(0.001)
    assert (best.epoch, best.epochs) == (9, 9)
    assert best.metrics["accuracy"] == pytest.approx(-best.score)
    assert best.curve == pytest.approx([floor + 0.001 - 1 / 9 + 1 / (epoch + 1) for epoch in range(9)])


def test_best_config_is_the_best_trials_run(trainer, tmp_path):
    trainer()
    result = search(config_of(), tmp_path)
    config = RunConfig.load(tmp_path / "best_config.json")
    assert config == result.best_config
    assert min(curve(config, 9)) == result.best.score


def test_grid_proposes_every_combination_once(trainer, tmp_path):
    trainer()
    result = search(config_of("grid", space=GRID, trials=99, trials_at_once=99), tmp_path)
    found = [trial.values for trial in sorted(result.trials, key=lambda trial: trial.number)]
    momenta = [*({"optimizer.momentum": momentum, "optimizer.name": "sgd"} for momentum in (0.0, 0.3, 0.6, 0.9))]
    expected = [
        {**one, "network.hidden": hidden} for one in [*momenta, {"optimizer.name": "adam"}] for hidden in ([8], [4, 4])
    ]
    assert sorted(map(str, map(sorted, map(dict.items, found)))) == sorted(
        map(str, map(sorted, map(dict.items, expected)))
    )


def test_hyperband_takes_the_best_further(trainer, tmp_path):
    trainer()
    result = search(config_of("hyperband", trials=30, trials_at_once=99), tmp_path)
    trials = {trial.number: trial for trial in result.trials}
    further = [trial for trial in trials.values() if trial.continues is not None]
    assert further
    for trial in further:
        before = trials[trial.continues]
        assert trial.values == before.values
        assert trial.epochs == 3 * before.epochs
        rivals = [t for t in trials.values() if t.epochs == before.epochs and t.continues is None]
        assert before.score <= np.median([rival.score for rival in rivals])


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_two_oracles_propose_the_same(oracle):
    config = config_of(oracle)

    def proposals():
        asked, found = Oracle(config), []
        for _ in range(2):
            new = asked.ask(5)
            found += new
            for proposal in new:
                asked.tell(proposal.number, [0.1 * proposal.number] if proposal.number != 2 else None, 1)
        return found

    first = proposals()
    assert first == proposals()
    assert len(first) == 10
    for proposal in first:
        assert ("optimizer.momentum" in proposal.values) == (proposal.values["optimizer.name"] == "sgd")
        config.run_with(proposal.values)


def test_values_stay_in_their_range():
    config = config_of(space={"training.batch_size": {"min": 1, "max": 3, "sampling": "log"}}, trials_at_once=1)
    oracle = Oracle(config)
    values = [proposal.values["training.batch_size"] for proposal in oracle.ask(99)]
    assert sorted(values) == [1, 2, 3]
    assert {type(value) for value in values} == {int}


def test_hparams_page_has_every_column_and_trial(trainer, tmp_path):
    trainer(fails=(3,))
    report_on = {**QUIET, "report": {"progress": "silent", "tensorboard": True}}
    config = config_of(run=report_on, trials=6)
    result = search(config, tmp_path)
    runs = EventMultiplexer()
    runs.AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    assert set(runs.Runs()) == {".", *(f"trials/{number:04d}" for number in range(6))}
    content = runs.SummaryMetadata(".", metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    infos = {info.name: info for info in experiment.hparam_infos}
    assert set(infos) == set(SPACE)
    assert infos["regularization.dropout"].domain_interval.max_value == 0.5
    assert set(infos["network.hidden"].domain_discrete) == {"[8]", "[4, 4]"}
    tags = [metric.name.tag for metric in experiment.metric_infos]
    assert tags == ["score", "loss", "accuracy", "val_loss", "val_accuracy"]
    for trial in result.trials:
        name = f"trials/{trial.number:04d}"
        start = metadata.parse_session_start_info_plugin_data(
            runs.SummaryMetadata(name, metadata.SESSION_START_INFO_TAG).plugin_data.content
        )
        assert set(start.hparams) == set(trial.values)
        for key, value in start.hparams.items():
            kind = "string_value" if key in ("optimizer.name", "network.hidden") else "number_value"
            assert value.WhichOneof("kind") == kind
        end = metadata.parse_session_end_info_plugin_data(
            runs.SummaryMetadata(name, metadata.SESSION_END_INFO_TAG).plugin_data.content
        )
        assert end.status == (2 if trial.number == 3 else 1)
        if trial.number != 3:
            curve = [event.value for event in runs.Scalars(name, "val_loss")]
            assert curve == pytest.approx(trial.curve)
            [score] = runs.Scalars(name, "score")
            assert (score.value, score.step) == (pytest.approx(trial.score), 9)


def test_seeds_are_runs_of_their_own(trainer, tmp_path):
    trainer()
    report_on = {**QUIET, "report": {"progress": "silent", "tensorboard": True}}
    search(config_of(run=report_on, trials=2, seeds_per_trial=2), tmp_path)
    assert {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*tfevents*")} == {
        ".",
        *(f"trials/000{number}/{seed}" for number in (0, 1) for seed in (0, 1)),
    }


def test_trials_csv_is_ranked_and_whole(trainer, tmp_path):
    trainer(fails=(2,))
    result = search(config_of(), tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in result.trials]
    assert float(rows[0]["score"]) == result.best.score
    assert json.loads(rows[0]["network.hidden"]) == result.best.values["network.hidden"]
    assert rows[-1]["error"] == "loss is NaN"
    assert rows[-1]["score"] == ""


def test_lines_where_there_is_no_terminal(trainer, tmp_path, capsys):
    trainer()
    lines = {**QUIET, "report": {"progress": "auto", "tensorboard": False}}
    result = search(config_of(run=lines, trials=4), tmp_path)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    best = result.best
    assert out[-1].startswith("4/4 trials, ")
    assert out[-1].endswith(f" s, best val_loss {best.score:.4f} in epoch 9 of trial {best.number}")
    table = result.table().splitlines()
    assert table[0].split() == [
        "rank",
        "trial",
        "val_loss",
        "epoch",
        "status",
        "learning_rate",
        "dropout",
        "name",
        "momentum",
        "hidden",
    ]
    assert table[1].split()[:5] == ["1", str(best.number), f"{best.score:.4f}", "9/9", "completed"]


def test_the_table_stays_in_its_place_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    config = config_of(trials=3, space={"optimizer.learning_rate": SPACE["optimizer.learning_rate"]}, run={})
    progress = SearchProgress(config, stream)
    trial = Trial(0, {"optimizer.learning_rate": 0.1}, "completed", score=0.5, epoch=2, epochs=3)
    progress.results([trial])
    progress.results([trial, Trial(1, {}, "failed")])
    progress.close()
    drawn = stream.getvalue().split("\x1b[3F\x1b[J")
    assert [part.count("\n") for part in drawn] == [3, 3, 0]
    assert "2/3 trials" in drawn[1]
    assert "0.5000" in drawn[1]


def test_time_left_is_that_of_trials_that_took_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = SearchProgress(config_of(trials=10, run={}), stream)
    failed = [Trial(number, {}, "failed") for number in range(10)]
    progress.results(failed[:4], replayed=4)
    now[0] = 30.0
    progress.results(failed[:7])
    now[0] = 60.0
    progress.results(failed)
    assert stream.getvalue().splitlines() == [
        "4/10 trials, 0 s",
        "7/10 trials, 30 s, 30 s left",
        "10/10 trials, 1 min 00 s",
    ]

"""What objects of the package show of themselves: `repr`, `table()` and `figure()`."""

import keras
import numpy as np
import pytest

from kerasnn import (
    BestModel,
    Health,
    HistoryFile,
    LearningRate,
    Progress,
    RunConfig,
    StopOnDivergence,
    TensorBoard,
    TrainingState,
    find_learning_rate,
)
from kerasnn.config.schedules import Cosine
from kerasnn.runs.evaluate import Evaluation
from kerasnn.runs.train import Result
from kerasnn.search.config import SearchConfig
from kerasnn.search.run_search import SearchResult
from kerasnn.search.trial import Trial

CLASSES = {"metrics": {"loss": 0.5}, "y_true": np.array([0, 1]), "y_predicted": np.array([0, 0])}
ROW = {"class": "a", "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (BestModel("best.keras", "val_loss"), "BestModel('best.keras', monitor='val_loss')"),
        (HistoryFile("history.csv"), "HistoryFile('history.csv')"),
        (Health((np.ones((4, 2)), np.ones(4))), "Health(every=1, alarms=0)"),
        (LearningRate(Cosine(warmup=2), learning_rate=0.1), "LearningRate(Cosine(warmup=2.0), learning_rate=0.1)"),
        (Progress("lines", examples=8), "Progress('lines', examples=8)"),
        (StopOnDivergence(), "StopOnDivergence()"),
        (TensorBoard("logs"), "TensorBoard('logs')"),
        (TrainingState("state"), "TrainingState('state')"),
    ],
)
def test_a_callback_shows_what_it_was_made_with(made, shown):
    assert repr(made) == shown


def test_a_config_shows_what_differs_from_its_defaults():
    assert (str(RunConfig()), str(Cosine(warmup=2))) == ("RunConfig()", "Cosine(warmup=2.0)")


def test_a_runs_figure_has_a_panel_for_each_logged_value(tmp_path):
    history = {"loss": [0.9, 0.5], "val_loss": [1.0, 0.7], "accuracy": [0.5, 0.8], "learning_rate": [0.1, 0.05]}
    panels = Result(None, history, {}, tmp_path).figure().axes
    assert [axes.get_title() for axes in panels] == ["loss", "accuracy", "learning_rate"]
    assert [line.get_xdata().tolist() for line in panels[0].lines] == [[1, 2], [1, 2]]
    assert [len(axes.lines) for axes in panels] == [2, 1, 1]


def test_a_searchs_figure_has_a_line_for_each_scored_trial(tmp_path):
    config = SearchConfig(space={"optimizer.learning_rate": {"min": 0.01, "max": 0.1}})
    trials = [Trial(number, {"optimizer.learning_rate": 0.02}, "completed", score=0.5) for number in (1, 2)]
    result = SearchResult((*trials, Trial(3, {}, "failed")), config, tmp_path)
    assert sum(len(line.get_xdata()) == 2 and line.get_zorder() < 3 for line in result.figure().axes[0].lines) == 2
    assert "learning_rate" in result.table()


def test_an_evaluations_figure_and_table_follow_the_task():
    classes = Evaluation(**CLASSES, outputs=np.eye(2), class_names=("a", "b"), confusion=np.eye(2), by_class=[ROW])
    assert classes.figure().axes[0].get_xlabel() == "predicted class"
    assert classes.table().splitlines()[1].split() == ["a", "0.5000", "1.0000", "0.6667", "1"]
    assert classes.table() in str(classes)
    numbers = Evaluation(**CLASSES, outputs=np.eye(2), class_names=None, confusion=None, by_class=[])
    assert (numbers.figure().axes[0].get_xlabel(), numbers.table()) == ("true value", "")
    labels = Evaluation(**CLASSES, outputs=np.eye(2), class_names=("a", "b"), confusion=None, by_class=[ROW])
    with pytest.raises(ValueError, match="needs one class an example"):
        labels.figure()


def test_a_range_tests_figure_marks_its_suggestion():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(64, 2))
    found = find_learning_rate(model, (x, x[:, 0]), batch_size=8, compiled="off")
    marked = [text.get_text() for text in found.figure().axes[0].get_legend().get_texts()]
    assert f"suggestion (valley): {found.suggestion:.1e}" in marked

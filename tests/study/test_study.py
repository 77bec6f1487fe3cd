"""A study's numbers are those of its seeds, its pictures show them, and it goes on where it was ended."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from kerasnn import figures
from kerasnn.search.trial import Trial
from kerasnn.study import run_study as study_run
from kerasnn.study.comparison import compare, level_text
from kerasnn.study.config import StudyConfig
from kerasnn.study.pictures import differences, heat_maps, learning_curves
from kerasnn.study.run_study import study
from kerasnn.study.statistics import bands, holm, interval, p_value, padded

FACTORS = {"network.activation": ["relu", "tanh"], "network.kernel_initializer": ["glorot_normal", "he_normal"]}
SMALL = {
    "run": {
        "network": {"hidden": [8]},
        "training": {"epochs": 2, "batch_size": 256},
        "report": {"progress": "silent"},
    },
    "factors": FACTORS,
    "seeds": 3,
    "objective": "val_accuracy",
}


def config(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate({**SMALL, **changes})


def trial(number: int, activation: str, initializer: str, scores: tuple[float, ...]) -> Trial:
    values = {"network.activation": activation, "network.kernel_initializer": initializer}
    curves = tuple((score / 2, score) for score in scores)
    return Trial(number, values, "completed" if scores else "failed", scores=scores, curves=curves)


TRIALS = [
    trial(0, "relu", "glorot_normal", (0.6, 0.5, 0.7)),
    trial(1, "relu", "he_normal", (0.8, 0.7, 0.84)),
    trial(2, "tanh", "glorot_normal", (0.9, 0.8, 0.7)),
    trial(3, "tanh", "he_normal", ()),
]


def texts(figure: Figure) -> list[str]:
    figures.to_png(figure)
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def inside(figure: Figure) -> bool:
    figures.to_png(figure)
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_interval_is_student_s() -> None:
    found = interval([1.0, 2.0, 3.0, 6.0])
    assert found.mean == 3
    expected = stats.t.interval(0.95, 3, 3.0, stats.sem([1.0, 2.0, 3.0, 6.0]))
    assert (found.low, found.high) == pytest.approx(expected)


def test_a_study_trains_where_its_search_does() -> None:
    assert (config().search.workers, config().search.cluster) == (1, None)
    wide = config(workers=3, cluster="auto").search
    assert (wide.workers, wide.cluster, wide.has_workers) == (3, "auto", True)


def test_bands_leave_out_seeds_that_have_ended() -> None:
    low, mean, high = bands(padded([[1.0, 2.0, 5.0], [3.0, 4.0]]))
    assert mean.tolist() == [2, 3, 5]
    assert (low[2], high[2]) == (5, 5)
    assert high[0] == pytest.approx(2 + stats.t.ppf(0.975, 1))


@pytest.mark.parametrize(
    ("differences", "expected"), [([0.1, 0.2, 0.3], 0.0741799), ([0.0, 0.0], 1.0), ([0.25, 0.25], 0.0)]
)
def test_p_value_is_the_paired_t_test_s(differences: list[float], expected: float) -> None:
    assert p_value(differences) == pytest.approx(expected, abs=1e-6)


def test_holm_equals_r_s_p_adjust() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_cells_are_compared_seed_by_seed_all_other_factors_being_equal() -> None:
    cells = compare(TRIALS, config())
    assert [tuple(cell.levels.values()) for cell in cells] == [
        ("relu", "he_normal"),
        ("relu", "glorot_normal"),
        ("tanh", "glorot_normal"),
        ("tanh", "he_normal"),
    ]
    best, base, alone, failed = cells
    assert best.comparison is not None
    # The differences are 0.2, 0.2, 0.14: far surer than two intervals that overlap.
    assert best.comparison.difference == pytest.approx(interval([0.2, 0.2, 0.14]))
    assert best.comparison.p_value == pytest.approx(stats.ttest_rel([0.7, 0.8, 0.84], [0.5, 0.6, 0.7]).pvalue)
    assert base.score is not None
    assert best.score is not None
    assert base.score.high > best.score.low
    assert base.comparison is alone.comparison is failed.comparison is None
    assert failed.score is None


def test_a_whole_baseline_is_compared_with_all() -> None:
    baseline = {"network.activation": "relu", "network.kernel_initializer": "he_normal"}
    cells = compare(TRIALS, config(baseline=baseline))
    assert [cell.scores[:1] for cell in cells] == [(0.9,), (0.8,), (0.6,), ()]
    means = [cell.comparison.difference.mean for cell in cells if cell.comparison]
    assert means == pytest.approx([0.8 - 0.78, 0.6 - 0.78])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"factors": {"network.activation": ["relu"]}},
            r"factors\['network.activation'\] must have two levels",
        ),
        (
            {"factors": {"network.activation": ["relu", "rel"]}},
            "factors must hold valid runs only: .*did you mean 'relu'",
        ),
        ({"baseline": {"network.activaton": "relu"}}, "baseline's keys must be one of .*did you mean"),
        ({"baseline": {"network.activation": "gelu"}}, "must be a level of that factor"),
        ({"seeds": 1}, "seeds must be greater than or equal to 2, received 1"),
        ({"objective": "val_acuracy"}, "did you mean 'val_accuracy'"),
    ],
)
def test_wrong_studies_are_refused_in_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line) as error:
        config(**changes)
    assert "\n" not in str(error.value)


def test_description_survives_json() -> None:
    described = config(baseline={"network.kernel_initializer": "he_normal"})
    assert StudyConfig.from_json(described.to_json()) == described
    assert StudyConfig().cells * StudyConfig().seeds >= 96


def test_pictures_show_the_numbers() -> None:
    cells = compare(TRIALS, config())
    shown = texts(heat_maps(cells, config()))
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert f"0.600\n±{half:.3f}" in shown
    assert "failed" in shown
    forest = differences(cells, config())
    assert [axes.get_title() for axes in forest.axes] == ["activation relu", "activation tanh"]
    (bar,) = [line for line in forest.axes[0].lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2]  # type: ignore[arg-type]
    assert np.asarray(bar.get_xdata()).tolist() == pytest.approx(list(interval([0.2, 0.2, 0.14])[1:]))
    assert texts(forest) == ["+0.180 (+0.094 to +0.266)", " failed"]
    curves = learning_curves(cells, config())
    line = curves.axes[0].lines[1]
    assert line.get_label() == "he_normal"
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.39, 0.78])
    for figure in (heat_maps(cells, config()), forest, curves):
        assert inside(figure)


def test_pictures_of_one_and_of_three_factors() -> None:
    one = config(factors={"optimizer.learning_rate": [0.001, 0.01]})
    trials = [
        Trial(n, {"optimizer.learning_rate": rate}, "completed", scores=(0.1 + n, 0.3 + n), curves=((0.1,), (0.3,)))
        for n, rate in enumerate((0.001, 0.01))
    ]
    three = config(factors={**FACTORS, "network.hidden": [[8], [4, {"units": 4, "dropout": 0.1}]]})
    many = [
        Trial(0, {"network.activation": a, "network.kernel_initializer": i, "network.hidden": h}, "completed",
              scores=(0.1, 0.3), curves=((0.1,), (0.3,)))
        for a in ("relu", "tanh") for i in ("glorot_normal", "he_normal")
        for h in three.factors["network.hidden"]
    ]  # fmt: skip
    for described, found in ((one, trials), (three, many)):
        cells = compare(found, described)
        for draw in (heat_maps, differences, learning_curves):
            assert inside(draw(cells, described))


def test_levels_read_well() -> None:
    assert level_text({"name": "random_normal", "stddev": 1.0}) == "random_normal stddev 1"
    assert level_text([50, 100]) == "[50, 100]"
    assert level_text(0.001) == "0.001"


def test_a_study_leaves_its_table_and_goes_on_where_it_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = study(config(), tmp_path / "study")
    with (tmp_path / "study" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["network.activation"], row["network.kernel_initializer"]) for row in rows] == [
        tuple(cell.levels.values()) for cell in first.cells
    ]
    for row, cell in zip(rows, first.cells, strict=True):
        scores = [float(row[f"seed_{seed}"]) for seed in range(3)]
        assert scores == pytest.approx(cell.scores)
        assert float(row["mean"]) == pytest.approx(np.mean(scores))
    assert {path.name for path in (tmp_path / "study").glob("*.png")} == {
        "heat_map.png",
        "differences.png",
        "learning_curves.png",
    }
    assert len(list((tmp_path / "study" / "trials").iterdir())) == 4
    # Half of the journal, as a kill leaves it: the other half is trained again, to the same scores.
    journal = tmp_path / "study" / "search" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if "result" not in json.loads(line)))
    again = study(StudyConfig.load(tmp_path / "study"), tmp_path / "study")
    assert again.table() == first.table()
    # Nothing is left to train, and another baseline is only another look at the same numbers.
    monkeypatch.setattr("kerasnn.search.trainer.Trainer.train", None)
    other = study(config(baseline={"network.activation": "tanh"}), tmp_path / "study")
    assert {cell.scores for cell in other.cells} == {cell.scores for cell in first.cells}
    assert other.table() != first.table()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="study_dir must be new, empty or a study's folder"):
        study_run.study(config(), tmp_path)

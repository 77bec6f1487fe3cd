"""Reports say what the folders hold, and nothing of it as HTML."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from kerasnn import figures
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.report import html, pictures
from kerasnn.report.write_report import kind_of, report
from kerasnn.search.config import SearchConfig
from kerasnn.search.importance import importance
from kerasnn.search.pictures import parallel_coordinates
from kerasnn.search.result import read_search
from kerasnn.search.trial import Trial
from kerasnn.tensorboard import event_files

BAD = "<script>alert('&')</script>"
SPACE = {
    "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"},
    "network.activation": {"choices": ["relu", "tanh"]},
    "network.hidden": {"choices": [[8], [4, {"units": 4, "dropout": 0.1}]]},
    "optimizer.momentum": {"min": 0.1, "max": 0.9, "when": {"network.activation": ["relu"]}},
}


def run_folder(folder: Path, config: RunConfig | None = None, **result: Any) -> Path:
    """A run folder without a model, as an interrupted or cleaned one is."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((config or RunConfig()).to_json())
    (folder / "history.csv").write_text("epoch,loss,val_loss,learning_rate\n1,2.0,1.5,0.1\n2,1.0,,0.05\n")
    described = {"status": "finished", "part": "test", "metrics": {"accuracy": 0.875, "loss": 0.5}, "epochs": 2}
    (folder / "result.json").write_text(json.dumps({**described, **result}))
    return folder


def search_config() -> SearchConfig:
    run = {"optimizer": {"name": "sgd"}}
    return SearchConfig.model_validate({"run": run, "space": SPACE, "trials": 40})


def trials(count: int = 40) -> list[Trial]:
    """The learning rate decides, the rest does not."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        rate, activation = float(10 ** draw.uniform(-4, -1)), ["relu", "tanh"][int(draw.integers(2))]
        values: dict[str, Any] = {"optimizer.learning_rate": rate, "network.activation": activation}
        values["network.hidden"] = search_config().space["network.hidden"].values[int(draw.integers(2))]
        if activation == "relu":
            values["optimizer.momentum"] = float(draw.uniform(0.1, 0.9))
        score = abs(np.log10(rate) + 2.5) + 0.01 * float(draw.uniform()) + 0.1
        found.append(Trial(number, values, "completed", score=score, epoch=2, epochs=2, metrics={"loss": score}))
    return found


def inside(figure: Figure) -> bool:
    figures.to_png(figure)
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_a_run_without_model_is_reported_with_what_there_is(tmp_path: Path) -> None:
    alarm = {"kind": "dead", "layer": "dense_1", "message": f"layer {BAD}: 63 % of units dead"}
    page = report(run_folder(tmp_path / "run", alarms=[alarm]))
    assert page == tmp_path / "run" / "report.html"
    text = page.read_text()
    assert "<b>0.875</b><span>test accuracy</span>" in text
    assert "layer &lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;: 63 % of units dead" in text
    assert "Not evaluated: run folder must hold model.keras" in text
    assert "The run wrote no event files" in text
    assert re.findall(r"<h2>(.*?)</h2>", text)[:2] == ["Alarms", "Learning curves"]
    # Nothing is loaded from elsewhere, and the only script is the page's.
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert text.count("<script>") == 1


def test_a_page_is_well_formed(tmp_path: Path) -> None:
    text = report(run_folder(tmp_path / "run")).read_text()
    body = text[text.index("<body>") : text.index("<script>")].replace("<img ", "<img a='' ") + "</body>"
    ElementTree.fromstring(re.sub(r"(<img [^>]*)>", r"\1/>", body))


def test_the_header_says_what_was_trained_on_what_when_and_by_which_version(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "data": {"path": "t<1>.csv"},
            "task": "regression",
            "schedule": {"name": "cosine", "warmup": 2},
            "optimizer": {"name": "sgd"},
        }
    )
    made = {"ended": "2026-01-02T03:04:05+00:00", "git_commit": "abc123", "versions": {"kerasnn": "0.2.0"}}
    text = report(run_folder(tmp_path / "run", config, **made)).read_text()
    header = text[: text.index('<div class="tiles">')]
    for name, value in {
        "data": "table, t&lt;1&gt;.csv",
        "task": "regression",
        "optimizer": "sgd",
        "schedule": "cosine, 2 epochs of warm-up",
        "date": "2026-01-02T03:04:05+00:00",
        "git commit": "abc123",
        "versions": "kerasnn 0.2.0",
    }.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in header
    assert "Loss is what training minimizes" in text


def test_runs_are_compared_side_by_side(tmp_path: Path) -> None:
    first = run_folder(tmp_path / "first")
    config = replace_at(RunConfig(), {"network.activation": "tanh", "data.path": None})
    second = run_folder(tmp_path / "second <b>", config, metrics={"accuracy": 0.9}, status="interrupted")
    text = report([first, second], tmp_path / "both.html").read_text()
    assert '<td class="text">network.activation</td><td class="text">relu</td><td class="text">tanh</td>' in text
    assert text.count('<td class="text">network.') == 1
    assert '<td class="text">second &lt;b&gt;</td><td class="text">interrupted</td><td class="">0.9</td>' in text
    assert "learning rate by epoch" in text
    same = report([first, run_folder(tmp_path / "third")], tmp_path / "same.html").read_text()
    assert "The runs have the same configuration." in same


def test_runs_are_compared_with_the_health_of_each(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / name) for name in ("first", "second", "unmeasured")]
    for folder in folders[:2]:
        dead = event_files.scalar("units_dead/dense_1", 0.1)
        event_files.write(folder / "train", [(step, [dead]) for step in range(2)])
    text = report(folders, tmp_path / "all.html").read_text()
    _, first, second, unmeasured = re.split(r"<h2>(?:first|second|unmeasured)</h2>", text)
    for section in (first, second):
        assert "units dead" in section
        assert "wrote no event files" not in section
    assert "The run wrote no event files" in unmeasured


def test_shares_of_a_layer_are_drawn_from_nothing_to_all() -> None:
    for name in ("units dead", "outputs saturated"):
        assert pictures.by_layer(name, {"dense_1": ([0, 1], [0.2, 0.21])}).axes[0].get_ylim() == (-0.03, 1.03)


def test_what_is_no_folder_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder must be a run's, a search's or a study's with config\.json"):
        report(tmp_path)
    run_folder(tmp_path / "run")
    search = tmp_path / "search"
    search.mkdir()
    (search / "config.json").write_text(search_config().to_json())
    assert [kind_of(tmp_path / name) for name in ("run", "search")] == ["run", "search"]
    with pytest.raises(
        ValueError, match=r"several folders must all be runs, received .*run \(run\), .*search \(search\)"
    ):
        report([tmp_path / "run", search], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    (search / "config.json").write_text("{")
    with pytest.raises(ValueError, match="JSON must be valid"):
        report(search)


def test_a_search_is_read_while_it_runs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(search_config().to_json())
    records: list[dict[str, Any]] = [{"search": {}}]
    for trial in trials(12):
        records.append({"proposal": trial.number, "values": trial.values, "epochs": 2})
        kept = {"result": trial.number, "status": "completed", "epochs": 2, "score": trial.score, "epoch": 2, "left": 0}
        records.append({**kept, "seconds": 1.0, "metrics": {}, "std": None, "curve": [1.0, trial.score]})
    journal = tmp_path / "journal.jsonl"
    # The last line is being written.
    journal.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"proposal": 12, "val')
    before = journal.read_bytes()
    result = read_search(tmp_path)
    assert len(result.trials) == 12
    assert result.best.score == min(trial.score or 9 for trial in trials(12))
    text = report(tmp_path).read_text()
    assert journal.read_bytes() == before
    assert text.count("<tr") == 1 + 12
    assert 'alt="parallel coordinates"' in text
    assert 'alt="importance of hyperparameters"' in text


def test_importance_finds_what_decides() -> None:
    found = importance(trials(), search_config())
    assert found.keys[0] == "optimizer.learning_rate"
    assert found.values[0] > 0.5
    assert max(found.values[1:]) < 0.2
    assert found.r_squared > 0.6


def test_importance_of_noise_explains_nothing() -> None:
    draw = np.random.default_rng(1)
    shuffled = [Trial(t.number, t.values, "completed", score=float(draw.uniform())) for t in trials()]
    found = importance(shuffled, search_config())
    assert found.r_squared < 0.2
    assert max(found.values) < 0.5


def test_importance_needs_trials() -> None:
    failed = [Trial(9, {}, "failed", error="no")]
    with pytest.raises(ValueError, match="at least 10 trials with a score, received 9"):
        importance(trials(9) + failed, search_config())


def test_parallel_coordinates_draw_each_trial_the_best_on_top() -> None:
    ranked = sorted(trials(), key=lambda trial: trial.score or 0)
    figure = parallel_coordinates([*ranked, Trial(99, {}, "failed")], search_config())
    lines = [line for line in figure.axes[0].lines if len(np.asarray(line.get_xdata())) == 5]
    assert len(lines) == 40
    best = np.asarray(lines[-1].get_ydata())
    rate = ranked[0].values["optimizer.learning_rate"]
    assert best[0] == pytest.approx((np.log10(rate) + 4) / 3)
    assert best[-1] == 0
    # A key that is not active for a trial leaves a gap.
    assert np.isnan(best[3]) == ("optimizer.momentum" not in ranked[0].values)
    assert inside(figure)


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "units_dead"])
def test_curves_are_whole(name: str) -> None:
    history = {"loss": [2.0, 1.0], "val_loss": [1.5, float("nan")], "learning_rate": [0.1, 0.05]}
    drawn = {
        "loss": pictures.curves({"a $x_ run with a very long name indeed": history, "b": history}, "loss"),
        "gradient_norm": pictures.by_layer("gradient_norm", {f"dense_{n}": ([0, 1], [1.0, 1e-4]) for n in range(14)}),
        "units_dead": pictures.by_layer("units_dead", {"dense_1": ([0, 1], [0.0, 0.5])}),
    }[name]
    assert inside(drawn)
    assert inside(pictures.rates({"a": history}))


def test_tables_escape_and_mark() -> None:
    made = html.table(["<a>", "b"], [["x", "1"], ["<y>", "2"]], text=1, sortable=True, marked=1)
    assert '<th class="text">&lt;a&gt;</th><th class="">b</th>' in made
    assert '<tr class="mark"><td class="text">&lt;y&gt;</td><td class="">2</td></tr>' in made


def test_report_shows_what_was_found_in_the_data(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"data": {"path": "houses.csv", "target": "price"}})
    run_folder(tmp_path / "run", config, about="table  <houses>\n", learning_rate=0.001)
    text = report(tmp_path / "run").read_text()
    assert "<h2>Data</h2>\n<pre>table  &lt;houses&gt;</pre>" in text
    assert "<dd>table, houses.csv, target price</dd>" in text
    assert "<dd>adam, learning rate 0.001</dd>" in text

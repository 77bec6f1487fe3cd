"""The sections of a report about runs."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kerasnn import figures
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import readable
from kerasnn.files import refuse_links
from kerasnn.report import html, pictures
from kerasnn.runs.evaluate import Evaluation, evaluate_run
from kerasnn.runs.run_folder import CONTENT
from kerasnn.runs.scores import probabilities_of
from kerasnn.runs.tracking import flat


@dataclass(frozen=True)
class Run:
    """The content of a run folder.

    Args:
        name: the folder's.
        folder: the folder.
        config: the run.
        result: content of `result.json`; empty where the run has not ended.
        history: logged values by epoch.
    """

    name: str
    folder: Path
    config: RunConfig
    result: Mapping[str, Any]
    history: Mapping[str, list[float]]


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: where the folder holds no run.
        ValueError: one line, for a damaged file.
    """
    refuse_links(folder, *CONTENT)
    config = RunConfig.load(folder)
    result: dict[str, Any] = {}
    if (path := folder / "result.json").is_file():
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{path} must hold JSON") from None
    history: dict[str, list[float]] = {}
    if (path := folder / "history.csv").is_file():
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for key, value in row.items():
                    history.setdefault(key, []).append(float(value) if value else np.nan)
    history.pop("epoch", None)
    return Run(folder.resolve().name, folder, config, result, history)


def run_sections(run: Run) -> Iterator[tuple[str, Markup]]:
    """The sections of a report about one run: heading and content of each."""
    yield "", _summary(run)
    yield from _alarms([run])
    if about := str(run.result.get("about", "")).strip():
        yield "Data", html.preformatted(about)
    if run.history:
        curves = html.pictures(_curves({run.name: run.history}))
        yield "Learning curves", html.joined([html.paragraph(LEARNING, "note"), curves])
    yield "Health by layer", _health(run)
    yield from _evaluated(run)
    made = html.folded("result.json", json.dumps(run.result, indent=2))
    yield "Configuration", html.joined([html.folded("config.json", run.config.to_json()), made])


def comparison_sections(runs: Sequence[Run]) -> Iterator[tuple[str, Markup]]:
    """The sections of a report that compares runs: heading and content of each."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.result.get("metrics", {})))
    headings = ["run", "status", *(f"test {name}" for name in metrics), "best epoch", "epochs", "parameters", "seconds"]
    rows = []
    for run in runs:
        result = run.result
        measured, best = result.get("metrics", {}), result.get("best") or {}
        row = [run.name, str(result.get("status", "not ended")), *(_number(measured.get(name)) for name in metrics)]
        row += [_count(best.get("epoch"))] + [_count(result.get(key)) for key in ("epochs", "parameters")]
        rows.append([*row, _number(result.get("seconds"))])
    yield "Runs", html.table(headings, rows, text=2, sortable=True)
    configs = [dict(flat(json.loads(run.config.to_json()))) for run in runs]
    differing = [
        [key, *(config.get(key, "–") for config in configs)]
        for key in dict.fromkeys(key for config in configs for key in config)
        if len({config.get(key) for config in configs}) > 1
    ]
    if differing:
        yield "What differs", html.table(["key", *(run.name for run in runs)], differing, text=1 + len(runs))
    else:
        yield "What differs", html.paragraph("The runs have the same configuration.", "note")
    yield from _alarms(runs)
    yield "Learning curves", html.pictures(_curves({run.name: run.history for run in runs if run.history}))
    for run in runs:
        parts = [html.tiles(_tiles(run)), html.folded("config.json", run.config.to_json()), _health(run)]
        yield run.name, html.joined(parts)


LEARNING = (
    "Loss is what training minimizes, a mean over examples. The validation part is not trained on. A validation "
    "loss that rises while the training loss falls shows overfitting. Epochs count from 1."
)
HEALTH = (
    "Gradient norm: how strongly the loss asks a layer to change; where it shrinks from layer to layer towards "
    "the input, gradients vanish. Update ratio: an update's size in relation to the weights, about 0.001 as a "
    "rule. Units dead: the share that output 0 for every example. Saturated: the share of outputs where the "
    "activation is flat."
)
CONFUSION = (
    "Rows are true classes, columns predicted ones; all but the diagonal are mistakes. Accuracy by confidence: on "
    "the diagonal the network is right as often as it is sure."
)
BY_CLASS = (
    "Precision: of the examples that were predicted to be of the class, the share that is. Recall: of the "
    "examples of the class, the share that was found. F1: their harmonic mean. Support: the number of examples of "
    "the class."
)


def _summary(run: Run) -> Markup:
    parts = [html.facts(_facts(run)), html.tiles(_tiles(run))]
    if (picture := run.folder / "network.svg").is_file():
        parts.append(html.pictures([("the network's layers", picture.read_bytes())]))
    return html.joined(parts)


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    """What was trained on what, when, and by which version."""
    config, result = run.config, run.result
    path = f", {config.data.path}" if config.data.path else ""
    target = f", target {config.data.target}" if isinstance(config.data.target, str) else ""
    yield "data", f"{config.data.name}{path}{target}"
    yield "task", config.known_task
    rate = config.optimizer.learning_rate or result.get("learning_rate")
    yield "optimizer", config.optimizer.name + (f", learning rate {rate:g}" if isinstance(rate, float) else "")
    warmup = f", {config.schedule.warmup:g} epochs of warm-up" if config.schedule.warmup else ""
    yield "schedule", config.schedule.name + warmup
    made = run.folder / ("result.json" if result else "config.json")
    ended = result.get("ended") or datetime.fromtimestamp(made.stat().st_mtime, UTC).isoformat(timespec="seconds")
    yield "date", str(ended)
    yield "git commit", str(result.get("git_commit") or "none: not run in a repository")
    if versions := result.get("versions"):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def _tiles(run: Run) -> list[tuple[str, str]]:
    part = run.result.get("part", "test")
    tiles = [("status", str(run.result.get("status", "not ended")))]
    tiles += [(f"{part} {name}", _number(value)) for name, value in run.result.get("metrics", {}).items()]
    tiles += [(f"{part} {name}", _number(value)) for name, value in run.result.get("scores", {}).items()]
    tiles += [
        (f"{name} of the best constant", _number(value)) for name, value in run.result.get("constant", {}).items()
    ]
    best = run.result.get("best") or {}
    if best.get("epoch"):
        tiles.append((f"best {best.get('monitor', 'epoch')}, epoch {best['epoch']}", _number(best.get("value"))))
    tiles += [(key, _count(run.result[key])) for key in ("epochs", "parameters") if key in run.result]
    if "seconds" in run.result:
        tiles.append(("seconds", _number(run.result["seconds"])))
    return tiles


def _alarms(runs: Sequence[Run]) -> Iterator[tuple[str, Markup]]:
    lines = [
        f"{run.name}: {_message(alarm)}" if len(runs) > 1 else _message(alarm)
        for run in runs
        for alarm in run.result.get("alarms", [])
    ]
    if lines:
        yield "Alarms", html.joined(html.paragraph(line, "alarm") for line in lines)


def _message(alarm: Any) -> str:
    return str(alarm.get("message", alarm)) if isinstance(alarm, Mapping) else str(alarm)


def _curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[tuple[str, Any]]:
    names = dict.fromkeys(name.removeprefix("val_") for history in histories.values() for name in history)
    for name in names:
        if name != "learning_rate":
            yield f"{name} by epoch", pictures.curves(histories, name)
    if "learning_rate" in names:
        yield "learning rate by epoch", pictures.rates(histories)


def _health(run: Run) -> Markup:
    """Figures of the values by layer in TensorBoard's event files."""
    if not (run.folder / "train").is_dir():
        return html.paragraph("The run wrote no event files (report.tensorboard is false).", "note")
    events = EventAccumulator(str(run.folder / "train"), size_guidance={"scalars": 0})
    events.Reload()
    groups: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for tag in events.Tags()["scalars"]:
        name, slash, layer = tag.partition("/")
        if slash:
            scalars = events.Scalars(tag)
            groups.setdefault(name, {})[layer] = ([each.step for each in scalars], [each.value for each in scalars])
    if not groups:
        return html.paragraph("The run's event files have no values by layer (report.health is false).", "note")
    drawn = html.pictures((name.replace("_", " "), pictures.by_layer(name, layers)) for name, layers in groups.items())
    return html.joined([html.paragraph(HEALTH, "note"), drawn])


def _evaluated(run: Run) -> Iterator[tuple[str, Markup]]:
    try:
        evaluation = evaluate_run(run.folder)
    except (ValueError, TypeError, OSError) as error:
        # The model or the data may be elsewhere by now; the rest of the report still serves.
        yield "Predictions", html.paragraph(f"Not evaluated: {error}", "note")
        return
    if evaluation.confusion is not None and evaluation.class_names is not None:
        matrix = figures.to_png(evaluation.figure())
        shown = [("confusion matrix", matrix)]
        if evaluation.x is not None:
            mistakes = figures.to_png(_mistakes(evaluation, evaluation.class_names, run.config))
            shown.append(("the most confident mistakes", mistakes))
        probabilities = probabilities_of(run.config, evaluation.outputs.astype("float64"))
        if probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-6:
            right = evaluation.y_predicted == evaluation.y_true.reshape(-1)
            confidence = probabilities[range(len(right)), evaluation.y_predicted]
            shown.append(("accuracy by confidence", figures.to_png(figures.calibration(confidence, right))))
        heading = "Confusion matrix" if evaluation.x is None else "Confusion matrix and worst mistakes"
        yield heading, html.joined([html.paragraph(CONFUSION, "note"), html.pictures(shown)])
    elif run.config.known_task == "regression":
        scatter = figures.to_png(evaluation.figure())
        yield "Predictions", html.pictures([("predicted against true values", scatter)])
    if evaluation.by_class:
        rows = [
            [row["class"], *(f"{row[key]:.4f}" for key in ("precision", "recall", "f1")), f"{row['support']:,}"]
            for row in evaluation.by_class
        ]
        table = html.table(["class", "precision", "recall", "f1", "support"], rows, text=1, sortable=True)
        yield "By class", html.joined([html.paragraph(BY_CLASS, "note"), table])


def _mistakes(evaluation: Evaluation, class_names: Sequence[str], config: RunConfig) -> Figure:
    assert evaluation.x is not None
    shape = evaluation.x.shape[1:]
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    return figures.mistakes(
        evaluation.x,
        evaluation.y_true.reshape(-1).astype(int),
        evaluation.y_predicted,
        probabilities_of(config, evaluation.outputs.astype("float64")),
        class_names,
        shape if is_image else None,
    )


def _number(value: Any) -> str:
    return readable(value) if isinstance(value, int | float) else "–"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"

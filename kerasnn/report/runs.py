"""The part of a report that tells of runs."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy.special import expit, softmax  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kerasnn import figures
from kerasnn.config.run import RunConfig
from kerasnn.report import html, pictures
from kerasnn.runs.evaluate import Evaluation, evaluate_run


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Args:
        name: the folder's.
        folder: the folder.
        config: the run.
        result: `result.json`; empty where the run has not ended.
        history: logged values by epoch.
    """

    name: str
    folder: Path
    config: RunConfig
    result: Mapping[str, Any]
    history: Mapping[str, list[float]]


def read_run(folder: Path) -> Run:
    """A run from its folder.

    Raises:
        FileNotFoundError: where the folder holds no run.
        ValueError: one line, for a file that is damaged.
    """
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
    """Everything about one run: heading and content of each section."""
    yield "", _glance(run)
    yield from _alarms([run])
    if run.history:
        yield "Learning curves", html.pictures(_curves({run.name: run.history}))
    yield "Health by layer", _health(run)
    yield from _evaluated(run)
    made = html.folded("result.json", json.dumps(run.result, indent=2))
    yield "Configuration", html.joined([html.folded("config.json", run.config.to_json()), made])


def comparison_sections(runs: Sequence[Run]) -> Iterator[tuple[str, Markup]]:
    """Several runs side by side."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.result.get("metrics", {})))
    head = ["run", "status", *(f"test {name}" for name in metrics), "best epoch", "epochs", "parameters", "seconds"]
    rows = []
    for run in runs:
        found, best = run.result.get("metrics", {}), run.result.get("best") or {}
        row = [run.name, str(run.result.get("status", "not ended")), *(_number(found.get(name)) for name in metrics)]
        row += [_whole(best.get("epoch"))] + [_whole(run.result.get(key)) for key in ("epochs", "parameters")]
        rows.append([*row, _number(run.result.get("seconds"))])
    yield "Runs", html.table(head, rows, text=2, sortable=True)
    flat = [dict(_flat(json.loads(run.config.to_json()))) for run in runs]
    keys = [key for key in dict.fromkeys(key for each in flat for key in each) if len({e.get(key) for e in flat}) > 1]
    different = [[key, *(each.get(key, "–") for each in flat)] for key in keys]
    if different:
        yield "What differs", html.table(["key", *(run.name for run in runs)], different, text=1 + len(runs))
    else:
        yield "What differs", html.paragraph("The runs have the same configuration.", "note")
    yield from _alarms(runs)
    yield "Learning curves", html.pictures(_curves({run.name: run.history for run in runs if run.history}))
    for run in runs:
        told = html.tiles(_tiles(run)), html.folded("config.json", run.config.to_json())
        yield run.name, html.joined([*told, _health(run)])


def _glance(run: Run) -> Markup:
    parts = [html.tiles(_tiles(run))]
    if (drawn := run.folder / "network.svg").is_file():
        parts.append(html.pictures([("the network's layers", drawn.read_bytes())]))
    return html.joined(parts)


def _tiles(run: Run) -> list[tuple[str, str]]:
    part = run.result.get("part", "test")
    found = [(f"{part} {name}", _number(value)) for name, value in run.result.get("metrics", {}).items()]
    best = run.result.get("best") or {}
    if best.get("epoch"):
        found.append((f"best {best.get('monitor', 'epoch')}, epoch {best['epoch']}", _number(best.get("value"))))
    found += [(key, _whole(run.result[key])) for key in ("epochs", "parameters") if key in run.result]
    if "seconds" in run.result:
        found.append(("seconds", _number(run.result["seconds"])))
    return [("status", str(run.result.get("status", "not ended"))), *found]


def _alarms(runs: Sequence[Run]) -> Iterator[tuple[str, Markup]]:
    told = [(run, alarm) for run in runs for alarm in run.result.get("alarms", [])]
    if told:
        lines = [f"{run.name}: {_message(alarm)}" if len(runs) > 1 else _message(alarm) for run, alarm in told]
        yield "Alarms", html.joined(html.paragraph(line, "alarm") for line in lines)


def _message(alarm: Any) -> str:
    return str(alarm.get("message", alarm)) if isinstance(alarm, Mapping) else str(alarm)


def _curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[tuple[str, Any]]:
    every = dict.fromkeys(name.removeprefix("val_") for history in histories.values() for name in history)
    for name in every:
        if name != "learning_rate":
            yield f"{name} by epoch", pictures.curves(histories, name)
    if "learning_rate" in every:
        yield "learning rate by epoch", pictures.rates(histories)


def _health(run: Run) -> Markup:
    """What TensorBoard's event files have by layer."""
    if not (run.folder / "train").is_dir():
        return html.paragraph("The run wrote no event files (report.tensorboard is false).", "note")
    events = EventAccumulator(str(run.folder / "train"), size_guidance={"scalars": 0})
    events.Reload()
    groups: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for tag in events.Tags()["scalars"]:
        what, slash, layer = tag.partition("/")
        if slash:
            found = events.Scalars(tag)
            groups.setdefault(what, {})[layer] = ([each.step for each in found], [each.value for each in found])
    if not groups:
        return html.paragraph("The run's event files have no values by layer (report.health is false).", "note")
    return html.pictures((what.replace("_", " "), pictures.by_layer(what, layers)) for what, layers in groups.items())


def _evaluated(run: Run) -> Iterator[tuple[str, Markup]]:
    try:
        found = evaluate_run(run.folder)
    except (ValueError, TypeError, OSError) as error:
        # A report without these is better than none: the model or the data may be elsewhere by now.
        yield "Predictions", html.paragraph(f"Not looked at: {error}", "note")
        return
    if found.confusion is not None and found.class_names is not None:
        drawn = figures.to_png(figures.confusion_matrix(found.confusion, found.class_names))
        labels = found.y_true.reshape(-1).astype(int)
        probabilities = _probabilities(found, run.config)
        worst = figures.mistakes(
            _examples(found), labels, found.y_predicted, probabilities, found.class_names, _image_shape(found)
        )
        shown = [("confusion matrix", drawn), ("the most confident mistakes", figures.to_png(worst))]
        yield "Confusion matrix and worst mistakes", html.pictures(shown)
    elif run.config.task == "regression":
        scatter = figures.to_png(figures.predicted_against_true(found.y_true, found.y_predicted))
        yield "Predictions", html.pictures([("predicted against true values", scatter)])
    if found.table:
        rows = [
            [row["class"], *(f"{row[key]:.4f}" for key in ("precision", "recall", "f1")), f"{row['support']:,}"]
            for row in found.table
        ]
        yield "By class", html.table(["class", "precision", "recall", "f1", "support"], rows, text=1, sortable=True)


def _examples(found: Evaluation) -> np.ndarray:
    assert found.x is not None
    return found.x


def _image_shape(found: Evaluation) -> tuple[int, ...] | None:
    shape = _examples(found).shape[1:]
    return shape if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)) else None


def _probabilities(found: Evaluation, config: RunConfig) -> np.ndarray:
    """Of each class, `(examples, classes)`."""
    outputs = found.outputs.astype("float64")
    if config.task == "binary":
        positive = expit(outputs[:, 0]) if config.loss.from_logits else outputs[:, 0]
        return np.stack([1 - positive, positive], axis=1)
    return softmax(outputs, axis=1) if config.loss.from_logits else outputs


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for inner, part in value.items():
            yield from _flat(part, f"{key}.{inner}" if key else inner)
    else:
        yield key, value if isinstance(value, str) else json.dumps(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _whole(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"

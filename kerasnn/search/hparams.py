"""A search on TensorBoard's HParams page: every trial with its values, its scores and its curves."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api, api_pb2, metadata, plugin_data_pb2

from kerasnn.search.config import SearchSettings
from kerasnn.search.space import Choice, Range
from kerasnn.search.trial import Trial, best_of
from kerasnn.tensorboard import event_files

FILE = "events.out.tfevents.0.search"
FRONT_FILE = "events.out.tfevents.1.front"
SCORE = "score"
FRONT = "on_front"
_STATUS = {
    "completed": api_pb2.STATUS_SUCCESS,
    "failed": api_pb2.STATUS_FAILURE,
    # TensorBoard has no status for trials that were stopped.
    "stopped": api_pb2.STATUS_UNKNOWN,
}


def write_search(folder: Path, config: SearchSettings, logged: Sequence[str]) -> None:
    """Declare every hyperparameter and the metrics, `logged` by trials, before the first trial of a search folder."""
    metrics = [api.Metric(SCORE, display_name=f"best {config.objective_name}")]
    for name, _ in config.objectives[1:]:
        metrics.append(api.Metric(f"{SCORE}/{name}", display_name=f"{name} in that epoch"))
    if len(config.objectives) > 1:
        metrics.append(api.Metric(FRONT, display_name="on the Pareto front"))
    metrics += [api.Metric(name, display_name=f"last {name}") for name in logged]
    hparams = [api.HParam(key, _domain(parameter)) for key, parameter in config.space.items()]
    event_files.write(folder, [(0, _values(api.hparams_config_pb(hparams, metrics)))], FILE, durable=False)


def write_trial(
    folder: Path,
    name: str,
    config: SearchSettings,
    values: Mapping[str, Any],
    status: str,
    histories: Sequence[Mapping[str, Sequence[float]]],
    scores: Sequence[tuple[float, int]],
) -> None:
    """Write a trial's values, curves, scores and status, one run for each of its seeds.

    Args:
        folder: the search's folder; the trial's run is `trials/<name>`, with several seeds `trials/<name>/<seed>`.
        name: the trial's.
        config: the search.
        values: value by dotted key, for the active keys.
        status: "completed", "stopped" or "failed".
        histories: each seed's logged values by epoch.
        scores: each seed's best objective and its epoch, counted from 1; empty for a failed trial.
    """
    trial = folder / "trials" / name
    delete(trial)
    now = time.time()
    hparams = {key: _hparam(config.space[key], value) for key, value in values.items()}
    start = api.hparams_pb(hparams, trial_id=name, start_time_secs=now)
    for seed, history in enumerate(histories or [{}]):
        steps = [(0, _values(start))]
        for epoch in range(max(map(len, history.values()), default=0)):
            logs = {tag: curve[epoch] for tag, curve in history.items() if epoch < len(curve)}
            steps.append((epoch + 1, [event_files.scalar(tag, value) for tag, value in logs.items()]))
        if scores:
            score, best = scores[seed]
            others = {f"{SCORE}/{key}": history[key][best - 1] for key, _ in config.objectives[1:]}
            scalars = [event_files.scalar(tag, value) for tag, value in {SCORE: score, **others}.items()]
            steps.append((best, scalars))
        steps.append((0, [_end(status, now)]))
        # Not durable: the disk would have to confirm every one of a search's trials.
        event_files.write(trial / str(seed) if len(histories) > 1 else trial, steps, FILE, durable=False)


def write_front(folder: Path, trials: Iterable[Trial], config: SearchSettings) -> None:
    """Mark the trials of the Pareto front with 1, all others with 0, given the trials of a search that has ended."""
    trials = list(trials)
    front = {trial.number for trial in best_of(trials, config)}
    for trial in trials:
        runs = sorted(path.parent for path in (folder / "trials" / f"{trial.number:04d}").rglob(FILE))
        for run in runs:
            mark = event_files.scalar(FRONT, float(trial.number in front))
            event_files.write(run, [(0, [mark])], FRONT_FILE, durable=False)


def delete(folder: Path) -> None:
    """Delete the files that `write_trial` has written to a folder and the folders in it, and folders left empty."""
    for path in [*folder.rglob(FILE), *folder.rglob(FRONT_FILE)]:
        path.unlink()
    for path in sorted([folder, *folder.rglob("*/")], reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _end(status: str, now: float) -> Summary.Value:
    session = plugin_data_pb2.SessionEndInfo(status=_STATUS[status], end_time_secs=now)
    described = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=session))
    return Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described, tensor=metadata.NULL_TENSOR)


def _domain(parameter: Choice | Range) -> api.Domain:
    if isinstance(parameter, Range):
        interval = api.IntInterval if parameter.is_integer else api.RealInterval
        return interval(parameter.min, parameter.max)
    return api.Discrete([_hparam(parameter, choice) for choice in parameter.choices])


def _hparam(parameter: Choice | Range, value: Any) -> bool | int | float | str:
    """A value in the one type of its column: a null or a list among numbers makes text of the whole column."""
    if isinstance(parameter, Range):
        return value
    kinds = {type(choice) for choice in parameter.choices}
    if kinds <= {int, float}:
        return float(value)
    if kinds == {bool}:
        return bool(value)
    return value if isinstance(value, str) else json.dumps(value)


def _values(summary: Any) -> list[Summary.Value]:
    """The values of a summary of TensorFlow's classes, in TensorBoard's."""
    return list(Summary.FromString(summary.SerializeToString()).value)

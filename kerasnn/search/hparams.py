"""A search as TensorBoard's HParams page shows it: every trial with its values, its scores and its curves."""

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api, api_pb2, metadata, plugin_data_pb2

from kerasnn.search.space import Choice, Range, SearchConfig

FILE = "events.out.tfevents.0.search"
"""The same name every time, so that writing a trial again replaces it."""
STATUS = {
    "completed": api_pb2.STATUS_SUCCESS,
    "failed": api_pb2.STATUS_FAILURE,
    # TensorBoard has no word for what was ended early.
    "stopped": api_pb2.STATUS_UNKNOWN,
}
SCORE = "score"


def write_search(folder: Path, config: SearchConfig, logged: Sequence[str]) -> None:
    """Declare every hyperparameter with its type and domain, and the metrics, before the first trial.

    Args:
        folder: the search's folder.
        config: the search.
        logged: names of the values that trials log.
    """
    metrics = [api.Metric(SCORE, display_name=f"best {config.objective_name}")]
    metrics += [api.Metric(name, display_name=f"last {name}") for name in logged]
    described = [api.HParam(key, _domain(parameter)) for key, parameter in config.space.items()]
    _write(folder / FILE, [Event(step=0, summary=_tensorboards(api.hparams_config_pb(described, metrics)))])


def write_trial(
    folder: Path,
    number: int,
    config: SearchConfig,
    values: Mapping[str, Any],
    status: str,
    seeds: Sequence[tuple[Mapping[str, Sequence[float]], tuple[float, int] | None]],
    name: str | None = None,
) -> None:
    """A trial's values, curves, score and status, one run for each of its seeds.

    Args:
        folder: the search's folder; the trial's run is `trials/<number>`, with several seeds `trials/<number>/<seed>`.
        number: the trial's.
        config: the search.
        values: dotted key to value, of the keys that are active.
        status: "completed", "stopped" or "failed".
        seeds: each seed's logged values by epoch, with its best objective and the epoch of that, from 1 on.
        name: of the trial's run; None takes its number.
    """
    name = name or f"{number:04d}"
    trial = folder / "trials" / name
    if trial.exists():
        shutil.rmtree(trial)
    shown = {key: _shown(config.space[key], value) for key, value in values.items()}
    now = time.time()
    for seed, (history, best) in enumerate(seeds):
        run = trial / str(seed) if len(seeds) > 1 else trial
        run.mkdir(parents=True)
        events = [Event(step=0, summary=_tensorboards(api.hparams_pb(shown, trial_id=name, start_time_secs=now)))]
        for epoch in range(max(map(len, history.values()), default=0)):
            logs = [(tag, curve[epoch]) for tag, curve in history.items() if epoch < len(curve)]
            events.append(
                Event(step=epoch, summary=Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in logs]))
            )
        if best is not None:
            score, epoch = best
            events.append(Event(step=epoch - 1, summary=Summary(value=[Summary.Value(tag=SCORE, simple_value=score)])))
        end = plugin_data_pb2.SessionEndInfo(status=STATUS[status], end_time_secs=now)
        described = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described, tensor=metadata.NULL_TENSOR)
        events.append(Event(step=0, summary=Summary(value=[value])))
        _write(run / FILE, events)


def _domain(parameter: Choice | Range) -> api.Domain:
    if isinstance(parameter, Range):
        kind = api.IntInterval if parameter.whole else api.RealInterval
        return kind(parameter.min, parameter.max)
    return api.Discrete([_shown(parameter, choice) for choice in parameter.choices])


def _shown(parameter: Choice | Range, value: Any) -> bool | int | float | str:
    """A value of the one type that its column has: a null or a list among numbers would make text of some."""
    if isinstance(parameter, Range):
        return value
    kinds = {type(choice) for choice in parameter.choices}
    if kinds <= {int, float}:
        return float(value)
    if kinds == {bool}:
        return bool(value)
    return value if isinstance(value, str) else json.dumps(value)


def _tensorboards(summary: Any) -> Summary:
    """The same message in the classes that an event is made of."""
    return Summary.FromString(summary.SerializeToString())


def _write(path: Path, events: Iterable[Event]) -> None:
    with tf.io.TFRecordWriter(str(path)) as file:
        for event in [Event(file_version="brain.Event:2"), *events]:
            event.wall_time = time.time()
            file.write(event.SerializeToString())

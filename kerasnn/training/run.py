"""One run, whole: a config in, a trained model and a run folder out."""

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn import devices, figures, losses, metrics, optimizers
from kerasnn.callbacks.best_model import BestModel, save_model
from kerasnn.callbacks.divergence import DivergenceError, StopOnDivergence
from kerasnn.callbacks.health import Health
from kerasnn.callbacks.history import HistoryFile
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.callbacks.probe import Probe
from kerasnn.callbacks.progress import Progress
from kerasnn.callbacks.tensorboard import TensorBoard
from kerasnn.config import RunConfig
from kerasnn.data import Data, fingerprint, load
from kerasnn.files import PARTIAL, alone_in, write_text
from kerasnn.models import build_model, with_preprocessing
from kerasnn.models.lsuv import lsuv
from kerasnn.schedules import more_is_better
from kerasnn.schema import differences
from kerasnn.training.checks import check_scale
from kerasnn.training.compiled import evaluate, fit
from kerasnn.training.record import plan, provenance
from kerasnn.training.state import TrainingState
from kerasnn.training.state_file import StateFolder, decode, encode

logger = logging.getLogger("kerasnn")

PROBE = 256
"""Examples of the fixed batch on which layers are measured."""
FINGERPRINT_BYTES = 16 * 2**20
"""About how much of a part's examples is looked at to know the data again."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gives.

    Args:
        model: the trained model; it takes raw examples, as the user has them.
        history: each logged value by epoch.
        metrics: the final model's values on the test part (on the validation part where there is no test part).
        run_dir: the run folder.
    """

    model: keras.Model = field(repr=False)
    history: dict[str, list[float]] = field(repr=False)
    metrics: dict[str, float]
    run_dir: Path


def train(
    config: RunConfig | None = None,
    run_dir: str | Path | None = None,
    data: Data | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Result:
    """Train the network that a config describes and leave a run folder.

    The folder holds `config.json` (reruns the run), `model.keras` (the final model) and `best.keras` (the best
    epoch's), both taking raw examples, `history.csv`, `result.json`, event files for TensorBoard, and `state/`. A run
    that was killed anywhere goes on when it is called again with the same folder, and ends with the bits that it would
    have ended with; so does one that ended, with more epochs. Ctrl-C and SIGTERM save the state within seconds.

    Args:
        config: the run; None is the default run on the digits.
        run_dir: a folder that is new, empty or the run's; None makes `logs/<time>-<data>-<style>`.
        data: prepared data; None loads what the config describes.
        callbacks: further Keras callbacks.

    Returns:
        The trained model, its history and its metrics.

    Raises:
        ValueError: one line, for a config or data that don't fit together, and for a folder in use or of another run.
        DivergenceError: when the loss or a weight is no longer finite; the folder keeps what was good.
        OSError: one line, where the folder can't be written; the last state is then untouched.
    """
    config = config or RunConfig()
    data = data or load(config.data, config.task)
    _check_fit(config, data)
    class_weight = class_weights(config, data)
    with devices.use(config.devices) as place, _run_folder(run_dir, config, place) as folder:
        write_text(folder / "config.json", config.to_json() + "\n")
        return _train(config, folder, data, callbacks, place, class_weight)


def network_of(config: RunConfig, data: Any) -> keras.Model:
    """The network that a config describes, with its initial weights; it takes prepared examples.

    Args:
        config: the run.
        data: its prepared data, or whatever has their `input_shape` and `outputs`.
    """
    return build_model(
        config.network.model_copy(update={"output_activation": config.output_activation}),
        data.input_shape,
        data.outputs,
        style=config.style,
        seed=config.seed,
        task=config.task,
        regularization=config.regularization,
    )


def compiled_network(config: RunConfig, data: Data) -> keras.Model:
    """The network that a config describes, with its initial weights, compiled; it takes prepared examples.

    Args:
        config: the run.
        data: its prepared data.
    """
    network = network_of(config, data)
    if config.devices.synchronized_batch_norm and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        for layer in network._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    if config.training.lsuv:
        lsuv(network, data.x_train[:PROBE])
    compile_model(network, config)
    return network


def compile_model(model: keras.Model, config: RunConfig, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compile a model with the optimizer, loss and metrics that a config describes.

    Args:
        model: a built model.
        config: the run.
        optimizer: an optimizer to share with another model; None makes a new one.
    """
    model.compile(
        optimizer=optimizer or optimizers.get(config.optimizer.spec),
        loss=losses.get(config.loss_spec),
        metrics=[
            metrics.get(spec, config.task, one_hot=config.data.one_hot, from_logits=config.loss.from_logits)
            for spec in config.metrics
        ],
        jit_compile=config.devices.jit_compile,
    )


def _train(
    config: RunConfig,
    folder: Path,
    data: Data,
    callbacks: Sequence[keras.callbacks.Callback],
    place: devices.Place,
    class_weight: dict[int, float] | None,
) -> Result:
    with place.scope():
        network = compiled_network(config, data)
        model = with_preprocessing(network, data.preprocessing(), data.raw_shape)
        if model is not network:
            compile_model(model, config, optimizer=network.optimizer)
    if config.report.graph:
        figures.save(figures.architecture(network), folder / "network.svg")
    settings = config.training
    learning_rate = LearningRate(
        config.schedule, float(keras.ops.convert_to_numpy(network.optimizer.learning_rate)), settings.plateau
    )
    validation = None if data.x_validation is None else (data.x_validation, data.y_validation)
    monitor = config.monitored(validation=validation is not None)
    history = keras.callbacks.History()
    best = BestModel(folder / "best.keras", monitor, model=model)
    own = [learning_rate, StopOnDivergence(), history]
    if settings.early_stopping is not None:
        own.append(early_stopping(config))
    if settings.save_best:
        own.append(best)
    probe = Probe((data.x_train[:PROBE], data.y_train[:PROBE])) if config.report.health else None
    health = None if probe is None else Health(probe)
    if health is not None:
        own.append(health)
    if config.report.tensorboard:
        own.append(_tensorboard(config, folder, data, learning_rate, probe))
    table = HistoryFile(folder / "history.csv")
    own.append(table)
    progress = Progress(config.report.progress if place.chief else "silent", examples=len(data.x_train))
    every = [*own, *callbacks, progress]
    if settings.save_state and devices.over_processes(place.strategy):
        _hand_out_state(StateFolder(folder / "state"), place)
    state = (
        TrainingState(folder / "state", fingerprint=fingerprint(data, FINGERPRINT_BYTES))
        if settings.save_state
        else None
    )
    arguments = {"callbacks": every} if state is None else state.resume(network, every)
    if progress.style != "silent":
        print(plan(config, data, network, learning_rate, str(place), folder))
        if state is not None and state.resumed:
            print(f"goes on     after {state.epochs:,} epochs")
    start = time.perf_counter()
    status = "failed"
    try:
        # Processes that train together stop together, between two blocks.
        together = devices.over_processes(place.strategy)
        with nullcontext() if state is None or together else state.on_signals():
            while status != "finished":
                try:
                    fit(
                        network,
                        data.x_train,
                        data.y_train,
                        batch_size=settings.batch_size,
                        epochs=settings.epochs,
                        verbose=0,
                        validation_data=validation,
                        class_weight=class_weight,
                        seed=config.seed,
                        compiled=settings.compiled,
                        memory_share=settings.memory_share,
                        **arguments,
                    )
                    status = "finished"
                except DivergenceError as error:
                    if settings.on_nan == "stop" or state is None or state.rollbacks >= settings.rollbacks:
                        raise
                    epochs, rate = state.roll_back(settings.rollback_factor)
                    arguments = state.resume(network, every)
                    logger.warning(
                        "%s; going back to the end of epoch %d with a learning rate of %.3g, time %d of at most %d",
                        *(error, epochs, rate, state.rollbacks, settings.rollbacks),
                    )
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except DivergenceError:
        status = "diverged"
        raise
    finally:
        seconds = time.perf_counter() - start if state is None else state.trained_seconds
        progress.close()
        best.write()
        values: dict[str, float] = {}
        part = "validation" if data.x_test is None else "test"
        if status in ("finished", "interrupted"):
            save_model(model, folder / "model.keras")
        if status == "finished":
            values = _values(network, data, part, settings.batch_size)
        record = {
            "status": status,
            "part": part,
            "metrics": values,
            "epochs": len(table.rows),
            "best": best.summary(),
            "alarms": [] if health is None else [asdict(alarm) for alarm in health.alarms],
            "seconds": round(seconds, 3),
            "parameters": network.count_params(),
            "device": str(place),
            **provenance(),
        }
        write_text(folder / "result.json", json.dumps(record, indent=2) + "\n")
    return Result(model, history.history, values, folder)


def _check_fit(config: RunConfig, data: Data) -> None:
    if data.task != config.task:
        raise ValueError(f"data must be for the run's task {config.task!r}, received data for {data.task!r}")
    config.check_monitors(validation=data.x_validation is not None)
    if config.data.scaling == "none":
        try:
            check_scale(data.x_train, "x_train")
        except ValueError as error:
            raise ValueError(f"data.scaling none leaves x_train as it is, but {error}") from None


def _folder(run_dir: str | Path | None, config: RunConfig) -> Path:
    if run_dir is None:
        run_dir = Path("logs") / f"{datetime.now():%Y%m%d-%H%M%S}-{config.data.name}-{config.style}"
    folder = Path(run_dir)
    if folder.exists() and not (folder / "config.json").exists() and (not folder.is_dir() or any(_kept(folder))):
        raise ValueError(
            f"run_dir must be a new or empty folder, received {folder}, which holds something that is no run"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _run_folder(run_dir: str | Path | None, config: RunConfig, place: devices.Place) -> Iterator[Path]:
    """The run's folder, for this process alone; processes other than the chief write to one that is thrown away."""
    if not place.chief:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = _folder(run_dir, config)
    with alone_in(folder, "run_dir"):
        _begin(folder, config)
        yield folder


def _hand_out_state(states: StateFolder, place: devices.Place) -> None:
    """Give the chief's newest state to the other processes that train with it."""
    tree = states.newest() if place.chief else None
    content = devices.from_chief(place, b"" if tree is None else b"".join(encode(tree)))
    if content and not place.chief:
        states.write(decode(content))


def _kept(folder: Path) -> list[Path]:
    """What a folder holds but for files that a kill left half-written."""
    return [path for path in folder.iterdir() if not path.match(PARTIAL)]


def _begin(folder: Path, config: RunConfig) -> None:
    """See that the folder's run, if it holds one, is this one, and tidy up after a kill."""
    states = StateFolder(folder / "state")
    for path in [*folder.glob(PARTIAL), *states.path.glob(PARTIAL)]:
        path.unlink()
    if not (folder / "config.json").exists():
        return
    if states.files():
        before, after = (each.model_dump(mode="json") for each in (RunConfig.load(folder), config))
        if changed := [key for key in differences(before, after) if not _may_change(key)]:
            raise ValueError(
                f"run_dir must continue the run that it holds, {folder} began with another {', '.join(changed)}; "
                f"give a new folder or the settings of {folder / 'config.json'}"
            )
        if (trained := states.epochs) > config.training.epochs:
            raise ValueError(
                f"training.epochs must be at least the {trained} that {folder} has trained already, "
                f"received {config.training.epochs}"
            )
    elif (folder / "result.json").exists():
        raise ValueError(f"run_dir must be a new or empty folder, received {folder}, which holds a run without a state")
    else:
        # It was killed before it had a state; what it had written is written anew.
        for events in folder.glob("*/events.out.tfevents.*"):
            events.unlink()


def _may_change(key: str) -> bool:
    """Whether a continued run may change a setting."""
    return key == "training.epochs" or key.startswith("report.")


def early_stopping(config: RunConfig) -> keras.callbacks.EarlyStopping:
    """The callback that a config with `training.early_stopping` describes."""
    described = config.training.early_stopping
    assert described is not None
    mode = described.mode
    if mode == "auto":
        mode = "max" if more_is_better(described.monitor) else "min"
    return keras.callbacks.EarlyStopping(**{**described.model_dump(), "mode": mode})


def _tensorboard(
    config: RunConfig, folder: Path, data: Data, learning_rate: LearningRate, probe: Probe | None
) -> TensorBoard:
    shown = (data.x_test, data.y_test) if data.x_validation is None else (data.x_validation, data.y_validation)
    return TensorBoard(
        folder,
        histograms_every=config.report.histograms_every,
        images_every=config.report.images_every,
        graph=config.report.graph,
        config_text=config.to_json(),
        probe=probe,
        validation=None if shown[0] is None else shown,
        class_names=data.class_names,
        image_shape=data.image_shape,
        task=config.task,
        learning_rate=learning_rate,
    )


def class_weights(config: RunConfig, data: Data) -> dict[int, float] | None:
    """Each class's weight as Keras's `fit` takes them, or None."""
    described = config.training.class_weight
    if described is None:
        return None
    classes = 2 if config.task == "binary" else data.outputs
    if described == "balanced":
        labels = data.y_train.argmax(axis=1) if data.y_train.ndim == 2 else data.y_train.astype(int)
        counts = np.bincount(labels, minlength=classes)
        return {label: len(labels) / (classes * count) for label, count in enumerate(counts.tolist()) if count}
    if sorted(described) != list(range(classes)):
        raise ValueError(
            f"training.class_weight must give a weight to each class from 0 to {classes - 1}, "
            f"received {sorted(described)}"
        )
    return dict(described)


def _values(network: keras.Model, data: Data, part: str, batch_size: int) -> dict[str, float]:
    x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
    if x is None:
        return {}
    values = evaluate(network, x, y, batch_size=max(batch_size, 256), verbose=0)
    return {name: float(value) for name, value in values.items()}

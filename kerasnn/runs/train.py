"""One run, whole: a config in, a trained model and a run folder out."""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras

from kerasnn import figures
from kerasnn.callbacks.best_model import BestModel, save_model
from kerasnn.callbacks.divergence import DivergenceError, StopOnDivergence
from kerasnn.callbacks.early_stopping import early_stopping
from kerasnn.callbacks.health import Health
from kerasnn.callbacks.history import HistoryFile
from kerasnn.callbacks.layer_probe import Probe
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.callbacks.progress import Progress
from kerasnn.checkpoint.state_file import StateFolder, decode, encode
from kerasnn.checkpoint.training_state import TrainingState
from kerasnn.config.run import RunConfig
from kerasnn.data.class_weights import class_weights
from kerasnn.data.loading import Data, fingerprint, load_data
from kerasnn.distribute import devices
from kerasnn.engine.checks import check_scale
from kerasnn.engine.fit import evaluate, fit
from kerasnn.files import write_text
from kerasnn.models.building import with_preprocessing
from kerasnn.models.from_config import PROBE, compile_model, compiled_network
from kerasnn.runs.record import plan, provenance
from kerasnn.runs.run_folder import run_folder
from kerasnn.tensorboard.callback import TensorBoard

logger = logging.getLogger("kerasnn")

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
    data = data or load_data(config.data, config.task)
    _check_fit(config, data)
    class_weight = class_weights(config, data)
    with devices.use(config.devices) as place, run_folder(run_dir, config, place) as folder:
        write_text(folder / "config.json", config.to_json() + "\n")
        return _train(config, folder, data, callbacks, place, class_weight)


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
        own.append(early_stopping(settings.early_stopping))
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


def _hand_out_state(states: StateFolder, place: devices.Place) -> None:
    """Give the chief's newest state to the other processes that train with it."""
    tree = states.newest() if place.chief else None
    content = devices.from_chief(place, b"" if tree is None else b"".join(encode(tree)))
    if content and not place.chief:
        states.write(decode(content))


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


def _values(network: keras.Model, data: Data, part: str, batch_size: int) -> dict[str, float]:
    x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
    if x is None:
        return {}
    values = evaluate(network, x, y, batch_size=max(batch_size, 256), verbose=0, return_dict=True)
    return {name: float(value) for name, value in values.items()}

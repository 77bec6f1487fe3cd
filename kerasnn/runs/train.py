"""A run from its config to a trained model and a run folder."""

import json
import logging
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
from matplotlib.figure import Figure

from kerasnn import figures
from kerasnn.callbacks.best_model import BestModel
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
from kerasnn.data.encoding import TableEncoding
from kerasnn.data.loading import Data, fingerprint, load_data
from kerasnn.distribute import devices
from kerasnn.engine.checks import check_scale
from kerasnn.engine.fit import evaluate, fit
from kerasnn.files import write_text
from kerasnn.models.building import with_preprocessing
from kerasnn.models.from_config import PROBE, compile_model, compiled_network
from kerasnn.models.saving import save_model
from kerasnn.runs.choices import choose
from kerasnn.runs.pieces import batch_rows, memory_share, predict_pieces
from kerasnn.runs.record import early_end, plan, provenance
from kerasnn.runs.run_folder import run_folder
from kerasnn.runs.scores import constant_scores, scores
from kerasnn.runs.tracking import MLflowRun, mlflow_run
from kerasnn.tensorboard.callback import TensorBoard
from kerasnn.timings import Timings, phase, timed

logger = logging.getLogger("kerasnn")

FINGERPRINT_BYTES = 16 * 2**20
"""Bytes of each part's examples, about, that identify the data of a run."""


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a run.

    Args:
        model: the trained model, which takes raw examples.
        history: each logged value by epoch.
        metrics: loss and metrics of the final model on the test part, or on the validation part if there is no other.
        run_dir: the run folder.
        scores: further scores on the same part: R² of a regression, AUC and F1 of a classifier.
        constant: the score of the best constant prediction on the same part.

    >>> import tempfile
    >>> settings = {"training": {"epochs": 1, "compiled": "off"}, "report": {"progress": "silent"}}
    >>> result = train(RunConfig.model_validate(settings), tempfile.mkdtemp())
    >>> sorted(result.metrics), result.model.input_shape
    (['accuracy', 'loss'], (None, 8, 8))
    """

    model: keras.Model = field(repr=False)
    history: dict[str, list[float]] = field(repr=False)
    metrics: dict[str, float]
    run_dir: Path
    scores: dict[str, float] = field(default_factory=dict)
    constant: dict[str, float] = field(default_factory=dict)

    def figure(self) -> Figure:
        """The learning curves: every logged value by epoch."""
        return figures.learning_curves(self.history)


def train(
    config: RunConfig | None = None,
    run_dir: str | Path | None = None,
    data: Data | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    given: Collection[str] | None = None,
) -> Result:
    """Train the network that a config describes, and write a run folder.

    The folder holds `config.json` (which repeats the run), `model.keras` (the final model) and `best.keras` (the model
    of the best epoch), both for raw examples, `history.csv`, `result.json`, event files for TensorBoard, and `state/`.
    Call it again with the same folder to resume a run that was killed at any moment, or to train a finished run for
    more epochs: it ends with the bits of an uninterrupted run. Ctrl-C and SIGTERM save the state within seconds.

    Args:
        config: the run; None is the default run on the digits.
        run_dir: a folder that is new, empty or the run's; None makes `logs/<time>-<data>-<style>`.
        data: prepared data; None loads the data that the config describes.
        callbacks: further Keras callbacks.
        given: dotted keys of the config that were given: others may be chosen to suit a table or images, and the plan
            says so. None: the config decides all.

    Returns:
        The trained model, its history and its metrics.

    Raises:
        ValueError: one line, if config and data don't fit together, or the folder is in use or holds another run.
        DivergenceError: the loss or a weight is not finite; the folder keeps the last finite state.
        OSError: one line, if the folder can't be written; the last state is then untouched.

    >>> import tempfile
    >>> settings = {"training": {"epochs": 1, "compiled": "off"}, "report": {"progress": "silent", "health": False}}
    >>> result = train(RunConfig.model_validate(settings), tempfile.mkdtemp())
    >>> len(result.history["loss"]), sorted(path.name for path in result.run_dir.glob("*.keras"))
    (1, ['best.keras', 'model.keras'])
    """
    config = config or RunConfig()
    with timed() as timings:
        with phase("data"):
            data = data or load_data(config.data, config.task)
            config = config.with_task(data.task)
            config, chosen = choose(config, data, given)
            _check_fit(config, data)
            class_weight = class_weights(config, data)
        with devices.use(config.devices) as placement, run_folder(run_dir, config, placement) as folder:
            write_text(folder / "config.json", config.to_json() + "\n")
            with phase("build"):
                run = _Run(config, folder, data, class_weight, placement, chosen)
            run.timings = timings
            with mlflow_run(config, folder) if placement.chief else nullcontext() as run.tracker:
                result = run.train(callbacks)
        if config.report.timings and placement.chief:
            print(f"seconds     {timings}")
    return result


class _Run:
    """A run in its folder, from the network to `result.json`."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        data: Data,
        class_weight: dict[int, float] | None,
        placement: devices.Placement,
        chosen: Sequence[str] = (),
    ) -> None:
        self.chosen = chosen
        self.config, self.folder, self.data, self.placement = config, folder, data, placement
        self.class_weight = class_weight
        self.over_processes = devices.over_processes(placement.strategy)
        self.status = "failed"
        self.scores: dict[str, float] = {}
        self.constant: dict[str, float] = {}
        with placement.scope():
            self.network = compiled_network(config, data)
            self.model = with_preprocessing(self.network, data.preprocessing(), data.raw_shape)
            if self.model is not self.network:
                compile_model(self.model, config, optimizer=self.network.optimizer)
        rate = float(keras.ops.convert_to_numpy(self.network.optimizer.learning_rate))
        self.learning_rate = LearningRate(config.schedule, rate, config.training.plateau)
        has_validation = data.x_validation is not None
        self.validation = (data.x_validation, data.y_validation) if has_validation else None
        self.history = keras.callbacks.History()
        self.table = HistoryFile(folder / "history.csv")
        monitor, mode = config.monitored(validation=has_validation), config.training.monitor_mode
        self.best = BestModel(folder / "best.keras", monitor, mode, model=self.model)
        rows = slice(batch_rows(data.input_shape, PROBE))
        self.probe = Probe((data.x_train[rows], data.y_train[rows])) if config.report.health else None
        self.health = None if self.probe is None else Health(self.probe)
        self.progress = Progress(config.report.progress if placement.chief else "silent", examples=len(data.x_train))
        self.state: TrainingState | None = None
        self.tracker: MLflowRun | None = None
        self.timings = Timings()

    def train(self, extra_callbacks: Sequence[keras.callbacks.Callback]) -> Result:
        """Train with the run's callbacks and extra ones, and write `result.json` however training ends."""
        callbacks = [*self._callbacks(), *extra_callbacks, self.progress]
        arguments = self._resume(callbacks)
        if self.progress.style != "silent":
            if self.data.about:
                print(self.data.about)
            device = str(self.placement)
            print(plan(self.config, self.data, self.network, self.learning_rate, device, self.folder, self.chosen))
            if self.state is not None and self.state.resumed:
                print(f"resumes     after {self.state.epochs:,} epochs")
        start = time.perf_counter()
        try:
            # Processes that train together stop together, between two blocks of steps.
            with nullcontext() if self.state is None or self.over_processes else self.state.on_signals():
                self._fit(callbacks, arguments)
            self.status = "finished"
        except KeyboardInterrupt:
            self.status = "interrupted"
            raise
        except DivergenceError:
            self.status = "diverged"
            raise
        finally:
            seconds = time.perf_counter() - start if self.state is None else self.state.trained_seconds
            with phase("results"):
                metrics = self._finish(seconds)
        if self.progress.style != "silent" and (line := early_end(self.config, self.history.history)):
            print(line)
        return Result(self.model, self.history.history, metrics, self.folder, self.scores, self.constant)

    def _callbacks(self) -> list[keras.callbacks.Callback]:
        settings, report = self.config.training, self.config.report
        board = _tensorboard(self.config, self.folder, self.data, self.learning_rate, self.probe)
        return [
            self.learning_rate,
            StopOnDivergence(),
            self.history,
            *([early_stopping(settings.early_stopping)] if settings.early_stopping is not None else []),
            *([self.best] if settings.save_best else []),
            *([self.health] if self.health is not None else []),
            *([board] if report.tensorboard else []),
            *([self.tracker] if self.tracker is not None else []),
            self.table,
        ]

    def _resume(self, callbacks: list[keras.callbacks.Callback]) -> dict[str, Any]:
        """Arguments for `fit` to resume from the folder's newest state, or to begin."""
        if not self.config.training.save_state:
            return {"callbacks": callbacks}
        if self.over_processes:
            _send_state(StateFolder(self.folder / "state"), self.placement)
        self.state = TrainingState(
            self.folder / "state",
            # A rollback must not depend on the time that epochs take.
            every_epoch=self.config.training.on_nan == "rollback",
            fingerprint=fingerprint(self.data, FINGERPRINT_BYTES),
        )
        return self.state.resume(self.network, callbacks)

    def _fit(self, callbacks: list[keras.callbacks.Callback], arguments: dict[str, Any]) -> None:
        """Train to the end; where training diverges, roll back to the last state if the config allows it."""
        settings, state = self.config.training, self.state
        while True:
            try:
                fit(
                    self.network,
                    self.data.x_train,
                    self.data.y_train,
                    batch_size=settings.batch_size,
                    epochs=settings.epochs,
                    verbose=0,
                    validation_data=self.validation,
                    class_weight=self.class_weight,
                    seed=self.config.seed,
                    compiled=settings.compiled,
                    memory_share=memory_share(self.data.x_train, settings.memory_share),
                    **arguments,
                )
                return
            except DivergenceError as error:
                if settings.on_nan == "stop" or state is None or state.rollbacks >= settings.rollbacks:
                    raise
                epochs, rate = state.roll_back(settings.rollback_factor)
                arguments = state.resume(self.network, callbacks)
                logger.warning(
                    "%s; rolling back to the end of epoch %d with a learning rate of %.3g, rollback %d of at most %d",
                    *(error, epochs, rate, state.rollbacks, settings.rollbacks),
                )

    def _finish(self, seconds: float) -> dict[str, float]:
        """Write the models and `result.json`; return the final metrics."""
        self.progress.close()
        self.best.write()
        if self.config.report.graph:
            # Not before training, which it would delay.
            figures.save(figures.architecture(self.network), self.folder / "network.svg")
        metrics: dict[str, float] = {}
        part = "validation" if self.data.x_test is None else "test"
        if self.status in ("finished", "interrupted"):
            save_model(self.model, self.folder / "model.keras")
        if self.status == "finished":
            metrics = self._metrics(part)
            if self.tracker is not None:
                self.tracker.log_results(metrics, len(self.table.rows))
        record = {
            "status": self.status,
            "part": part,
            "class_names": self.data.class_names,
            "about": self.data.about,
            "learning_rate": self.learning_rate.learning_rate,
            "metrics": metrics,
            "scores": self.scores,
            "constant": self.constant,
            "epochs": len(self.table.rows),
            "best": self.best.summary(),
            "alarms": [] if self.health is None else [asdict(alarm) for alarm in self.health.alarms],
            "seconds": round(seconds, 3),
            "timings": {name: round(each, 3) for name, each in self.timings.seconds().items()},
            "parameters": self.network.count_params(),
            "device": str(self.placement),
            **provenance(),
        }
        write_text(self.folder / "result.json", json.dumps(record, indent=2) + "\n")
        return metrics

    def _metrics(self, part: str) -> dict[str, float]:
        """Loss and metrics on a part, with scaled targets in their own units."""
        x, y = getattr(self.data, f"x_{part}"), getattr(self.data, f"y_{part}")
        if x is None:
            return {}
        network, preparation = self.network, self.data.preparation
        if isinstance(preparation, TableEncoding) and preparation.target_scale:
            with self.placement.scope():
                rescaling = keras.layers.Rescaling(preparation.target_scale, preparation.target_center, dtype="float32")
                network = keras.Sequential([keras.Input(self.data.input_shape), self.network, rescaling])
                compile_model(network, self.config)
            y = preparation.original_targets(y)
        batch_size = max(self.config.training.batch_size, batch_rows(x.shape[1:], 256))
        options: dict[str, Any] = {"verbose": 0, "return_dict": True, "memory_share": memory_share(x)}
        values = evaluate(network, x, y, batch_size, **options)
        outputs = predict_pieces(network, x, batch_size)
        self.scores, self.constant = scores(self.config, y, outputs), constant_scores(self.config, y)
        return {name: float(value) for name, value in values.items()}


def _check_fit(config: RunConfig, data: Data) -> None:
    config.check_monitors(validation=data.x_validation is not None)
    if config.data.scaling == "none":
        try:
            check_scale(data.x_train, "x_train")
        except ValueError as error:
            raise ValueError(f"data.scaling none leaves x_train as it is, but {error}") from None


def _send_state(states: StateFolder, placement: devices.Placement) -> None:
    """Send the chief's newest state to the other processes that train with it."""
    tree = states.newest() if placement.chief else None
    content = devices.from_chief(placement, b"" if tree is None else b"".join(encode(tree)))
    if content and not placement.chief:
        states.write(decode(content))


def _tensorboard(
    config: RunConfig, folder: Path, data: Data, learning_rate: LearningRate, probe: Probe | None
) -> TensorBoard:
    held_out = (data.x_test, data.y_test) if data.x_validation is None else (data.x_validation, data.y_validation)
    return TensorBoard(
        folder,
        histograms_every=config.report.histograms_every,
        images_every=config.report.images_every,
        graph=config.report.graph,
        config_text=config.to_json(),
        probe=probe,
        validation=None if held_out[0] is None else held_out,
        class_names=data.class_names,
        image_shape=data.image_shape,
        task=config.known_task,
        learning_rate=learning_rate,
    )

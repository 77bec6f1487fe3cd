"""keras-tuner's tuners with fused trials, a journal and exact resume."""

import dataclasses
import inspect
import json
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerasnn.config.schema import differences, one_of
from kerasnn.files import replacing
from kerasnn.fused.building import set_drawn_seed
from kerasnn.keras_private import tuner_errors, tuner_utils
from kerasnn.search.execution import Execution, fit_executions
from kerasnn.search.journal import Journal, read_journal, results_by_number
from kerasnn.search.model_config import ModelSearchConfig
from kerasnn.search.model_space import explore
from kerasnn.search.oracle import GridOracle, first_rungs, quiet
from kerasnn.search.trial import Proposal, Trial
from kerasnn.search.tuner_folder import TunerFolder, completed_trial, describe, trial_of

logger = logging.getLogger("kerasnn")

FUSED_ARGUMENTS = frozenset(
    (
        *("x", "y", "batch_size", "epochs", "verbose", "callbacks", "validation_split", "validation_data", "shuffle"),
        *("class_weight", "sample_weight", "initial_epoch", "validation_batch_size", "validation_freq"),
    )
)
"""Arguments of `fit` with which trials train together."""


class FusedTuner(keras_tuner.Tuner):
    """What the tuners of this package add to keras-tuner's.

    Trials are proposed in batches and trained together by `fit_fused`. The journal in the project's folder holds every
    proposal and result; a search that was killed proposes anew from its seed and answers from the journal, also when
    the tuner is made. Weights, the order of examples and proposals follow from the seed.

    Args:
        trials_at_once: trials proposed before the result of the first of them is known; None takes
            `default_trials_at_once`.
    """

    default_trials_at_once = 64

    def __init__(self, *arguments: Any, trials_at_once: int | None = None, **options: Any) -> None:
        if trials_at_once is not None and trials_at_once < 1:
            raise ValueError(f"trials_at_once must be at least 1; received {trials_at_once}")
        given = inspect.signature(super().__init__).bind(*arguments, **options).arguments
        further = given.get("kwargs", {})
        folder = Path(further.get("directory") or ".") / (further.get("project_name") or "untitled_project")
        journal = folder / "journal.jsonl"
        entries = read_journal(journal) if journal.exists() and not further.get("overwrite") else []
        if entries and given.get("seed") is None:
            # Without a seed keras-tuner draws one, with which this search has begun.
            options["seed"] = entries[0]["tuner"]["seed"]
        super().__init__(*arguments, **options)
        self.trials_at_once = trials_at_once or self.default_trials_at_once
        # keras-tuner's files are never read: unlike them, a journal and a replay survive kills.
        self.oracle.save = self.oracle._save_trial = lambda *_: None
        self.oracle.verbose = 0
        if isinstance(self.oracle, keras_tuner.oracles.GridSearchOracle):
            self.oracle.__class__ = GridOracle
        if self.trials_at_once > 1:
            explore(self.hypermodel, self.oracle)
        self._journal_file = journal
        self._asked = 0
        self._batch: list[tuple[int, Any]] = []
        self._proposed: dict[int, dict[str, Any]] = {}
        self._results: dict[int, dict[str, Any]] = {}
        # Hyperparameters that trials of this process had before they were built, by number.
        self._sizes: dict[int, int] = {}
        # Logged values of each training of trials that have just ended, by number.
        self._histories: dict[int, list[Any]] = {}
        self._replay(entries)

    def save(self) -> None:
        """Nothing: the journal is on disk already."""

    def reload(self) -> None:
        """Nothing: the journal is read when the tuner is made."""

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Search, or go on with a search.

        Args:
            fit_args, fit_kwargs: arguments of `keras.Model.fit`.

        Raises:
            RuntimeError: where every trial failed.
        """
        bound = self._bound(fit_args, fit_kwargs)
        epochs, style = bound.get("epochs", 1), "auto" if bound.get("verbose", "auto") else "silent"
        self._journal_file.parent.mkdir(parents=True, exist_ok=True)
        with Journal(self._journal_file) as journal:
            if not journal.entries:
                journal.append([{"tuner": self._described(), "keras_tuner": version("keras-tuner")}])
            ended = {number: trial_of(entry, self._proposed[number]) for number, entry in self._results.items()}
            folder = TunerFolder(self._journal_file.parent, self._config(epochs, style), ended)
            self.on_search_begin()
            while self._batch or self._ask(self.trials_at_once):
                self._record(journal)
                missing = [(number, trial) for number, trial in self._batch if number not in self._results]
                for outcomes in self._trained(missing, fit_args, fit_kwargs):
                    self._results |= outcomes
                    last = len(outcomes) - 1
                    journal.append({**entry, "left": last - at} for at, entry in enumerate(outcomes.values()))
                batch = [number for number, _ in missing]
                self._tell()
                ended = {number: trial_of(self._results[number], self._proposed[number]) for number in batch}
                folder.add(self._config(epochs, style), ended, self._histories)
                self._histories.clear()
            folder.close()
            self.on_search_end()
        errors = [entry.get("error") or "" for entry in self._results.values()]
        if errors and all(errors):
            raise RuntimeError(f"every trial failed, the last one with {errors[-1].strip().splitlines()[-1]}")

    def _config(self, epochs: int, progress: str) -> ModelSearchConfig:
        """The search as it is described in its folder."""
        build = getattr(self.hypermodel, "_build", self.hypermodel)
        name = getattr(build, "__name__", type(build).__name__)
        return describe(self.oracle, name, self.executions_per_trial, epochs, progress)

    # Proposals and results

    def _described(self) -> dict[str, Any]:
        """What a search must have in common with the one that it goes on with."""
        objective = self.oracle.objective
        names = [each.name for each in getattr(objective, "objectives", [objective])]
        settings: dict[str, Any] = {"class": type(self).__name__, "seed": self.oracle.seed, "objective": names}
        return settings | {"executions_per_trial": self.executions_per_trial, "space": len(self._space_at_start)}

    def _replay(self, entries: Sequence[dict[str, Any]]) -> None:
        """Ask the oracle for what it proposed before, and tell it the results."""
        self._space_at_start = list(self.oracle.get_space().space)
        if not entries:
            return
        if changed := differences(entries[0]["tuner"], self._described()):
            raise ValueError(
                f"the project in {self._journal_file.parent} began with another {', '.join(changed)}: give a new "
                "project_name, or overwrite=True"
            )
        self._proposed = {entry["proposal"]: entry for entry in entries if "proposal" in entry}
        self._results = results_by_number(entries)
        while self._asked in self._proposed:
            # A crash may have left only the first of a batch's proposals.
            self._ask(self._proposed[self._asked]["batch"])
            self._check()
            if not all(number in self._results for number, _ in self._batch):
                break
            self._tell()

    def _ask(self, count: int) -> bool:
        """Begin a batch; returns whether there is one."""
        if self.oracle.max_trials:
            count = min(count, self.oracle.max_trials - len(self.oracle.trials) + len(self.oracle._retry_queue))
        count = min(count, first_rungs(self.oracle) or count)
        with quiet(self.oracle):
            while len(self._batch) < count:
                trial = self.oracle.create_trial(f"{self._asked}")
                if trial.status != "RUNNING":
                    break
                self._batch.append((self._asked, trial))
                self._asked += 1
        return bool(self._batch)

    def _entries(self) -> dict[int, dict[str, Any]]:
        """The journal's entries of the batch, by number."""
        entries = {}
        for number, trial in self._batch:
            values = dict(trial.hyperparameters.values)
            proposal = Proposal(number, values, epochs=values.get("tuner/epochs", 0))
            entries[number] = {**proposal.to_json(), "trial": trial.trial_id, "batch": len(self._batch)}
        return entries

    def _check(self) -> None:
        for number, entry in self._entries().items():
            before = self._proposed.get(number)
            if before is not None and (changed := differences(before, entry)):
                began = read_journal(self._journal_file)[0]["keras_tuner"]
                raise ValueError(
                    f"the oracle must propose what it proposed before, trial {number} has another "
                    f"{', '.join(changed)}; the search began with keras-tuner {began}"
                )

    def _record(self, journal: Journal) -> None:
        """Add the batch to the journal."""
        self._check()
        new = {number: entry for number, entry in self._entries().items() if number not in self._proposed}
        self._proposed |= new
        journal.append(new.values())

    def _tell(self) -> None:
        """End the batch: report its results in the order of its proposals."""
        batch, self._batch = self._batch, []
        for number, trial in batch:
            entry = self._results[number]
            if "space" in entry:
                # What the model asked for when it was built is a part of the space from here on.
                trial.hyperparameters = keras_tuner.HyperParameters.from_config(entry["space"])
            failed = "INVALID" if entry.get("invalid") else "FAILED"
            trial.status = "COMPLETED" if entry["status"] == "completed" else failed
            trial.message = entry.get("error")
            with quiet(self.oracle):
                if trial.status == "COMPLETED":
                    metrics = entry["metrics"] | dict.fromkeys(entry.get("not_finite", ()), math.nan)
                    self.oracle.update_trial(trial.trial_id, metrics, step=entry["epoch"] - 1)
                self.on_trial_end(trial)

    # Training

    def _trained(
        self, trials: Sequence[tuple[int, Any]], arguments: Any, options: Any
    ) -> Iterator[dict[int, dict[str, Any]]]:
        """The results of trials, by number, as they end."""
        bound = self._bound(arguments, options)
        if reason := self._obstacle(bound):
            if trials:
                logger.warning("trials train one at a time: %s", reason)
            for number, trial in trials:
                yield {number: self._one_at_a_time(number, trial, arguments, options)}
            return
        # Trials of a batch that continue to the same epoch train together.
        groups: dict[Any, list[tuple[int, Any]]] = {}
        for number, trial in trials:
            values = trial.hyperparameters.values
            groups.setdefault((values.get("tuner/initial_epoch"), values.get("tuner/epochs")), []).append(
                (number, trial)
            )
        for (first, last), group in groups.items():
            own = dict(bound) if last is None else {**bound, "initial_epoch": first, "epochs": last}
            yield self._together(group, own)

    def _bound(self, arguments: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `fit` by name; those of the user's own `fit` may be others, whose names alone are known."""
        try:
            bound = inspect.signature(keras.Model.fit).bind(None, *arguments, **options).arguments
        except TypeError:
            if type(self.hypermodel).fit is keras_tuner.HyperModel.fit:
                raise
            return dict(options)
        return {name: value for name, value in bound.items() if name != "self"}

    def _obstacle(self, options: Mapping[str, Any]) -> str | None:
        """Why trials are trained as keras-tuner trains them."""
        hypermodel = type(self.hypermodel)
        if hypermodel.fit is not keras_tuner.HyperModel.fit:
            return f"{hypermodel.__name__}.fit is the user's own"
        if type(self).run_trial not in (keras_tuner.Tuner.run_trial, keras_tuner.Hyperband.run_trial):
            return f"{type(self).__name__}.run_trial is the user's own"
        if self.distribution_strategy is not None:
            return "a distribution_strategy is given"
        further = [name for name, value in options.items() if name not in FUSED_ARGUMENTS and value is not None]
        return f"fit is given {', '.join(further)}" if further else None

    def _one_at_a_time(self, number: int, trial: Any, arguments: Any, options: Any) -> dict[str, Any]:
        set_drawn_seed(self.seed_of(trial, 0))
        return self._result(number, trial, 1, lambda: self.run_trial(trial, *arguments, **dict(options)))

    def _together(self, trials: Sequence[tuple[int, Any]], options: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """Train trials in as few programs as they allow."""
        start = time.perf_counter()
        executions: dict[int, Any] = {}
        for number, trial in trials:
            self._sizes[number] = len(trial.hyperparameters.space)
            try:
                executions[number] = [self._execution(trial, at, options) for at in range(self.executions_per_trial)]
            except tuner_errors.FatalError:
                raise
            except Exception as error:
                executions[number] = error
        built = [one for own in executions.values() if isinstance(own, list) for one in own]
        fit_executions(built, options, self.trials_at_once * self.executions_per_trial)
        seconds = (time.perf_counter() - start) / len(trials)
        results = {}
        for number, trial in trials:
            results[number] = self._result(number, trial, seconds, partial(_histories, executions[number]))
            if results[number]["status"] == "completed":
                self._keep_weights(trial, executions[number])
        return results

    def _execution(self, trial: Any, index: int, options: Mapping[str, Any]) -> Execution:
        """A training of a trial, given the number of its trainings before it."""

        def make() -> keras.Model:
            set_drawn_seed(self.seed_of(trial, index))
            return self.build(trial)

        def callbacks() -> list[Any]:
            copies = self._deepcopy_callbacks(list(options.get("callbacks") or ()))
            self._configure_tensorboard_dir(copies, trial, index)
            return copies

        return Execution(make, callbacks, self.oracle.objective, self.oracle.seed + index)

    def _result(self, number: int, trial: Any, seconds: float, run: Callable[[], Any]) -> dict[str, Any]:
        """The journal's entry of what a trial's training returned or raised."""
        objective = self.oracle.objective
        self._sizes.setdefault(number, len(trial.hyperparameters.space))
        start = time.perf_counter()
        values, about = dict(trial.hyperparameters.values), dict[str, Any]()
        try:
            results = run()
            trained = results if isinstance(results, list) else [results]
            histories = [each.history for each in trained if isinstance(each, keras.callbacks.History)]
            for name in [each.name for each in getattr(objective, "objectives", [objective])] if histories else ():
                if name not in histories[0]:
                    raise ValueError(one_of("objective", name, histories[0]))
            tuner_utils.validate_trial_results(results, objective, "HyperModel.fit()")
            metrics = tuner_utils.convert_to_metrics_dict(results, objective)
            step = int(tuner_utils.get_best_step(results, objective))
            self.oracle._check_objective_found(metrics)
        except tuner_errors.FatalError:
            raise
        except Exception as error:
            about["invalid"] = not isinstance(error, tuner_errors.FailedTrialError)
            ended = Trial(number, values, "failed", error="".join(traceback.format_exception(error)))
        else:
            numbers = {name: float(value) for name, value in metrics.items()}
            finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
            about["not_finite"] = [name for name in numbers if name not in finite]
            self._histories[number] = histories
            ended = completed_trial(number, values, finite, step + 1, histories, objective)
        seconds = round(max(seconds, time.perf_counter() - start), 3)
        entry = {**dataclasses.replace(ended, seconds=seconds).to_json(), **about}
        if len(trial.hyperparameters.space) > self._sizes[number]:
            entry |= {"values": dict(trial.hyperparameters.values), "space": trial.hyperparameters.get_config()}
        return entry

    def seed_of(self, trial: Any, execution: int) -> int:
        """The seed of a model's initial weights."""
        return int(np.random.SeedSequence([self.oracle.seed, int(trial.trial_id), execution]).generate_state(1)[0] >> 1)

    def build(self, trial: Any) -> keras.Model:
        """The model of a trial, as keras-tuner builds it, without clearing the session of the others."""
        model = self._build_hypermodel(trial.hyperparameters)
        if not isinstance(model, keras.Model):
            raise tuner_errors.FatalTypeError(f"build must return a Keras model; received {type(model).__name__}")
        size = model.count_params() if model.built else 0
        if self.max_model_size and size > self.max_model_size:
            raise tuner_errors.FailedTrialError(f"Oversized model: {size} parameters. Skip model.")
        return model

    # Models

    def weights_file(self, trial_id: str) -> Path:
        """Where the weights of a trial's best epoch are."""
        return Path(self.get_trial_dir(trial_id)) / "best_weights.npz"

    def _keep_weights(self, trial: Any, executions: Sequence[Execution]) -> None:
        """Save the weights of the best epoch of all executions."""
        best = executions[0]
        for one in executions[1:]:
            if self.oracle.objective.better_than(one.best_value, best.best_value):
                best = one
        if best.best.weights is not None:
            config = json.dumps(best.model.get_build_config())
            with replacing(self.weights_file(trial.trial_id)) as path, path.open("wb") as file:
                np.savez(file, *best.best.weights, config=np.frombuffer(config.encode(), np.uint8))

    def restore(self, model: keras.Model, trial_id: str) -> None:
        """Give a model the weights that a trial kept."""
        with np.load(self.weights_file(trial_id), allow_pickle=False) as kept:
            config = json.loads(kept["config"].tobytes().decode())
            if config and not model.built:
                model.build_from_config(config)
            model.set_weights([kept[f"arr_{at}"] for at in range(len(kept.files) - 1)])

    def load_model(self, trial: Any) -> keras.Model:
        """The model of a trial with the weights of its best epoch."""
        if not self.weights_file(trial.trial_id).exists():
            return super().load_model(trial)
        model = keras_tuner.Tuner._build_hypermodel(self, trial.hyperparameters)
        self.restore(model, trial.trial_id)
        return model


def _histories(executions: Any) -> list[keras.callbacks.History]:
    """The histories of a trial's executions.

    Raises:
        Exception: what ended the first that failed.
    """
    results = [one.result for one in executions] if isinstance(executions, list) else [executions]
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results

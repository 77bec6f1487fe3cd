"""The search over the models that a user's function builds."""

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerasnn.config.schema import one_of
from kerasnn.files import dated_path
from kerasnn.fused.fit import fit_fused
from kerasnn.models.saving import save_model
from kerasnn.search.beginning import Table, read_beginning
from kerasnn.search.cluster import Cluster, check_sendable
from kerasnn.search.model_config import ModelSearchConfig
from kerasnn.search.model_space import Build, find_space, hyperparameters_of
from kerasnn.search.model_trainer import Make, ModelTrainer
from kerasnn.search.oracle_config import Pbt
from kerasnn.search.progress import SearchProgress
from kerasnn.search.result import SearchResult
from kerasnn.search.run_search import search_subject
from kerasnn.search.subject import ScoreToBeat, Train
from kerasnn.search.trial import Trial

_OWN = (
    "models",
    "epochs",
    "callbacks",
    "initial_epoch",
    "validation_freq",
    "seed",
    "on_epoch",
    "max_members",
    "verbose",
)
FIT_ARGUMENTS = [name for name in inspect.signature(fit_fused).parameters if name not in (*_OWN, "x", "y")]
"""Further arguments of `fit` that all trials share."""


def search_models(
    build: Build | keras_tuner.HyperModel,
    x: Any,
    y: Any = None,
    *,
    epochs: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    search_dir: str | Path | None = None,
    oracle: Any = "random",
    trials: int = 128,
    objective: Any = "val_loss",
    seeds_per_trial: int = 1,
    stopper: Any = None,
    seed: int = 0,
    trials_at_once: int | None = None,
    keep_best: int = 1,
    workers: int = 1,
    cluster: str | None = None,
    progress: str = "auto",
    tensorboard: bool = True,
    initial: Table | None = None,
    earlier: str | Path | None = None,
    **fit: Any,
) -> SearchResult:
    """Search over the compiled models that a function builds of hyperparameters, or continue the search of a folder.

    The function is called to find the space, and with each trial's values to build its model. Trials of one structure
    train together by `kerasnn.fit_fused`. The folder holds what a config's search leaves in its folder, with
    `best_values.json` in the place of `best_config.json`; it is continued likewise.

    Args:
        build: a function of `keras_tuner.HyperParameters` that returns a compiled model, or a `HyperModel`.
        x, y: the training examples, as in `fit`.
        epochs: epochs of a trial that nothing ends before.
        callbacks: Keras callbacks; each training gets copies.
        search_dir: a folder that is new, empty or a search's; None makes `logs/<time>-search-<function>`.
        objective: as in `SearchConfig`, or keras-tuner's `Objective`.
        oracle, trials, seeds_per_trial, stopper, seed, trials_at_once, keep_best: as in `SearchConfig`. The
            seed decides initial weights and orders of examples too; the n-th training of each trial has seed + n.
        workers, cluster: as in `SearchConfig`. The function, the examples and the callbacks are sent by cloudpickle:
            modules that they need must be found on each machine, and callbacks change copies of what they hold.
        progress, tensorboard: as in `ReportConfig`.
        initial: values to try first, by name: a list of dicts, a data frame, a CSV file, or an earlier search's
            `trials.csv`. One that is missing keeps its default.
        earlier: folder of an earlier search with the same objectives: the oracle learns from its trials, which are not
            trained again.
        fit: further arguments of `fit`: `batch_size`, `validation_data`, `validation_split`, `shuffle`,
            `class_weight`, `sample_weight`, `validation_batch_size`; and `checks` of `kerasnn.fit`.

    Returns:
        The ranked trials, with `best_models()`.

    Raises:
        TypeError: for an unknown argument.
        ValueError: one line, for settings, a space or a folder that can't be used, an objective on validation examples
            where there are none, and where every trial failed.

    >>> import tempfile
    >>> def build(hp):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    ...     model.compile(keras.optimizers.SGD(hp.Choice("rate", [0.0, 0.125])), "mse")
    ...     return model
    >>> folder = tempfile.mkdtemp()
    >>> found = search_models(build, np.ones((4, 2)), np.ones(4), objective="loss", epochs=2, oracle="grid",
    ...     search_dir=folder, progress="silent")
    >>> found.best.values, found.best.score
    ({'rate': 0.125}, 0.0625)
    """
    if isinstance(build, keras_tuner.HyperModel):
        if type(build).fit is not keras_tuner.HyperModel.fit:
            raise ValueError(
                f"search trains the models itself, {type(build).__name__}.fit is the user's own: use kerasnn.tuners"
            )
        name, build = type(build).__name__, build.build
    else:
        name = getattr(build, "__name__", type(build).__name__)
    if isinstance(objective, keras_tuner.Objective):
        objective = {"name": objective.name, "direction": objective.direction}
    config = ModelSearchConfig.model_validate(
        {
            **{"build": name, "space": find_space(build), "epochs": epochs, "oracle": oracle, "trials": trials},
            **{"objective": objective, "seeds_per_trial": seeds_per_trial, "stopper": stopper, "seed": seed},
            **{"trials_at_once": trials_at_once, "keep_best": keep_best, "fit": plain_arguments(fit)},
            **{"workers": workers, "cluster": cluster, "progress": progress, "tensorboard": tensorboard},
        }
    )
    subject = model_subject(config, _Builder(build, name, config.space), x, y, callbacks, fit)
    beginning = read_beginning(initial, earlier, config)
    return search_subject(subject, search_dir or dated_path("search", name), beginning)


def model_subject(
    config: ModelSearchConfig, make: Make, x: Any, y: Any, callbacks: Sequence[Any], fit: Mapping[str, Any]
) -> "ModelSubject":
    """The subject of a search.

    Args:
        config: the search.
        make: builds the model of a trial's values.
        x, y, callbacks, fit: as in `search_models`.

    Raises:
        TypeError: for an unknown argument, and for examples that can be read only once.
        ValueError: one line, for an objective on validation examples where there are none.
    """
    for key in fit:
        if key not in FIT_ARGUMENTS:
            raise TypeError(one_of("a further argument", key, FIT_ARGUMENTS))
    for name, given in (("x", x), ("validation_data", fit.get("validation_data"))):
        if isinstance(given, Iterator):
            raise TypeError(f"{name} must be readable for each trial, as arrays or tf.data; received a generator")
    validated = fit.get("validation_data") is not None or fit.get("validation_split")
    for name, _ in config.objectives:
        # A callback of the user's own may log it.
        if name.startswith("val_") and not validated and not callbacks:
            raise ValueError(f"objective {name!r} needs validation_data or validation_split; received neither")
    if config.has_workers:
        check_sendable(build=make, x=x, y=y, callbacks=callbacks, **fit)
    return ModelSubject(config, make, {"x": x, "y": y, "callbacks": callbacks, **fit})


def plain_arguments(fit: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `fit` that a config holds."""
    return {key: value for key, value in fit.items() if value is None or isinstance(value, bool | int | float | str)}


class ModelSubject:
    """The models that a function builds.

    Args:
        config: the search.
        make: builds the model of a trial's values.
        arguments: arguments of `fit` for all trials.
    """

    def __init__(self, config: ModelSearchConfig, make: Make, arguments: Mapping[str, Any]) -> None:
        self.config, self.build = config, make
        self.fingerprint = _fingerprint([arguments.get(key) for key in ("x", "y", "sample_weight", "validation_data")])
        self.logged: Sequence[str] = [config.objective_name]
        self._arguments = arguments
        self._trainer = ModelTrainer(config, make, arguments)

    def population(self) -> tuple[Make, Mapping[str, Any]]:
        """A function that builds the model of a trial's values from the search's seed, and what `fit` gets.

        Raises:
            ValueError: one line, where there are callbacks, which a population has no call for.
        """
        if self._arguments["callbacks"]:
            raise ValueError("callbacks must be none for pbt: models are copied between calls")

        def build(values: Mapping[str, Any]) -> keras.Model:
            keras.utils.set_random_seed(self.config.seed)
            return self.build(values)

        return build, {name: value for name, value in self._arguments.items() if name != "callbacks"}

    @contextmanager
    def training(self, progress: SearchProgress, score_to_beat: ScoreToBeat) -> Iterator[Train]:
        """A context that returns the `Train`: of this process, or of workers."""
        if not self.config.has_workers:
            yield self._trainer.train
            return
        make = partial(ModelTrainer, self.config, self.build, self._arguments)
        with Cluster(self.config, make, lambda proposal: proposal.before, progress) as cluster:
            yield partial(cluster.train, score_to_beat=score_to_beat)

    def save(self, trial: Trial, seed: int, weights: list[np.ndarray], path: Path) -> None:
        """Save the model of a trial that has just ended; of one that Keras can't save, the weights."""
        if isinstance(self.config.oracle, Pbt) or self.config.has_workers:
            model = self._built(trial, seed)
        else:
            model = self._trainer.model(trial.number, seed)
        last = model.get_weights()
        model.set_weights(weights)
        try:
            save_model(model, path.with_name(f"{path.name}.keras"))
        except (NotImplementedError, TypeError, ValueError):
            save_model(model, path.with_name(f"{path.name}.weights.h5"))
        finally:
            # Hyperband may continue it.
            model.set_weights(last)

    def _built(self, trial: Trial, seed: int) -> keras.Model:
        """The model of a trial, with all its variables."""
        keras.utils.set_random_seed(self.config.seed + seed)
        model = self.build(trial.values)
        if not model.built:
            model.predict(keras.tree.map_structure(lambda array: array[:1], self._arguments["x"]), verbose=0)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        return model

    def best_file(self, trial: Trial) -> tuple[str, str]:
        """Name and text of the file that describes the best trial."""
        return "best_values.json", json.dumps(trial.values, indent=2) + "\n"


class _Builder:
    """Builds the model of a trial's values.

    Args:
        build: the user's function.
        name: its name.
        space: the hyperparameters that it asks for.
    """

    def __init__(self, build: Build, name: str, space: Mapping[str, Any]) -> None:
        self._build, self.__name__, self._space = build, name, space

    def __call__(self, values: Mapping[str, Any]) -> keras.Model:
        hyperparameters = hyperparameters_of(values)
        model = self._build(hyperparameters)
        if new := [each.name for each in hyperparameters.space if each.name not in self._space]:
            raise ValueError(
                f"{self.__name__} must ask for the same hyperparameters as when the space was found, received "
                f"{new[0]!r}; ask for it in hp.conditional_scope, or before the condition"
            )
        if not isinstance(model, keras.Model):
            raise TypeError(f"{self.__name__} must return a compiled Keras model; received {type(model).__name__}")
        return model


def _fingerprint(arrays: Any) -> str:
    """A digest of arrays; of other examples, of their type only."""
    digest = hashlib.blake2b(digest_size=8)
    for leaf in keras.tree.flatten(arrays):
        try:
            array = np.asarray(leaf)
        except Exception:
            array = np.asarray(None)
        described = type(leaf).__name__ if array.dtype == object else str((array.dtype.name, array.shape))
        digest.update(described.encode() + (b"" if array.dtype == object else array.tobytes()))
    return digest.hexdigest()

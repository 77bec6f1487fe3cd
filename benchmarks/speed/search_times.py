"""Seconds of the same hyperparameter search in each library."""

import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed.epoch_times import missing
from benchmarks.speed.peers import jax_adam, jax_weights
from kerasnn.commands.execution import import_tensorflow
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import DenseLayer
from kerasnn.search.config import SearchConfig

SMALL = {
    "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"},
    "regularization.dropout": {"min": 0.0, "max": 0.5},
    "regularization.l2": {"min": 1e-6, "max": 1e-2, "sampling": "log"},
    "seed": {"min": 0, "max": 9999, "step": 1},
}


@dataclass(frozen=True)
class SearchWorkload:
    """A search for all peers.

    Args:
        name: its name on the command line and in the table.
        data: name of the data set.
        trials: trials of the fused search; peers that train one trial after the other may get fewer.
        epochs: epochs of each trial.
        space: as in `SearchConfig`; None takes the default space.
    """

    name: str
    data: str
    trials: int
    epochs: int
    space: dict[str, Any] | None = None

    def config(self, **changes: Any) -> SearchConfig:
        """The search as kerasnn describes it."""
        run = {"data.name": self.data, "training.epochs": self.epochs, "report.progress": "silent"}
        space = {} if self.space is None else {"space": self.space}
        return SearchConfig.model_validate({"run": replace_at(RunConfig(), run), **space, **changes})


SEARCHES = {
    search.name: search
    for search in (
        SearchWorkload("search-small", "digits", trials=128, epochs=20, space=SMALL),
        SearchWorkload("search-mixed", "digits", trials=128, epochs=20),
        SearchWorkload("search-fashion", "fashion_mnist", trials=16, epochs=3, space=SMALL),
    )
}


def fused(workload: SearchWorkload, trials: int, folder: Path) -> float:
    """`kerasnn.search`, with journal, curves and HParams."""
    return _search(workload.config(trials=workload.trials), folder)


def one_by_one(workload: SearchWorkload, trials: int, folder: Path) -> float:
    """`kerasnn.search`, a trial at a time; trials of one shape still share a compiled program."""
    return _search(workload.config(trials=trials, trials_at_once=1), folder)


def _search(config: SearchConfig, folder: Path) -> float:
    from kerasnn.search.run_search import search

    start = time.perf_counter()
    search(config, folder)
    return time.perf_counter() - start


def keras_tuner(workload: SearchWorkload, trials: int, folder: Path) -> float:
    """keras-tuner's random search over plain Keras."""
    import keras_tuner as tuner

    build, options = _plain(workload)
    search = tuner.RandomSearch(
        lambda space: build(space.Int, lambda key, each: space.Float(key, each.min, each.max, sampling=each.sampling)),
        objective="val_loss",
        max_trials=trials,
        seed=1,
        directory=folder,
        project_name="trials",
    )
    start = time.perf_counter()
    search.search(**options)
    return time.perf_counter() - start


def optuna(workload: SearchWorkload, trials: int, folder: Path) -> float:
    """Optuna's random sampler over plain Keras."""
    import keras
    import optuna

    build, options = _plain(workload)

    def train(trial: Any) -> float:
        keras.backend.clear_session()
        model = build(
            trial.suggest_int,
            lambda key, each: trial.suggest_float(key, each.min, each.max, log=each.sampling == "log"),
        )
        history = model.fit(**options)
        return float(min(history.history["val_loss"]))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(1))
    start = time.perf_counter()
    study.optimize(train, n_trials=trials)
    return time.perf_counter() - start


def jax_vmap(workload: SearchWorkload, trials: int, folder: Path) -> float:
    """All trials as one `vmap` of a jitted scan in JAX, written out for the small space: a floor, since nothing is
    searched, kept or reported."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from kerasnn.data.loading import load_data

    config = workload.config()
    data, size = load_data(config.run.data), config.run.training.batch_size
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    x_validation, y_validation = jnp.asarray(data.x_validation), jnp.asarray(data.y_validation)
    hidden = [layer.units for layer in config.run.network.hidden if isinstance(layer, DenseLayer)]
    widths = [x.shape[1], *hidden, data.outputs]
    whole = len(x) - len(x) % size

    def outputs_of(weights: Any, x: Any, dropout: Any = 0.0, key: Any = None) -> Any:
        for number, (kernel, bias) in enumerate(weights[:-1]):
            x = jax.nn.relu(x @ kernel + bias)
            if key is not None:
                kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - dropout, x.shape)
                x = jnp.where(kept, x / (1 - dropout), 0.0)
        return x @ weights[-1][0] + weights[-1][1]

    def entropy(outputs: Any, labels: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], 1).mean()

    def step(member: Any, state: Any, rows: Any) -> tuple[Any, None]:
        *trained, key = state
        key, drawn = jax.random.split(key)

        def loss(weights: Any) -> Any:
            penalty = sum((kernel**2).sum() for kernel, _ in weights[:-1])
            return entropy(outputs_of(weights, x[rows], member["dropout"], drawn), y[rows]) + member["l2"] * penalty

        gradients = jax.grad(loss)(trained[0])
        return (*jax_adam(member["learning_rate"], gradients, *trained), key), None

    def epoch(member: Any, state: Any) -> tuple[Any, Any]:
        order = jax.random.permutation(state[-1], len(x))
        state, _ = jax.lax.scan(partial(step, member), state, order[:whole].reshape(-1, size))
        if whole < len(x):
            state, _ = step(member, state, order[whole:])
        return state, entropy(outputs_of(state[0], x_validation), y_validation)

    rng = np.random.default_rng(1)
    members = {
        "learning_rate": 10.0 ** rng.uniform(-4, -1, trials),
        "dropout": rng.uniform(0, 0.5, trials),
        "l2": 10.0 ** rng.uniform(-6, -2, trials),
    }
    members = {name: jnp.asarray(values, jnp.float32) for name, values in members.items()}
    start = time.perf_counter()
    keys = jax.random.split(jax.random.key(0), trials)
    weights = jax.vmap(partial(jax_weights, sizes=widths))(keys)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = (weights, zeros, zeros, jnp.zeros(trials, jnp.int32), keys)
    compiled = jax.jit(jax.vmap(epoch))
    for _ in range(workload.epochs):
        state, losses = compiled(members, state)
        losses.block_until_ready()
    return time.perf_counter() - start


def _plain(workload: SearchWorkload) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A function that builds a trial's network, given functions that draw an integer and a float; `fit`'s arguments."""
    from kerasnn.data.loading import load_data
    from kerasnn.models.building import build_model
    from kerasnn.models.from_config import compile_model

    config = workload.config()
    data = load_data(config.run.data)

    def build(whole: Callable[..., int], real: Callable[..., float]) -> Any:
        run = config.run_with(
            {
                key: each.values[whole(key, 0, len(each.values) - 1)] if each.values else real(key, each)
                for key, each in config.space.items()
            }
        )
        model = build_model(
            run.network, data.input_shape, data.outputs, regularization=run.regularization, seed=run.seed
        )
        compile_model(model, run)
        return model

    return build, {
        "x": data.x_train,
        "y": data.y_train,
        "batch_size": config.run.training.batch_size,
        "epochs": workload.epochs,
        "validation_data": (data.x_validation, data.y_validation),
        "verbose": 0,
    }


SEARCH_PEERS: dict[str, Callable[[SearchWorkload, int, Path], float]] = {
    "kerasnn-fused": fused,
    "kerasnn-one-by-one": one_by_one,
    "keras-tuner": keras_tuner,
    "optuna": optuna,
    "jax-vmap": jax_vmap,
}
BASELINE = "keras-tuner"
TOGETHER = ("kerasnn-fused", "jax-vmap")
"""Peers that train all trials of the workload at once."""


def compare_searches(workload: SearchWorkload, trials: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Search with each peer, in turn, each time in a new process.

    Args:
        workload: the search.
        trials: trials of peers that train one trial after the other; the fused search runs all of the workload's.
        repeats: turns of each peer.

    Returns:
        By peer: `trials_per_minute` (median), `times_faster` than keras-tuner, and every turn's `seconds`.
    """
    found: dict[str, dict[str, Any]] = {
        peer: {"seconds": [], "trials": workload.trials if peer in TOGETHER else min(trials, workload.trials)}
        for peer in SEARCH_PEERS
        if _runs(peer, workload)
    }
    for _ in range(repeats):
        for peer, figures in found.items():
            # Spawned: each search starts as a user's does, with nothing compiled.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                figures["seconds"].append(pool.apply(_timed, (peer, workload, figures["trials"])))
    for figures in found.values():
        figures["trials_per_minute"] = 60 * figures["trials"] / statistics.median(figures["seconds"])
    for figures in found.values():
        figures["times_faster"] = figures["trials_per_minute"] / found[BASELINE]["trials_per_minute"]
    return found


def _runs(peer: str, workload: SearchWorkload) -> bool:
    """Whether a peer is installed and written for the workload's space."""
    return missing(peer) is None and (peer != "jax-vmap" or workload.space is SMALL)


def search_table(workload: SearchWorkload, found: dict[str, dict[str, Any]]) -> str:
    """Figures as text, one line a peer."""
    lines = [workload.name, f"{'peer':20}{'trials':>8}{'seconds':>10}{'trials/min':>12}{'faster':>9}"]
    for peer, figures in found.items():
        lines.append(
            f"{peer:20}{figures['trials']:8}{statistics.median(figures['seconds']):10.1f}"
            f"{figures['trials_per_minute']:12.1f}{figures['times_faster']:8.1f}×"
        )
    return "\n".join(lines)


def _timed(peer: str, workload: SearchWorkload, trials: int) -> float:
    import_tensorflow()
    for name in ("tensorflow", "kerasnn"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        return SEARCH_PEERS[peer](workload, trials, Path(folder) / "search")

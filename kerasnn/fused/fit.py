"""Training of many Keras models, those of one structure as one program."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.attributes import overridden
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.config.schema import short
from kerasnn.engine.block_callbacks import acts_by_batch, flat
from kerasnn.engine.checks import Checks, check_fit_options
from kerasnn.engine.compilation import own_loop
from kerasnn.engine.fit import fit
from kerasnn.engine.order import draw_seed
from kerasnn.fused.building import common_names
from kerasnn.fused.fitted import FittedModel, program_for
from kerasnn.fused.group import Changes
from kerasnn.fused.inputs import Inputs
from kerasnn.fused.loop import OnEpoch, Plan, train_members
from kerasnn.fused.program import FusedProgram, NotFusableError
from kerasnn.fused.sizes import group_devices, has_loops, loops_pay, xla_pays
from kerasnn.fused.structure import Structure

logger = logging.getLogger("kerasnn")


def fit_fused(
    models: Sequence[keras.Model],
    x: Any,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: str | int = "auto",
    callbacks: Sequence[Any] | None = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Any = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    validation_batch_size: int | None = None,
    validation_freq: int | Sequence[int] = 1,
    *,
    seed: int | Sequence[int] | None = None,
    checks: str = "error",
    on_epoch: OnEpoch | None = None,
    max_members: int = 0,
) -> list[keras.callbacks.History]:
    """Train many compiled Keras models on the same examples, those of one structure as one program.

    Each model ends as `kerasnn.fit` with its seed would leave it: weights, optimizer, metrics, seed generators and
    history agree but for rounding. Models go together if their layers, losses, metrics, optimizers and shapes are the
    same. They may differ in their initial weights and seeds, in learning rates and their schedules, rates of dropout,
    penalties, label smoothing, noise, momentum, betas, epsilon, weight decay and clipping. A model that cannot be
    trained with others is trained alone by `kerasnn.fit`, and the log says why. Batch methods of Keras's and kerasnn's
    callbacks are called once an epoch; a model with another callback that acts at batches is trained alone.

    Args:
        models: compiled Keras models, which share no variables.
        x, y, batch_size, epochs, validation_split, validation_data, shuffle: as in `keras.Model.fit`, the same for all.
            A `tf.data.Dataset` is read once an epoch for all models of a structure.
        verbose: 0 is silent; else a line an epoch shows the range of each logged value over the models of a structure,
            and models that train alone show what `keras.Model.fit` shows.
        initial_epoch, validation_batch_size, validation_freq: likewise.
        callbacks: for each model its callbacks, or None.
        class_weight, sample_weight: as in `keras.Model.fit`, or a list with one for each model.
        seed: seed of the orders of the examples, or one for each model. With one seed all models see the same batches.
            None draws one for all from NumPy's global generator.
        checks: as in `kerasnn.fit`.
        on_epoch: see `OnEpoch`.
        max_members: how many models may be trained together later; groups are padded to few different sizes up to it,
            so that a program that was compiled is used again.

    Returns:
        A History for each model, in order.

    Raises:
        ValueError: no models, the same model twice, a model that is not compiled, arguments of another length than the
            models, and what `kerasnn.fit` refuses.

    Reference: Wang et al., "Horizontally Fused Training Arrays", MLSys 2021.

    >>> import numpy as np
    >>> def build(rate):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    ...     model.compile(keras.optimizers.SGD(rate), "mse")
    ...     return model
    >>> histories = fit_fused([build(0.0), build(0.125)], np.ones((4, 2)), np.ones(4), epochs=2, verbose=0)
    >>> [history.history["loss"] for history in histories]
    [[1.0, 1.0], [1.0, 0.0625]]
    """
    models = list(models)
    _check_models(models)
    sizes: dict[str, Any] = {"batch_size": batch_size, "validation_batch_size": validation_batch_size}
    options: dict[str, Any] = {**sizes, "epochs": epochs, "initial_epoch": initial_epoch}
    check_fit_options({**options, "steps_per_epoch": None, "validation_steps": None}, validation_split, None, None)
    given = {
        "callbacks": callbacks,
        "sample_weight": sample_weight,
        "class_weight": class_weight,
        "seed": draw_seed() if seed is None else seed,
    }
    by_name = {name: _for_each(name, argument, len(models)) for name, argument in given.items()}
    held_out: dict[str, Any] = {"validation_split": validation_split, "validation_data": validation_data}
    inputs = Inputs.of(x, y, by_name["sample_weight"], by_name["class_weight"], shuffle=shuffle, **held_out, **sizes)
    own = [dict(zip(by_name, arguments, strict=True)) for arguments in zip(*by_name.values(), strict=True)]
    if inputs is None:
        alone = dict.fromkeys(
            range(len(models)),
            "the examples are not dense numbers, or a dataset of unknown length or with weights besides",
        )
    else:
        members, alone = _members(models, own, inputs, epochs, checks)
        shown = partial(_show, epochs, on_epoch) if verbose else on_epoch
        alone |= _train_together(members, inputs, Plan(initial_epoch, epochs, validation_freq, shown, max_members))
    for reason in filter(None, dict.fromkeys(alone.values())):
        logger.warning("%d of %d models train alone: %s", list(alone.values()).count(reason), len(models), reason)
    options |= {
        **held_out,
        "shuffle": shuffle,
        "validation_freq": validation_freq,
        "checks": checks,
        "verbose": verbose,
    }
    for number in sorted(alone):
        if on_epoch is not None:
            own[number]["callbacks"] = [*flat(own[number]["callbacks"]), _Reporter(number, on_epoch)]
        fit(models[number], x, y, **own[number], **options)
    return [model.history for model in models]


def _members(
    models: Sequence[keras.Model], own: Sequence[Mapping[str, Any]], inputs: Inputs, epochs: int, checks: str
) -> tuple[list[FittedModel], dict[int, str]]:
    """The models that may train together, built and checked, and why the others may not, by number."""
    members: list[FittedModel] = []
    alone: dict[int, str] = {}
    seen = set()
    for number, (model, arguments) in enumerate(zip(models, own, strict=True)):
        if reason := _obstacle(model, arguments["callbacks"]):
            alone[number] = reason
            continue
        checked = Checks(model, checks)
        checked.model()
        with common_names():
            inputs.build(number, model)
        structure = Structure(model)
        # The same examples fit all models of a structure.
        if (key := (structure.key, inputs.weights_id(number))) not in seen:
            inputs.check(number, checked, arguments["class_weight"])
            seen.add(key)
        hooks, seed = arguments["callbacks"], arguments["seed"]
        members.append(FittedModel(number, model, structure, hooks, seed, epochs, inputs.train_steps))
    return members, alone


def _train_together(members: Sequence[FittedModel], inputs: Inputs, plan: Plan) -> dict[int, str]:
    """Train models by groups of one structure; returns why some train alone, by number."""
    alone = _sharing(members)
    groups: dict[Any, list[FittedModel]] = {}
    for member in members:
        if member.number not in alone:
            key = (member.structure.key, inputs.is_weighted(member.number), member.learning_rate is None)
            groups.setdefault(key, []).append(member)
    for group in groups.values():
        if len(group) == 1 and not inputs.streams:
            # Tracing a program for many takes longer; nobody needs to be told. A dataset's first pass has begun.
            alone[group[0].number] = ""
            continue
        steps = (plan.epochs - plan.first_epoch) * inputs.steps
        if has_loops(group[0].model) and not loops_pay(len(group), steps):
            reason = f"{steps} steps of recurrent layers are done sooner one by one"
            alone |= {member.number: reason for member in group}
            continue
        # A dataset is read by one group at a time.
        names = group_devices(1 if inputs.streams else len(group))
        program = partial(program_for, group, inputs, xla_pays(len(group), steps))
        try:
            train_members(group, program(), inputs, plan, names, partial(_renewed, program))
        except NotFusableError as error:
            alone |= {member.number: str(error) for member in group}
    return alone


def _renewed(program: Callable[..., FusedProgram], changes: Collection[Changes]) -> FusedProgram:
    """The program of members that callbacks have changed before the first step.

    Raises:
        ValueError: one line, where they no longer go together.
    """
    if len(changes) > 1:
        names = sorted({name.removeprefix("_") for each in changes for _, name, _ in each})
        raise ValueError(
            f"callbacks of fit_fused must change models of one structure alike before the first step, received other "
            f"changes of {short(', '.join(names))} for some; train those by kerasnn.fit"
        )
    try:
        return program(cached=False)
    except NotFusableError as error:
        raise ValueError(f"callbacks of fit_fused must leave models that can train together: {error}") from None


def _show(epochs: int, on_epoch: OnEpoch | None, epoch: int, logs: dict[int, Mapping[str, Any]]) -> Any:
    """Print the range of each logged number over the models that ran, and report the epoch."""
    parts = [f"Epoch {epoch + 1}/{epochs}", f"{len(logs)} models"]
    for name, value in next(iter(logs.values())).items():
        if np.ndim(value) == 0:
            values = [float(log[name]) for log in logs.values() if name in log]
            low, high = f"{min(values):.4g}", f"{max(values):.4g}"
            parts.append(f"{name}: {low}" if low == high else f"{name}: {low} to {high}")
    print(" - ".join(parts), flush=True)
    return on_epoch(epoch, logs) if on_epoch else None


class _Reporter(keras.callbacks.Callback):
    """Tells `on_epoch` of a model that trains alone."""

    def __init__(self, number: int, on_epoch: OnEpoch) -> None:
        super().__init__()
        self._number, self._on_epoch = number, on_epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._number in (self._on_epoch(epoch, {self._number: logs or {}}) or ()):
            self.model.stop_training = True


def _check_models(models: Sequence[keras.Model]) -> None:
    if not models:
        raise ValueError("models must be at least one, received none")
    for number, model in enumerate(models):
        if not isinstance(model, keras.Model):
            raise ValueError(f"models must be Keras models; number {number} is of type {type(model).__name__}")
        if not model.compiled:
            raise ValueError(f"models must be compiled first; call compile(optimizer, loss) of number {number}")
        if any(model is each for each in models[:number]):
            raise ValueError(f"models must differ from each other; number {number} is the same object as another")


def _for_each(name: str, given: Any, count: int) -> list[Any]:
    """An argument for each model: one for all, or a list or tuple with one for each."""
    if not isinstance(given, list | tuple):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{name} must have an entry for each of the {count} models; received {len(given)}")
    return list(given)


def _obstacle(model: keras.Model, callbacks: Any) -> str | None:
    """Why a model trains alone, as far as that is known without tracing it."""
    if model.run_eagerly or tf.config.functions_run_eagerly():
        return "the model runs eagerly"
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return "the model trains on several replicas"
    if method := overridden(model, keras.Model, "fit", "evaluate"):
        return f"the model overrides {method}"
    for phase in ("train", "test"):
        if method := own_loop(model, phase):
            return f"the model overrides {method}"
        if callback := acts_by_batch(callbacks, phase):
            return f"{type(callback).__name__} acts at every batch"
    for callback in flat(callbacks):
        if hasattr(callback, "shuffle_seed"):
            return f"{type(callback).__name__} keeps the state of a single training"
        if isinstance(callback, LearningRate) and callback.cycles_momentum:
            return "a momentum cycle drives the optimizer"
    return None


def _sharing(members: Sequence[FittedModel]) -> dict[int, str]:
    """Models that share variables with another one, which then see each other's training."""
    owners: dict[int, list[int]] = {}
    for member in members:
        for variable in member.structure.variables:
            owners.setdefault(id(variable), []).append(member.number)
    shared = {number for numbers in owners.values() if len(numbers) > 1 for number in numbers}
    return dict.fromkeys(shared, "they share variables with each other")

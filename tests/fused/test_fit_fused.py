"""Models that train together end as each ends alone by `kerasnn.fit`.

Tolerance: 1e-5 absolute plus 1e-5 relative in every variable, optimizers', metrics' and seed generators' included, and
1e-4 relative in the histories; wider where rounding alone makes a gradient. `KERASNN_ALL_TESTS=1` runs the whole zoo.
"""

import itertools
import os
import random

import keras
import numpy as np
import pytest

import kerasnn
from kerasnn.config.schedules import OneCycle
from kerasnn.distribute.replicas import optimizers_of
from kerasnn.fused import fit, fitted, sizes
from kerasnn.fused.inputs import Inputs
from kerasnn.fused.program import FusedProgram
from kerasnn.fused.structure import Structure
from tests.zoo.models import ZOO

ALL = bool(os.environ.get("KERASNN_ALL_TESTS"))
NAMES = list(ZOO) if ALL else ["residual", "gan", "mixed_float16"]
# In bfloat16, rounding may decide one of 24 validation examples.
TOLERANCE = {"mixed_bfloat16": 5e-2, "mixed_float16": 2e-3, "attention": 5e-5}
ALONE = ("bidirectional", "lstm")
"""The gradient of their loop over time has no vectorized form."""
WITHOUT_TEST_STEP = ("gan", "vae", "own_train_step", "stateful")
L = keras.layers


@pytest.fixture(autouse=True)
def always_together(monkeypatch):
    """XLA, and one program, wherever they may be used: for trainings as short as these they do not pay."""
    monkeypatch.setattr(sizes, "XLA_SECONDS", 0.0)
    monkeypatch.setattr(sizes, "LOOPS_TOGETHER", 0.0)


def built(name, count=3):
    """Models of a kind that differ in weights, learning rate and dropout."""
    cases = []
    for index in range(count):
        case = ZOO[name]()
        Inputs.of(case.x, case.y, [None], [None], batch_size=16).build(0, case.model)
        rng = np.random.default_rng(index)
        for weight in case.model.trainable_weights:
            weight.assign(weight + 0.01 * index * rng.normal(size=weight.shape))
        if isinstance(rate := case.model.optimizer._learning_rate, keras.Variable):
            rate.assign(rate * (1 + 0.3 * index))
        for layer in case.model._flatten_layers():
            if isinstance(layer, keras.layers.Dropout):
                layer.rate *= index / 2
        cases.append(case)
    return cases


def variables_of(model):
    """What training changes, without optimizers that it does not use."""
    used = [optimizer for optimizer in optimizers_of(model) if int(optimizer.iterations.numpy())]
    return [*model.variables, *(variable for optimizer in used for variable in optimizer.variables)]


def assert_same(ours, theirs, tolerance=1e-5):
    for one, other in zip(ours, theirs, strict=True):
        for mine, expected in zip(variables_of(one), variables_of(other), strict=True):
            np.testing.assert_allclose(
                np.asarray(mine, np.float64),
                np.asarray(expected, np.float64),
                rtol=tolerance,
                atol=tolerance,
                err_msg=expected.path,
            )
        assert one.history.history.keys() == other.history.history.keys()
        for log, values in other.history.history.items():
            np.testing.assert_allclose(
                one.history.history[log], values, rtol=max(1e-4, tolerance), atol=tolerance, err_msg=log
            )


def one_each(argument, index):
    return argument[index] if isinstance(argument, list) else argument


def assert_as_alone(cases, alone, tolerance=1e-5, callbacks=lambda index: [], **options):
    """Train the cases together, and copies of them one by one."""
    x, y = cases[0].x, cases[0].y
    models = [case.model for case in cases]
    hooks = [callbacks(index) for index in range(len(cases))]
    histories = kerasnn.fit_fused(models, x, y, callbacks=hooks, **options)
    assert [history.model for history in histories] == models
    for index, case in enumerate(alone):
        own = {name: one_each(argument, index) for name, argument in options.items()}
        kerasnn.fit(case.model, x, y, verbose=0, compiled="off", callbacks=callbacks(index), **own)
    assert_same(models, [case.model for case in alone], tolerance)
    return models


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_models_end_as_alone(name, caplog):
    cases, alone = built(name), built(name)
    held_out = keras.tree.map_structure(lambda part: None if part is None else part[:24], (cases[0].x, cases[0].y))
    options = {"batch_size": 16, "epochs": 3, "seed": [0, 1, 2]} | dict(cases[0].options)
    options |= {"validation_data": None if name in WITHOUT_TEST_STEP else held_out}
    assert_as_alone(cases, alone, TOLERANCE.get(name, 1e-5), **options)
    messages = [record.getMessage() for record in caplog.records if record.name == "kerasnn"]
    assert ["train alone" in message for message in messages] == [True] * (name in ALONE)


def test_few_steps_of_recurrent_layers_train_one_by_one(caplog, monkeypatch):
    monkeypatch.setattr(sizes, "LOOPS_TOGETHER", 13.0)
    assert_as_alone(built("masked", 2), built("masked", 2), batch_size=16, epochs=2, seed=[0, 1])
    [line] = [record.getMessage() for record in caplog.records if "train alone" in record.getMessage()]
    assert line == "2 of 2 models train alone: 6 steps of recurrent layers are done sooner one by one"


def dense(index=0, units=6, **numbers):
    keras.utils.set_random_seed(index)
    penalty = keras.regularizers.L2(numbers.get("l2", 0.01))
    model = keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(units, "tanh", kernel_regularizer=penalty),
            L.GaussianNoise(numbers.get("stddev", 0.1)),
            L.Dropout(numbers.get("dropout", 0.2)),
            L.Dense(3, "softmax"),
        ]
    )
    given = {name: numbers[name] for name in ("momentum", "weight_decay", "clipnorm") if name in numbers}
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=numbers.get("smoothing", 0.0))
    model.compile(keras.optimizers.SGD(numbers.get("rate", 0.1), **given), loss, metrics=["accuracy"])
    return model


X = np.random.default_rng(0).normal(size=(37, 4)).astype("float32")
Y = np.eye(3, dtype="float32")[np.argmax(X[:, :3], axis=1)]


class Given:
    """A model with the examples."""

    x, y = X, Y

    def __init__(self, model):
        self.model = model


OWN = {
    "l2": (0.0, 0.1),
    "dropout": (0.1, 0.5),
    "stddev": (0.1, 0.3),
    "smoothing": (0.0, 0.2),
    "momentum": (0.5, 0.9),
    "weight_decay": (0.01, 0.1),
    "clipnorm": (0.1, 0.5),
}


def test_numbers_are_each_models_own():
    """One program for members that differ in every number; the changes of each are its own."""
    shared = {"momentum": 0.5, "weight_decay": 0.01, "clipnorm": 0.1}

    def models():
        return [dense(index, **{**shared, name: own}) for index, (name, pair) in enumerate(OWN.items()) for own in pair]

    fitted._programs.clear()
    assert len({Structure(model).key for model in models()}) == 1
    assert_as_alone(
        [Given(model) for model in models()],
        [Given(model) for model in models()],
        batch_size=8,
        epochs=2,
        seed=3,
        class_weight=None,
        sample_weight=[np.linspace(0.1, 1 + index, 37) for index in range(14)],
        validation_split=0.3,
    )
    assert len(fitted._programs) == 1


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.drop, self.out = (
            keras.layers.Dense(4, "relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        )

    def call(self, x, training=False):
        return self.out(self.drop(self.hidden(x), training=training))


def sequential():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.2), keras.layers.Dense(2)])


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.3)(inputs)))


@pytest.mark.parametrize("make", [sequential, functional, Subclassed])
def test_a_program_is_used_again_for_later_models(make, monkeypatch):
    def models(count):
        found = []
        for seed in range(count):
            keras.utils.set_random_seed(seed)
            model = make()
            model.compile(keras.optimizers.Adam(0.01 * (seed + 1)), "mse")
            found.append(model)
        return found

    made = []

    def program(*arguments, **options):
        made.append(FusedProgram(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(fitted, "FusedProgram", program)
    fitted._programs.clear()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)).astype("float32"), rng.normal(size=(20, 2)).astype("float32")
    options = {"batch_size": 8, "epochs": 2, "seed": [5, 6], "validation_data": (x, y), "verbose": 0}
    first, again = ([history.history for history in kerasnn.fit_fused(models(2), x, y, **options)] for _ in range(2))
    assert len(made) == 1
    assert again == first


def test_callbacks_of_each_model(tmp_path):
    names = itertools.count()
    kinds = [
        lambda: keras.callbacks.EarlyStopping("loss", min_delta=9, patience=1, restore_best_weights=True),
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
        lambda: keras.callbacks.ModelCheckpoint(f"{tmp_path}/{next(names)}-{{epoch}}.keras"),
        lambda: keras.callbacks.ReduceLROnPlateau("loss", min_delta=9, patience=1),
        keras.callbacks.History,
    ]

    def callbacks(index):
        return [kinds[index]()]

    def models():
        return [Given(dense(index)) for index in range(5)]

    trained = assert_as_alone(models(), models(), callbacks=callbacks, batch_size=16, epochs=4, seed=0)
    assert [len(model.history.epoch) for model in trained] == [2, 4, 4, 4, 4]
    assert len(list(tmp_path.iterdir())) == 8
    kept = keras.models.load_model(tmp_path / "0-4.keras")
    np.testing.assert_array_equal(kept.get_weights()[0], trained[2].get_weights()[0])


def test_rates_of_every_update():
    def callbacks(index):
        return [kerasnn.LearningRate({"name": "cosine", "per": "update"}, learning_rate=0.1 * (index + 1))]

    def models():
        return [Given(dense(index)) for index in range(2)]

    assert_as_alone(models(), models(), callbacks=callbacks, batch_size=16, epochs=2, seed=[4, 4])


def test_a_schedule_over_the_length_of_the_run(caplog):
    schedule = OneCycle(cycle_momentum=False)

    def callbacks(index):
        return [kerasnn.LearningRate(schedule, learning_rate=0.1 * (index + 1))]

    def models():
        return [Given(dense(index)) for index in range(2)]

    with caplog.at_level("INFO", "kerasnn"):
        assert_as_alone(models(), models(), callbacks=callbacks, batch_size=16, epochs=2, seed=[4, 4])
    assert "train alone" not in caplog.text


def test_what_cannot_go_together_trains_alone(caplog):
    class Every(keras.callbacks.Callback):
        batches = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1

    every = Every()
    eager = dense(1)
    eager.run_eagerly = True
    models = [dense(0), eager, dense(2, units=7), dense(3)]
    histories = kerasnn.fit_fused(models, X, Y, batch_size=8, epochs=2, seed=0, callbacks=[None, None, None, [every]])
    assert every.batches == 10
    messages = [record.getMessage() for record in caplog.records if "train alone" in record.getMessage()]
    assert messages == [
        "1 of 4 models train alone: the model runs eagerly",
        "1 of 4 models train alone: Every acts at every batch",
    ]
    assert [len(history.epoch) for history in histories] == [2] * 4


def test_models_that_draw_python_s_numbers_while_they_are_traced_train_alone(caplog):
    """Together they would all get the first one's."""

    class Scaled(L.Layer):
        def call(self, x):
            return x * random.random()

    def model():
        model = keras.Sequential([keras.Input((4,)), Scaled(), L.Dense(3, "softmax")])
        model.compile("sgd", "categorical_crossentropy")
        return model

    kerasnn.fit_fused([model(), model()], X, Y, batch_size=8, verbose=0)
    assert "2 of 2 models train alone: train_step draws random numbers of Python's" in caplog.text


class SetsMomentum(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.momentum = 0.1


class CyclesMomentum(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.momentum = 0.1 * batch


@pytest.mark.parametrize("kind", [SetsMomentum, CyclesMomentum])
def test_a_momentum_that_a_callback_sets_does_what_it_does_in_fit(caplog, kind):
    models, alone = ([dense(index, momentum=0.9) for index in range(2)] for _ in range(2))
    kerasnn.fit_fused(models, X, Y, batch_size=8, epochs=2, seed=0, verbose=0, callbacks=[[kind()], [kind()]])
    reasons = [record.getMessage() for record in caplog.records if "train alone" in record.getMessage()]
    acts = kind is CyclesMomentum
    assert reasons == ["2 of 2 models train alone: CyclesMomentum acts at every batch"] * acts
    for model in alone:
        kerasnn.fit(model, X, Y, batch_size=8, epochs=2, seed=0, verbose=0, callbacks=[kind()])
    assert_same(models, alone)


class Freezes(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.model.layers[0].trainable = False


def test_what_callbacks_change_before_the_first_step_counts():
    """As in plain Keras, which traces that step when it comes."""
    models, alone = ([dense(index) for index in range(2)] for _ in range(2))
    kerasnn.fit_fused(models, X, Y, batch_size=8, epochs=2, seed=0, verbose=0, callbacks=[[Freezes()], [Freezes()]])
    for model in alone:
        kerasnn.fit(model, X, Y, batch_size=8, epochs=2, seed=0, verbose=0, callbacks=[Freezes()])
    assert_same(models, alone)
    models = [dense(index) for index in range(2)]
    with pytest.raises(ValueError, match=r"^callbacks of fit_fused must change models of one structure alike"):
        kerasnn.fit_fused(models, X, Y, verbose=0, callbacks=[[Freezes()], [SetsMomentum()]])


def test_models_are_stopped_from_outside():
    seen = []

    def stop(epoch, logs):
        seen.append((epoch, sorted(logs)))
        return [1] if epoch == 1 else None

    models = [dense(index) for index in range(3)]
    histories = kerasnn.fit_fused(models, X, Y, epochs=3, seed=0, on_epoch=stop)
    assert [len(history.epoch) for history in histories] == [3, 2, 3]
    assert seen == [(0, [0, 1, 2]), (1, [0, 1, 2]), (2, [0, 2])]


def test_other_code_is_another_structure():
    def model(factor):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, L.Lambda(lambda x: x * factor)(L.Dense(2)(inputs)))
        model.compile("sgd", "mse")
        return Structure(model).key

    assert model(2.0) == model(2.0) != model(3.0)


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([], {}, "models must be at least one, received none"),
        ([keras.Sequential()], {}, r"models must be compiled first; call compile\(optimizer, loss\) of number 0"),
        ([dense()], {"seed": [1, 2]}, "seed must have an entry for each of the 1 models; received 2"),
    ],
)
def test_refusals_in_a_line(models, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        kerasnn.fit_fused(models, X, Y, **options)


@pytest.mark.parametrize(("epochs", "xla"), [(2, False), (3000, True)])
def test_xla_compiles_where_that_pays(epochs, xla, monkeypatch):
    monkeypatch.setattr(sizes, "XLA_SECONDS", 2.0)
    used = []
    original = fit.program_for
    monkeypatch.setattr(fit, "program_for", lambda *given: used.append(original(*given)) or used[-1])
    models = [dense(index, 3) for index in range(2)]
    stop = {"on_epoch": lambda epoch, logs: list(logs)}
    kerasnn.fit_fused(models, np.ones((8, 4)), np.eye(3)[[0, 1] * 4], batch_size=4, epochs=epochs, verbose=0, **stop)
    assert [program.xla for program in used] == [xla]


def test_softmax_over_tensors_of_many_axes(monkeypatch):
    """As in the attention of some decoders: with the members' axis they have one more than oneDNN's softmax takes."""
    monkeypatch.setattr(sizes, "XLA_SECONDS", 2.0)
    x, y = np.random.default_rng(0).normal(size=(8, 2, 3, 2, 4)).astype("float32"), np.arange(8) / 8

    def build(rate):
        keras.utils.set_random_seed(0)
        layers = [L.Dense(3), L.Softmax(), L.Flatten(), L.Dense(1)]
        model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
        model.compile(keras.optimizers.SGD(rate), "mse")
        return model

    alone, together = ([build(rate) for rate in (0.1, 0.2)] for _ in range(2))
    for model in alone:
        kerasnn.fit(model, x, y, seed=1, verbose=0)
    kerasnn.fit_fused(together, x, y, seed=1, verbose=0)
    assert_same(together, alone)

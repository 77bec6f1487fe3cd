"""Trains on replicas and on one device and prints how far apart they end, as JSON; test_distributed.py runs it.

Two logical CPUs stand in for two GPUs, and must be there before TensorFlow starts: `replicas.py mirrored CASE …`. Two
processes over loopback stand in for two machines: `replicas.py workers CASE …` with TF_CONFIG set.
"""

import itertools
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

EXAMPLES, FEATURES, CLASSES = 67, 6, 3
STYLES = ("sequential", "functional", "subclassed")


def _plain(style: str, data: str, steps: int, optimizer: str) -> dict[str, Any]:
    return {
        "style": style,
        "data": data,
        "steps_per_block": steps,
        "optimizer": {"name": optimizer},
        # What is in the order of the arrays is the same for all styles and kinds of data, and is trained once.
        "ordered": True,
    }


# Every case has a last batch shorter than the others; with 33 it is of one example, and one replica gets none.
QUICK: dict[str, dict[str, Any]] = {
    "dropout, L2, batch norm, odd batch size, weights, norm, schedule": {
        "style": "subclassed",
        "batch_size": 33,
        "steps_per_block": 50,
        "optimizer": {"name": "adam", "clipnorm": 0.05},
        "regularization": {"dropout": 0.3, "l2": 0.01, "batch_norm": True},
        "weighted": True,
        "scheduled": True,
    },
    "global norm, accumulation, dropout, tf.data": {
        "style": "functional",
        "data": "tf.data",
        "batch_size": 9,
        "steps_per_block": 1,
        "optimizer": {"name": "momentum", "global_clipnorm": 0.1, "gradient_accumulation_steps": 3},
        "regularization": {"dropout": 0.3},
    },
}
ALL = {
    **QUICK,
    **{
        f"{style}, {data}, {steps} a block, {optimizer}": _plain(style, data, steps, optimizer)
        for style, data, steps, optimizer in itertools.product(STYLES, ("arrays", "tf.data"), (1, 50), ("sgd", "adam"))
    },
    **{
        f"{name}, {style}": {"style": style, **options}
        for style in STYLES
        for name, options in {
            "dropout": {"regularization": {"dropout": 0.3}},
            "alpha dropout": {"regularization": {"dropout": 0.3, "dropout_kind": "alpha_dropout"}},
            "gaussian dropout": {"regularization": {"dropout": 0.3, "dropout_kind": "gaussian_dropout"}},
            "batch norm": {"regularization": {"batch_norm": True}},
            "global norm": {"optimizer": {"name": "sgd", "global_clipnorm": 0.05}},
            "norm": {"optimizer": {"name": "momentum", "clipnorm": 0.05}},
            "accumulation": {"optimizer": {"name": "adam", "gradient_accumulation_steps": 3}},
            "EMA": {"optimizer": {"name": "adam", "use_ema": True, "ema_overwrite_frequency": 3}},
            "odd batch size": {"batch_size": 33},
            "streamed": {"fit": {"memory_share": 1e-12}},
        }.items()
    },
    "class weights": {"fit": {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}}},
    "adamw": {"optimizer": {"name": "adamw", "weight_decay": 0.1}},
    "momentum cycle": {
        "optimizer": {"name": "momentum"},
        "scheduled": {"name": "one_cycle", "cycle_momentum": True},
    },
    "convolution": {"images": True, "regularization": {"dropout": 0.3, "dropout_kind": "spatial_dropout"}},
}


def run(case: dict[str, Any], strategy: Any) -> dict[str, Any]:
    """Train a case; weights, history, evaluation and predictions."""
    import keras
    import numpy as np
    import tensorflow as tf

    from kerasnn import LearningRate, NetworkConfig, build_model, evaluate, fit, predict
    from kerasnn.components import optimizers
    from kerasnn.config.sections import RegularizationConfig

    random = np.random.default_rng(0)
    shape = (6, 6, 1) if case.get("images") else (FEATURES,)
    x = random.normal(size=(EXAMPLES, *shape)).astype("float32")
    y = random.integers(0, CLASSES, EXAMPLES)
    weights = random.uniform(0.2, 2, EXAMPLES).astype("float32") if case.get("weighted") else None
    regularization = RegularizationConfig(**case.get("regularization", {}))
    # A bias before batch normalization has no gradient, and Adam would make steps of its rounding errors.
    hidden: list[Any] = [{"units": units, "use_bias": not regularization.batch_norm} for units in (8, 4)]
    hidden = [{"filters": 3, "kernel_size": 3}, *hidden] if case.get("images") else hidden
    with nullcontext() if strategy is None else strategy.scope():
        model = build_model(
            NetworkConfig(hidden=hidden),
            shape,
            CLASSES,
            style=case.get("style", "sequential"),
            seed=1,
            regularization=regularization,
        )
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = strategy is not None
        described = {"name": "adam", "learning_rate": 0.01, **case.get("optimizer", {})}
        model.compile(
            optimizers.get(described),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            weighted_metrics=["accuracy"] if case.get("weighted") else None,
        )
    size = case.get("batch_size", 16)
    options = {"steps_per_block": case.get("steps_per_block"), "verbose": 0}
    schedule = case.get("scheduled")
    callbacks = []
    if schedule:
        callbacks.append(LearningRate(schedule if schedule is not True else {"name": "cosine", "per": "update"}))
    training: dict[str, Any] = {
        "callbacks": callbacks,
        "epochs": 2,
        "seed": 3,
        "validation_data": (x[:29], y[:29]),
        "validation_batch_size": 7,
        **options,
        **case.get("fit", {}),
    }
    if case.get("data") == "tf.data":
        batches = tf.data.Dataset.from_tensor_slices((x, y))
        batches = (batches if case.get("ordered") else batches.shuffle(EXAMPLES, seed=5)).batch(size)
        training |= {"validation_data": tf.data.Dataset.from_tensor_slices((x[:29], y[:29])).batch(7)}
        history = fit(model, batches, compiled="auto", **training)
        values = evaluate(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(size), return_dict=True, **options)
        outputs = predict(model, tf.data.Dataset.from_tensor_slices(x).batch(size), verbose=0)
    else:
        shuffle = not case.get("ordered")
        history = fit(model, x, y, batch_size=size, sample_weight=weights, shuffle=shuffle, **training)
        values = evaluate(model, x, y, batch_size=size, sample_weight=weights, return_dict=True, **options)
        outputs = predict(model, x, batch_size=size, verbose=0)
    return {
        "weights": [np.array(weight) for weight in model.get_weights()],
        "optimizer": [variable.numpy() for variable in model.optimizer.variables],
        "history": [np.array(history.history[name]) for name in sorted(history.history)],
        "evaluation": [np.array(values[name]) for name in sorted(values)],
        "predictions": [outputs],
    }


_references: dict[str, dict[str, Any]] = {}


def reference(case: dict[str, Any]) -> dict[str, Any]:
    """What one device gives."""
    if case.get("ordered"):
        case = {**case, "style": "sequential", "data": "arrays", "steps_per_block": None}
    key = json.dumps(case)
    if key not in _references:
        _references[key] = run(case, None)
    return _references[key]


def masks(strategy: Any) -> bool:
    """Whether dropout drops other units of each replica's examples."""
    import keras
    import numpy as np
    import tensorflow as tf

    from kerasnn.distribute.replicas import Slice, as_one_device, replica_number

    with strategy.scope():
        dropout = keras.layers.Dropout(0.5, seed=0)
        model = keras.Sequential([keras.Input((64,)), dropout])
        model.compile("sgd", "mse")

    @tf.function(autograph=False)
    def dropped() -> Any:
        slices: dict[int, Slice] = {}

        def replica() -> Any:
            number = replica_number()
            slices[number] = Slice(tf.constant(4 * number), tf.constant(4), tf.constant(8))
            ones = tf.raw_ops.PlaceholderWithDefault(input=tf.ones((4, 64)), shape=[None, 64])
            return dropout(ones, training=True)

        with as_one_device(model, slices):
            return strategy.gather(strategy.run(replica), axis=0)

    whole = dropped().numpy()
    with tf.device("CPU:0"):
        expected = keras.layers.Dropout(0.5, seed=0)(np.ones((8, 64), "float32"), training=True).numpy()
    return bool((whole == expected).all() and (whole[:4] != whole[4:]).any())


def main(kind: str, names: list[str]) -> None:
    import numpy as np
    import tensorflow as tf

    if kind == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy: Any = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    found: dict[str, Any] = {"masks": masks(strategy) if kind == "mirrored" else True}
    for name in names or ALL:
        try:
            alone, together = reference(ALL[name]), run(ALL[name], strategy)
            found[name] = {
                part: max(float(np.abs(a - b).max()) for a, b in zip(alone[part], together[part], strict=True))
                for part in alone
            }
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:500]
            if kind == "workers":
                break
        print(name, found[name], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

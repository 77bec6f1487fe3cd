"""kerasnn: train, study and tune neural networks with Keras 3 on TensorFlow.

Public names are loaded on first use: importing kerasnn imports neither TensorFlow nor Keras. What kerasnn adds to Keras
(layers, losses, the subclassed network) is registered as soon as Keras is imported, so that `keras.saving.load_model`
reads a saved model wherever `import kerasnn` has been said.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "RunConfig": "kerasnn.config",
    "NetworkConfig": "kerasnn.config",
    "DataConfig": "kerasnn.config",
    "replace_at": "kerasnn.config",
    "simulate": "kerasnn.schedules",
    "build_model": "kerasnn.models",
    "load_model": "kerasnn.models.loading",
    "lsuv": "kerasnn.models.lsuv",
    "build_fused": "kerasnn.models.fused",
    "load_data": "kerasnn.data",
    "from_arrays": "kerasnn.data",
    "train": "kerasnn.training.run",
    "Result": "kerasnn.training.run",
    "find_learning_rate": "kerasnn.training.range_test",
    "evaluate_run": "kerasnn.training.evaluation",
    "fit": "kerasnn.training.compiled",
    "evaluate": "kerasnn.training.compiled",
    "predict": "kerasnn.training.compiled",
    "train_fused": "kerasnn.training.fused",
    "LearningRate": "kerasnn.callbacks.learning_rate",
    "TrainingState": "kerasnn.training.state",
    "TensorBoard": "kerasnn.callbacks.tensorboard",
    "Health": "kerasnn.callbacks.health",
    "Progress": "kerasnn.callbacks.progress",
    "BestModel": "kerasnn.callbacks.best_model",
    "StopOnDivergence": "kerasnn.callbacks.divergence",
    "DivergenceError": "kerasnn.callbacks.divergence",
    "HistoryFile": "kerasnn.callbacks.history",
    "figures": "kerasnn.figures",
}
_REGISTERED = ("kerasnn.activations", "kerasnn.losses", "kerasnn.models.subclassed", "kerasnn.models.fused")

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kerasnn' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(_PUBLIC[name])
    return module if _PUBLIC[name] == f"kerasnn.{name}" else getattr(module, {"load_data": "load"}.get(name, name))


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def _register() -> None:
    for module in _REGISTERED:
        importlib.import_module(module)


class _AfterKeras:
    """An import hook that registers our classes once Keras has been imported, without importing it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterKeras())

"""Registers kerasnn's layers and losses with Keras, without importing Keras.

`keras.saving.load_model` then reads a saved model wherever `import kerasnn` has been said.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_SERIALIZABLE = (
    "kerasnn.components.activations",
    "kerasnn.components.losses",
    "kerasnn.models.subclassed",
    "kerasnn.models.table_model",
    "kerasnn.data.table_features",
    "kerasnn.fused.ensemble",
)


def register_with_keras() -> None:
    """Register kerasnn's classes now if Keras is imported, else as soon as it is."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterKeras())


def _register() -> None:
    importlib.import_module("kerasnn.keras_private").remember_compile_arguments()
    for module in _SERIALIZABLE:
        importlib.import_module(module)


class _AfterKeras:
    """An import hook that registers kerasnn's classes once Keras has been imported."""

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

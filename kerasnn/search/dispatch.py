"""One function for every search: of the runs of a config, or over the models that a function builds."""

from pathlib import Path
from typing import Any, overload

import keras_tuner

from kerasnn.data.loading import Data
from kerasnn.search.beginning import Table
from kerasnn.search.config import SearchConfig
from kerasnn.search.model_search import search_models
from kerasnn.search.model_space import Build
from kerasnn.search.result import SearchResult
from kerasnn.search.run_search import search as search_runs


@overload
def search(
    what: SearchConfig | None = None,
    search_dir: str | Path | None = None,
    data: Data | None = None,
    *,
    initial: Table | None = None,
    earlier: str | Path | None = None,
) -> SearchResult: ...


@overload
def search(what: Build | keras_tuner.HyperModel, x: Any, y: Any = None, **options: Any) -> SearchResult: ...


def search(what: Any = None, *arguments: Any, **options: Any) -> SearchResult:
    """Search hyperparameters, or continue the search of a folder.

    `search(config, search_dir)` searches the space that a `SearchConfig` describes; `search(build, x, y, epochs=20)`
    the hyperparameters that a function asks for, which returns a compiled model of them. Both leave the same folder,
    resume exactly and return the same result.

    Args:
        what: the config; or the function, or a `keras_tuner.HyperModel`. None is the default search on the digits.
        arguments, options: further ones of `run_search.search` for a config, of `search_models` for a function.

    Returns:
        The ranked trials.

    Raises:
        TypeError: for an unknown argument.
        ValueError: one line, for a folder in use or of another search, and where every trial failed.
    """
    if what is None or isinstance(what, SearchConfig):
        return search_runs(what, *arguments, **options)
    if isinstance(what, keras_tuner.HyperModel) or callable(what):
        return search_models(what, *arguments, **options)
    raise TypeError(f"search takes a SearchConfig, or a function that builds a model, received {type(what).__name__}")

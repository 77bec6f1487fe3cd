"""Indices out of range: TensorFlow's kernels refuse them on a CPU, XLA reads another row instead."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from kerasnn.keras_private import gen_array_ops, gen_nn_ops, gen_resource_variable_ops, original, replaced

FINE = (0, 0)
"""The number of the failed check, counted from 1, and the index that it found; zeros if no check failed."""

_REFUSALS = {
    "indices of rows": re.compile(r"indices\S* = (?P<index>-?\d+) is not in \[0, (?P<count>\d+)\)"),
    "labels": re.compile(r"label value of (?P<index>-?\d+) which is outside the valid range of \[0, (?P<count>\d+)\)"),
}
"""What TensorFlow's kernels say of an index out of range."""
_SOMEWHERE = "the model's step"
_NODE = re.compile(r"\{\{node (?:while/)*(\S+)/\w+\}\}")


class Bounds:
    """Checks of the indices that one traced step looks up, for a loop under XLA to stop at.

    Within `checked()` every lookup of rows, and every cross-entropy of labels, notes the largest or smallest index that
    is out of range. `failure()` then gives two numbers that the loop carries on, and `error` makes the message.

    Attributes:
        largest_table: rows of the largest table that rows were looked up in.
    """

    def __init__(self) -> None:
        self._found: list[tuple[tf.Tensor, tf.Tensor]] = []
        self._subjects: list[tuple[str, str]] = []
        self._graph: Any = None
        self.largest_table = 0

    @contextmanager
    def checked(self) -> Iterator[None]:
        """What is traced here is checked, but for what inner loops and branches look up."""
        self._found, self._subjects = [], []
        self._graph = tf.compat.v1.get_default_graph()
        with (
            replaced(gen_array_ops, gather_v2=self._gather(original(gen_array_ops, "gather_v2"))),
            replaced(
                gen_resource_variable_ops,
                resource_gather=self._resource_gather(original(gen_resource_variable_ops, "resource_gather")),
            ),
            replaced(
                gen_nn_ops,
                sparse_softmax_cross_entropy_with_logits=self._cross_entropy(
                    original(gen_nn_ops, "sparse_softmax_cross_entropy_with_logits")
                ),
            ),
        ):
            yield

    def failure(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The first check of the step that failed, as `FINE`."""
        failed, found = tf.constant(0), tf.constant(0, tf.int64)
        for number, (wrong, index) in reversed(list(enumerate(self._found, start=1))):
            failed, found = tf.where(wrong, number, failed), tf.where(wrong, index, found)
        return failed, found

    def error(self, failed: int, index: int) -> Exception:
        """What TensorFlow raises for an index out of range: its kind of error, in one line."""
        rule, where = self._subjects[failed - 1]
        return _error(rule, index, where)

    def _check(self, indices: Any, count: Any, rule: str) -> None:
        graph = tf.compat.v1.get_default_graph()
        if graph is not self._graph:
            return
        indices = tf.cast(indices, tf.int64)
        if 0 in indices.shape:
            return
        known = tf.get_static_value(count)
        count = tf.cast(count, tf.int64)
        low, high = tf.reduce_min(indices), tf.reduce_max(indices)
        self._found.append((tf.logical_or(low < 0, high >= count), tf.where(high >= count, high, low)))
        scopes = [scope for scope in graph.get_name_scope().split("/") if scope and not scope.startswith("while")]
        last = "" if known is None else f" to {int(known) - 1}"
        self._subjects.append((f"{rule} must be 0{last}", "/".join(scopes) or _SOMEWHERE))

    def _rows(self, indices: Any, shape: Any, count: Any) -> None:
        if len(shape) > 1 and shape[0]:
            self.largest_table = max(self.largest_table, int(shape[0]))
        self._check(indices, count, "indices of rows")

    def _gather(self, gather: Callable[..., Any]) -> Callable[..., Any]:
        def gather_v2(params: Any, indices: Any, axis: Any, batch_dims: int = 0, name: str | None = None) -> Any:
            params, at = tf.convert_to_tensor(params), tf.get_static_value(axis)
            if at is not None and params.shape.rank:
                size = params.shape[int(at)]
                count = tf.shape(params)[int(at)] if size is None else size
                # The table of an embedding; elsewhere axes are few.
                shape = params.shape if int(at) == 0 and batch_dims == 0 else ()
                self._rows(indices, shape, count)
            return gather(params, indices, axis, batch_dims, name)

        return gather_v2

    def _resource_gather(self, gather: Callable[..., Any]) -> Callable[..., Any]:
        def resource_gather(resource: Any, indices: Any, *arguments: Any, **options: Any) -> Any:
            handle = getattr(resource, "_handle_data", None)
            shapes = handle.shape_and_type if handle is not None and handle.is_set else ()
            if shapes:
                shape = [dimension.size for dimension in shapes[0].shape.dim]
                self._rows(indices, shape, shape[0])
            return gather(resource, indices, *arguments, **options)

        return resource_gather

    def _cross_entropy(self, entropy: Callable[..., Any]) -> Callable[..., Any]:
        def sparse_softmax_cross_entropy_with_logits(features: Any, labels: Any, name: str | None = None) -> Any:
            features = tf.convert_to_tensor(features)
            size = features.shape[-1]
            self._check(labels, tf.shape(features)[-1] if size is None else size, "labels")
            return entropy(features, labels, name)

        return sparse_softmax_cross_entropy_with_logits


@contextmanager
def in_one_line() -> Iterator[None]:
    """Within it, errors of TensorFlow's kernels for an index out of range read as those of `Bounds`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        for subject, pattern in _REFUSALS.items():
            if found := pattern.search(error.message):
                node = _NODE.search(error.message)
                where = node[1] if node else _SOMEWHERE
                raise _error(f"{subject} must be 0 to {int(found['count']) - 1}", int(found["index"]), where) from None
        raise


def _error(rule: str, index: int, where: str) -> Exception:
    return tf.errors.InvalidArgumentError(None, None, f"{rule}; received {index} in {where}")

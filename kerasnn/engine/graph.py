"""The operations of a traced step, which decide whether XLA runs it."""

from itertools import chain
from typing import Any, NamedTuple

import tensorflow as tf

LARGE_TABLE = 16_384
"""Rows of an embedding from which on XLA, which knows no sparse gradients, is slower than TensorFlow."""

# These kernels keep their generator's state: another graph draws other numbers.
_STATEFUL_DRAWS = {
    "Multinomial",
    "ParameterizedTruncatedNormal",
    "RandomGamma",
    "RandomPoisson",
    "RandomPoissonV2",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "TruncatedNormal",
}
# XLA gives the kernels' bits for a key and a counter, but turns them into other numbers, except for `_SAME_DRAWS`.
_DRAWS = ("StatelessRandom", "StatelessTruncated", "StatelessParameterized", "StatelessMultinomial", "Stateful")
_SAME_DRAWS = {
    "StatelessRandomGetAlg",
    "StatelessRandomGetKeyCounter",
    "StatelessRandomGetKeyCounterAlg",
    "StatelessRandomUniformFullIntV2",
    "StatelessRandomUniformIntV2",
    "StatefulPartitionedCall",
}
# XLA drops these.
_CHECKS = {"Assert", "CheckNumerics", "CheckNumericsV2"}
# Vectors of which only the line is defined: XLA gives some of them another sign.
_UP_TO_SIGN = {"SelfAdjointEigV2", "Svd"}
# XLA ends the process where a branch's number is computed from data.
_BRANCHES = {"Case", "StatelessCase"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
# About four to twelve times slower under XLA on a CPU.
_SLOW_ON_CPU = ("Conv2D", "Conv3D", "DepthwiseConv2d", "ResizeBilinear", "ResizeBicubic", "ResizeNearest")


class Operations(NamedTuple):
    """Types of the operations of a traced function, those of inner functions included."""

    types: frozenset[str]
    write_summaries: bool
    """Whether `tf.summary` was called: without a writer it leaves nothing but the names of its scope."""
    hand_on_shapes: bool
    """Whether an inner function hands on integers, such as shapes, to another one: to its gradient."""

    @classmethod
    def of(cls, function: Any) -> "Operations":
        """The operations of a concrete function."""
        graph = function.graph.as_graph_def()
        bodies = [graph.node, *(inner.node_def for inner in graph.library.function)]
        nodes = list(chain.from_iterable(bodies))
        summaries = any("write_summary" in node.name for node in nodes)
        return cls(frozenset(node.op for node in nodes), summaries, any(map(_hands_on_integers, bodies)))

    def stateful_draw(self) -> str | None:
        """An operation that draws other random numbers in every graph, or None."""
        return min(self.types & _STATEFUL_DRAWS, default=None)

    def against_loops(self) -> str | None:
        """Why these operations can't run in a loop with the numbers of plain Keras, or None."""
        if draw := self.stateful_draw():
            return f"{draw} (tf.random) draws other numbers in each graph; use keras.random with a seed generator"
        if self.write_summaries:
            return "the step writes tf.summary values, whose writer a callback opens later"
        return None

    def against_xla(self, largest_table: int, uneven: bool) -> str | None:
        """Why these operations run better without XLA, or draw other numbers with it; None where nothing is against it.

        Args:
            largest_table: rows of the largest table that rows are gathered from.
            uneven: whether the batch size was unknown when they were traced.
        """
        for name in sorted(self.types):
            if name.startswith(_DRAWS) and name not in _SAME_DRAWS:
                return f"XLA draws other numbers for {name}"
            if name in _CHECKS:
                return f"XLA leaves out {name}"
            if name in _UP_TO_SIGN:
                return f"XLA gives vectors of {name} other signs"
            if name in _BRANCHES:
                return f"XLA fails on {name}"
        if uneven and self.hand_on_shapes:
            # XLA takes a shape for a constant, and so all that its function is called with.
            return "XLA would compile anew for every block: the gradient of an inner tf.function needs the batch size"
        if tf.config.list_logical_devices("GPU"):
            return None
        for name in sorted(self.types):
            if name.startswith(_SLOW_ON_CPU):
                return f"{name} is slow under XLA on a CPU"
        if largest_table >= LARGE_TABLE:
            return f"the gradient of a table of {largest_table:,} rows is sparse without XLA alone"
        return None


def _hands_on_integers(nodes: Any) -> bool:
    calls = {node.name: node.attr["Tout"].list.type for node in nodes if node.op in _CALLS}
    for node in nodes:
        for source in node.input if node.op in _CALLS else ():
            name, *output = source.split(":")
            # "name:output:number" in a function, "name" or "name:number" in a graph.
            if name in calls and tf.as_dtype(calls[name][int(output[-1]) if output else 0]).is_integer:
                return True
    return False

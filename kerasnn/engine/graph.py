"""What a traced step consists of, and which program runs it best: read off its operations, not off a list of layers."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

LARGE_TABLE = 16_384
"""Rows of an embedding from which on XLA, which knows no sparse gradients, is slower than TensorFlow."""

# Generators in the kernel's memory: another graph draws other numbers.
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
# Of draws from a key and a counter XLA gives the kernels' bits, but for these it makes other numbers of them.
_DRAWS = ("StatelessRandom", "StatelessTruncated", "StatelessParameterized", "StatelessMultinomial", "Stateful")
_SAME_DRAWS = {
    "StatelessRandomGetAlg",
    "StatelessRandomGetKeyCounter",
    "StatelessRandomGetKeyCounterAlg",
    "StatelessRandomUniformFullIntV2",
    "StatelessRandomUniformIntV2",
    "StatefulPartitionedCall",
}
# XLA leaves these out.
_CHECKS = {"Assert", "CheckNumerics", "CheckNumericsV2"}
# About four to twelve times slower under XLA on a CPU.
_SLOW_ON_CPU = ("Conv2D", "Conv3D", "DepthwiseConv2d", "ResizeBilinear", "ResizeBicubic", "ResizeNearest")


class Operations(NamedTuple):
    """Types of the operations of a traced function, those of inner functions included."""

    types: frozenset[str]

    @classmethod
    def of(cls, function: Any) -> "Operations":
        """The operations of a concrete function."""
        return cls(frozenset(_types(function.graph.as_graph_def())))

    def stateful_draw(self) -> str | None:
        """An operation that draws other random numbers in every graph, or None."""
        return min(self.types & _STATEFUL_DRAWS, default=None)

    def against_xla(self, largest_table: int) -> str | None:
        """Why these operations run better without XLA, or draw other numbers with it; None where nothing is against it.

        Args:
            largest_table: rows of the largest table that rows are gathered from.
        """
        for name in sorted(self.types):
            if name.startswith(_DRAWS) and name not in _SAME_DRAWS:
                return f"XLA draws other numbers for {name}"
            if name in _CHECKS:
                return f"XLA leaves out {name}"
        if tf.config.list_logical_devices("GPU"):
            return None
        for name in sorted(self.types):
            if name.startswith(_SLOW_ON_CPU):
                return f"{name} is slow under XLA on a CPU"
        if largest_table >= LARGE_TABLE:
            return f"the gradient of a table of {largest_table:,} rows is sparse without XLA alone"
        return None


def _types(graph: Any) -> Iterator[str]:
    for node in graph.node:
        yield node.op
    for function in graph.library.function:
        for node in function.node_def:
            yield node.op

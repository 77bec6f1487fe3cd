"""The style of every figure, and how to save one. Figures are matplotlib's `Figure`, apart from its global state."""

import io
import os
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from kerasnn.config.schema import one_of
from kerasnn.files import replacing

# Okabe and Ito's palette stays distinguishable with every common kind of colour blindness; so do Blues and cividis.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6E6E6E"
PURPLE, SKY, INK = "#CC79A7", "#56B4E9", "#222222"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, INK, GREY)
"""Colours of lines; `line_styles` adds dashes where there are more lines than colours."""
SHADES = "Blues"
DPI = 110
SUFFIXES = (".png", ".svg", ".pdf")


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a file, which a reader never sees half-written.

    Args:
        figure: the figure.
        path: the file; its suffix, `.png`, `.svg` or `.pdf`, decides the format.

    Returns:
        The path.

    Raises:
        ValueError: for another suffix.

    >>> import tempfile
    >>> figure, axes = page(2, 2)
    >>> save(figure, Path(tempfile.mkdtemp()) / "page.svg").suffix
    '.svg'
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(one_of("suffix of a figure", path.suffix, SUFFIXES))
    with replacing(path) as temporary:
        _write(figure, temporary, path.suffix[1:])
    return path


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file.

    >>> to_png(page(2, 2)[0])[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    _write(figure, buffer, "png")
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """The figure as the bytes of an SVG file.

    >>> to_svg(page(2, 2)[0])[:5]
    b'<?xml'
    """
    buffer = io.BytesIO()
    _write(figure, buffer, "svg")
    return buffer.getvalue()


def _write(figure: Figure, file: Any, kind: str) -> None:
    if kind == "png":
        # Figure.savefig would draw everything twice.
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(file, "png", compress_level=2)
        return
    # No date and a fixed salt: the same figure gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "kerasnn"}):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)


def page(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """A white page with axes in the shared style: nothing cut off, light grid, no box around the data.

    >>> figure, axes = page(6.4, 3.6, rows=1, columns=2)
    >>> axes.shape
    (1, 2)

    Args:
        width, height: size in inches.
        rows, columns: number of axes.
        options: of `Figure.subplots`, such as `sharex`.

    Returns:
        The figure and its axes, `(rows, columns)`.
    """
    figure = Figure(
        figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09), facecolor="white"
    )
    every = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in every.flat:
        style(axes)
    return figure, every


def style(axes: Axes) -> None:
    """Apply the shared style to axes."""
    axes.title.set(fontsize=11, color=INK)
    axes.xaxis.label.set(fontsize=10, color=INK)
    axes.yaxis.label.set(fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color="#E4E4E4", linewidth=0.8)


def legend_above(figure: Figure, axes: Axes, columns: int, fontsize: float) -> None:
    """Add a legend of the lines of axes above all axes of a figure.

    >>> figure, axes = single_axes(3, 2)
    >>> line = axes.plot([1, 2], label="loss")
    >>> legend_above(figure, axes, columns=1, fontsize=8)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['loss']
    """
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=fontsize)


def line_styles(count: int) -> list[dict[str, Any]]:
    """Colour and dashes of lines that stay distinguishable with every common kind of colour blindness.

    >>> line_styles(1)
    [{'color': '#0072B2', 'linestyle': '-'}]
    """
    dashes = ("-", "--", ":", "-.")
    return [
        {"color": PALETTE[index % len(PALETTE)], "linestyle": dashes[index // len(PALETTE) % len(dashes)]}
        for index in range(count)
    ]


def single_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A page, its size in inches, with one pair of axes."""
    figure, axes = page(width, height)
    return figure, axes[0, 0]


def shortened(name: object, limit: int) -> str:
    """The name on one line of at most `limit` characters.

    >>> shortened("a very long name", 10)
    'a very lo…'
    """
    text = " ".join(str(name).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"

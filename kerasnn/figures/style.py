"""How every figure looks, and how one is saved; each is a matplotlib `Figure` that touches no global state."""

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

# Okabe and Ito's palette keeps its hues apart for every common kind of colour blindness; so do Blues and cividis.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6E6E6E"
PURPLE, SKY, INK = "#CC79A7", "#56B4E9", "#222222"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, INK, GREY)
"""For lines that are told apart; past the palette they are dashed too, see `line_styles`."""
SHADES = "Blues"
DPI = 110
SUFFIXES = (".png", ".svg", ".pdf")
# A matrix of this many classes still has room for its counts, and an axis for this many names.
COUNTED, NAMED = 20, 40


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure so that a reader never sees half of it: a temporary file, then a rename.

    Args:
        figure: what to write.
        path: file to write; its suffix, `.png`, `.svg` or `.pdf`, is the format.

    Returns:
        The path.

    Raises:
        ValueError: for another suffix.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(one_of("suffix of a figure", path.suffix, SUFFIXES))
    with replacing(path) as temporary:
        _write(figure, temporary, path.suffix[1:])
    return path


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, "png")
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """The figure as the bytes of an SVG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, "svg")
    return buffer.getvalue()


def _write(figure: Figure, file: Any, kind: str) -> None:
    if kind == "png":
        # Figure.savefig draws everything twice.
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(file, "png", compress_level=2)
        return
    # Without its date an SVG of the same figure is the same file.
    with matplotlib.rc_context({"svg.hashsalt": "kerasnn"}):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)


def page(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """A white page with axes in the shared style: nothing cut, light grid, no box around the data.

    Args:
        width, height: inches.
        rows, columns: axes on the page.
        options: of `Figure.subplots`, as `sharex`.

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
    """Give axes the shared style."""
    axes.title.set(fontsize=11, color=INK)
    axes.xaxis.label.set(fontsize=10, color=INK)
    axes.yaxis.label.set(fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color="#E4E4E4", linewidth=0.8)


def line_styles(count: int) -> list[dict[str, Any]]:
    """Colour and dashes of some lines, apart from each other for every common kind of colour blindness."""
    dashes = ("-", "--", ":", "-.")
    return [
        {"color": PALETTE[index % len(PALETTE)], "linestyle": dashes[index // len(PALETTE) % len(dashes)]}
        for index in range(count)
    ]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = page(width, height)
    return figure, axes[0, 0]


def _cut(name: object, limit: int) -> str:
    text = " ".join(str(name).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"

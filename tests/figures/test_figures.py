import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from kerasnn import figures

layers = keras.layers
NAMES = ["zero", "one", "two"]
PIXELS = np.arange(6 * 4, dtype=float).reshape(6, 4)
TRUE = np.array([0, 1, 2, 0, 1, 2])
PREDICTED = np.array([0, 2, 1, 0, 0, 2])
PROBABILITIES = np.array([[1, 0, 0], [0, 0.3, 0.7], [0, 0.9, 0.1], [1, 0, 0], [0.8, 0.2, 0], [0, 0, 1]])


def texts(figure: Figure) -> list[str]:
    """Every text of a drawn figure."""
    figures.to_png(figure)
    return [text for artist in figure.findobj(Text) if artist.get_visible() and (text := artist.get_text())]


def inside(figure: Figure) -> bool:
    """Whether nothing is cut by the figure's edge."""
    figures.to_png(figure)
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_confusion_matrix_writes_counts_and_shades_shares_of_the_true_class() -> None:
    figure = figures.confusion_matrix([[1500, 0, 500], [0, 0, 0], [1, 2, 7]], NAMES)
    shown = texts(figure)
    assert {"1,500", "500", "1", "2", "7", *NAMES, "1,507 of 2,010 right (75.0%)"} <= set(shown)
    assert "0" not in shown
    (image,) = figure.axes[0].images
    np.testing.assert_allclose(np.asarray(image.get_array()), np.array([[0.75, 0, 0.25], [0, 0, 0], [0.1, 0.2, 0.7]]))


@pytest.mark.parametrize(
    ("classes", "counts", "names"), [(2, True, 2), (20, True, 20), (40, False, 40), (100, False, 34)]
)
def test_confusion_matrix_stays_readable(classes: int, counts: bool, names: int) -> None:
    figure = figures.confusion_matrix(np.eye(classes, dtype=int) * 1234, [f"class {index}" for index in range(classes)])
    shown = texts(figure)
    assert ("1,234" in shown) == counts
    assert len([text for text in shown if text.startswith("class ")]) == 2 * names
    assert inside(figure)
    assert max(figure.get_size_inches()) < 13


def test_confusion_matrix_of_nothing_and_of_odd_names() -> None:
    assert "0 of 0 right" in texts(
        figures.confusion_matrix(np.zeros((2, 2), int), ["$x_", "a name that is far too long"])
    )


def test_confusion_matrix_refuses_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"matrix must have shape \(3, 3\), one row per class; received \(2, 2\)"):
        figures.confusion_matrix(np.eye(2), NAMES)


@pytest.mark.parametrize("image_shape", [(2, 2), (2, 2, 1), None])
def test_mistakes_are_shown_most_confident_first(image_shape: tuple[int, ...] | None) -> None:
    figure = figures.mistakes(PIXELS, TRUE, PREDICTED, PROBABILITIES, NAMES, image_shape)
    shown = texts(figure)
    if image_shape:
        assert [text for text in shown if "→" in text and "\n" in text] == [
            "two\n→ one 90%",
            "one\n→ zero 80%",
            "one\n→ two 70%",
        ]
        assert "3 of 6 wrong (true → predicted)" in shown
        pictures = [np.asarray(image.get_array()) for image in figure.axes[0].images]
        # Grey levels are shared by the page: examples 1, 2 and 4 hold 4 … 19.
        np.testing.assert_allclose(pictures[0], (PIXELS[2].reshape(2, 2) - 4) / 15)
    else:
        assert "3 of 6 wrong" in shown
        rows = [" ".join(text.split()) for text in shown if "%" in text]
        assert rows == ["2 two one 90.0% 8 9 10 11", "4 one zero 80.0% 16 17 18 19", "1 one two 70.0% 4 5 6 7"]
    assert inside(figure)


def test_mistakes_are_cut_at_count_and_features_at_eight() -> None:
    figure = figures.mistakes(np.zeros((6, 30)), TRUE, PREDICTED, PROBABILITIES, NAMES, count=2)
    assert "3 of 6 wrong, the 2 most confident (first 8 of 30 features)" in texts(figure)


@pytest.mark.parametrize("image_shape", [(2, 2), None])
def test_no_mistakes_is_said(image_shape: tuple[int, ...] | None) -> None:
    figure = figures.mistakes(PIXELS, TRUE, TRUE, PROBABILITIES, NAMES, image_shape)
    assert texts(figure)[0] == "No mistakes among 6 examples"


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (25, 1), (7, 3)])
def test_examples_are_labelled_images(count: int, channels: int) -> None:
    x = np.random.default_rng(0).random((40, 16 * channels))
    labels = np.arange(40) % 3
    figure = figures.examples(x, labels, NAMES, (4, 4, channels), count)
    assert [text for text in texts(figure) if text in NAMES] == [NAMES[label] for label in labels[:count]]
    images = figure.axes[0].images
    assert len(images) == count
    assert np.asarray(images[0].get_array()).shape == ((4, 4) if channels == 1 else (4, 4, 3))
    assert inside(figure)


def test_examples_refuse_a_shape_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"image_shape must have 4 values, as an example has; received \(3, 3\)"):
        figures.examples(PIXELS, TRUE, NAMES, (3, 3))


def test_predicted_against_true_tells_r_squared() -> None:
    y = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    off = y + np.array([[0, 1], [0, -1], [0, 0]])
    assert f"3 examples, R² = {1 - 2 / 202:.4f}" in texts(figures.predicted_against_true(y, off))
    assert "3 examples, R² = 1.0000" in texts(figures.predicted_against_true(y[:, 0], y[:, :1]))
    with pytest.raises(ValueError, match="as many values as y_true, 6; received 3"):
        figures.predicted_against_true(y, y[:, 0])


@pytest.mark.parametrize("per", ["epoch", "update"])
def test_learning_rate_draws_its_values(per: Any) -> None:
    figure = figures.learning_rate([0.1, 0.05, 0.025], per)
    (line,) = figure.axes[0].lines
    assert np.asarray(line.get_ydata()).tolist() == [0.1, 0.05, 0.025]
    assert np.asarray(line.get_xdata()).tolist() == [1, 2, 3]
    assert figure.axes[0].get_xlabel() == per


def test_learning_rate_refuses_another_unit() -> None:
    with pytest.raises(
        ValueError, match=r"per must be one of epoch, update; received 'epochs' \(did you mean 'epoch'\?\)"
    ):
        figures.learning_rate([0.1], "epochs")  # type: ignore[arg-type]


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="net")
        self.parts = hidden()

    def call(self, x: Any, training: bool = False) -> Any:
        for layer in self.parts:
            x = layer(x, training=training) if isinstance(layer, layers.Dropout) else layer(x)
        return x


def hidden() -> list[Any]:
    return [
        layers.Dense(5, "relu", name="hidden"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.5, name="dropout"),
        layers.Dense(3, "softmax", name="output"),
    ]


def build(style: str) -> keras.Model:
    if style == "sequential":
        return keras.Sequential([keras.Input((4,)), *hidden()], name="net")
    if style == "functional":
        tensor = inputs = keras.Input((4,), name="input")
        for layer in hidden():
            tensor = layer(tensor)
        return keras.Model(inputs, tensor, name="net")
    model = Subclassed()
    model(np.zeros((2, 4), "float32"))
    return model


def arrows(figure: Figure) -> list[tuple[int, int]]:
    """Boxes that each arrow leaves and enters, by their height on the page."""
    from matplotlib.patches import FancyArrowPatch

    ends = [patch._posA_posB for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]  # type: ignore[attr-defined]
    return [(round(start[1] - 0.01), round(end[1] + 0.01)) for start, end in ends]


@pytest.mark.parametrize("style", ["sequential", "functional", "subclassed"])
def test_architecture_shows_every_style_alike(style: str) -> None:
    figure = figures.architecture(build(style))
    shown = texts(figure)
    first = shown.index("hidden")
    assert shown[first : first + 16] == [
        *("hidden", "Dense, relu", "(batch, 5)", "25"),
        *("norm", "BatchNormalization", "(batch, 5)", "20"),
        *("dropout", "Dropout", "(batch, 5)", "–"),
        *("output", "Dense, softmax", "(batch, 3)", "18"),
    ]
    assert "net: 63 parameters, 53 trainable" in shown
    boxes = 5 if style == "functional" else 4
    assert arrows(figure) == [(box, box + 1) for box in range(boxes - 1)]
    assert inside(figure)


def test_architecture_follows_branches_and_opens_a_nested_model_one_level() -> None:
    deepest = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deepest")], name="deep")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, "gelu", name="inside"), deepest], name="inner")
    inputs = keras.Input((4,), name="input")
    merged = layers.Add(name="add")([inner(inputs), inputs])
    figure = figures.architecture(keras.Model(inputs, layers.Dense(2, name="output")(keras.ops.relu(merged))))
    shown = texts(figure)
    order = [name for name in shown if name in ("input", "inner", "inside", "deep", "deepest", "add", "output")]
    assert order == ["input", "inner", "inside", "deep", "add", "output"]
    assert "Dense, gelu" in shown
    # input → inner, past inner's two boxes → add, and around them; the operation between add and output is no layer.
    assert sorted(arrows(figure)) == [(0, 1), (0, 4), (3, 4), (4, 5)]


def test_architecture_of_a_deep_network_is_no_larger_than_an_image_can_be() -> None:
    model = keras.Sequential([keras.Input((2,)), *(layers.Dense(2) for _ in range(500))])
    assert figures.architecture(model).get_size_inches()[1] * figures.DPI < 2**16


@pytest.mark.parametrize(
    ("model", "rule"), [(keras.Sequential([layers.Dense(2)]), "built"), (keras.Sequential(), "have layers")]
)
def test_architecture_refuses_a_model_without_shape(model: keras.Model, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        figures.architecture(model)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_save_writes_the_suffix_s_format_and_nothing_else(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"figure{suffix}"
    assert figures.save(figures.learning_rate([0.1, 0.2]), path) == path
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_save_leaves_the_old_file_where_drawing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figure.svg"
    path.write_text("old")
    figure = figures.learning_rate([0.1])

    def fail(file: Any, **options: Any) -> None:
        Path(file).write_text("half")
        raise RuntimeError("full disk")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(RuntimeError):
        figures.save(figure, path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"figure.svg": "old"}


def test_save_refuses_another_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix of a figure must be one of \.png, \.svg, \.pdf; received '\.gif'"):
        figures.save(figures.learning_rate([0.1]), tmp_path / "figure.gif")


def test_same_figure_same_bytes(tmp_path: Path) -> None:
    for suffix in (".png", ".svg"):
        first, second = (
            figures.save(figures.learning_rate([0.1, 0.2]), tmp_path / f"{name}{suffix}").read_bytes() for name in "ab"
        )
        assert first == second


def test_to_png_has_the_figure_s_size(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(figures.to_png(figures.learning_rate([0.1])))
    with Image.open(path) as image:
        assert image.size == (math.floor(6.4 * figures.DPI), math.floor(3.2 * figures.DPI))


def test_figures_leave_matplotlib_and_its_state_alone() -> None:
    program = """
import sys, matplotlib
before = dict(matplotlib.rcParams)
from kerasnn import figures
figures.to_png(figures.confusion_matrix([[1, 0], [0, 1]], "ab"))
assert dict(matplotlib.rcParams) == before
assert not {"matplotlib.pyplot", "tensorflow", "keras"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_calibration() -> None:
    confidence = np.repeat([0.55, 0.95], [10, 30])
    right = np.r_[np.arange(10) < 5, np.arange(30) < 27]
    axes = figures.calibration(confidence, right).axes[0]
    assert axes.get_title() == "40 examples, expected calibration error 0.0500"
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.55, 0.5], [0.95, 0.9]])

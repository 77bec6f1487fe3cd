"""The gallery's curves are the package's own numbers, and its pictures are whole."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from kerasnn import figures
from kerasnn.config import catalog
from kerasnn.config.run import RunConfig
from kerasnn.gallery import functions, layers, networks, paths, weights
from kerasnn.gallery.draw import draw
from kerasnn.gallery.pictures import PICTURES
from kerasnn.tensorboard import event_files


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def curve(figure: Figure, title: str, line: str) -> tuple[np.ndarray, np.ndarray]:
    axes = next(axes for axes in figure.axes if axes.get_title() == title)
    found = next(each for each in axes.lines if each.get_label() == line)
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def inside(figure: Figure) -> bool:
    """Whether nothing is cut by the figure's edge."""
    figures.to_png(figure)
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_activations_are_all_there_with_their_true_derivatives() -> None:
    figure = functions.activation_curves(RunConfig())
    assert [title.split(" ")[0] for title in titles(figure)] == list(catalog.ACTIVATIONS)
    x, sigmoid = curve(figure, "sigmoid", "value")
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-x)), atol=1e-6)
    _, slope = curve(figure, "sigmoid", "derivative")
    np.testing.assert_allclose(slope, sigmoid * (1 - sigmoid), atol=1e-6)
    assert slope.max() <= 0.25
    # A derivative that jumps has a gap there, not a line.
    _, relu = curve(figure, "relu", "derivative")
    assert np.isnan(relu).sum() == 1
    assert set(relu[~np.isnan(relu)]) == {0, 1}
    assert not np.isnan(curve(figure, "exponential", "derivative")[1]).any()
    assert inside(figure)


def test_losses_are_all_there_with_their_true_gradients() -> None:
    figure = functions.loss_curves(RunConfig())
    assert titles(figure) == [*functions.LOSS_LINES, "binary_crossentropy, logits"]
    assert set(functions.LOSS_LINES) == set(catalog.LOSSES)
    x, loss = curve(figure, "huber", "loss")
    np.testing.assert_allclose(loss, np.where(np.abs(x) <= 1, x**2 / 2, np.abs(x) - 0.5), atol=1e-6)
    np.testing.assert_allclose(curve(figure, "huber", "gradient")[1], np.clip(x, -1, 1), atol=1e-6)
    p, loss = curve(figure, "categorical_crossentropy", "loss")
    np.testing.assert_allclose(loss, -np.log(p), atol=1e-5)
    assert inside(figure)


def test_initializers_follow_their_theory() -> None:
    theory = weights._theory()
    assert theory["glorot_uniform"][0].support() == pytest.approx((-((6 / 500) ** 0.5), (6 / 500) ** 0.5))
    assert theory["he_normal"][0].std() == pytest.approx((2 / 300) ** 0.5)
    assert theory["orthogonal"][0].std() == pytest.approx(300**-0.5)
    figure = weights.initializer_histograms(RunConfig())
    assert [title.splitlines()[0] for title in titles(figure)] == list(catalog.INITIALIZERS)
    assert inside(figure)


def test_signals_keep_their_variance_where_initializer_and_activation_suit() -> None:
    forward, backward = weights.variances("he_normal", "relu")
    assert forward.shape == backward.shape == (20,)
    # Of relu's outputs, whose second moment He keeps at 1, this is the part around the mean.
    assert 0.3 < forward[-1] < 1.5
    assert 0.3 < backward[0] < 3
    forward, backward = weights.variances("glorot_normal", "relu")
    assert forward[-1] / forward[0] == pytest.approx(2.0**-19, rel=0.9)
    # A deep sigmoid network's gradient vanishes within five layers.
    assert weights.variances("glorot_normal", "sigmoid", depth=6)[1][0] < 1e-5


def test_paths_are_the_optimizers_own() -> None:
    valley = paths.SURFACES[2]
    points = paths.path(valley, {"name": "sgd", "learning_rate": 0.05}, steps=3)
    x, y = valley.start
    for found in points:
        assert found[:2] == pytest.approx((x, y), abs=1e-5)
        well = 0.55 * np.exp(-((x + 1.2) ** 2) / 0.25) * 2 * (x + 1.2) / 0.25
        across = 8 * (y - 0.25 * x)
        x, y = x - 0.05 * (0.24 * (x - 2) + well - 0.25 * across), y - 0.05 * across
    # In that valley plain SGD stays in the local minimum, and momentum gets over it.
    assert paths.path(valley, {"name": "sgd", "learning_rate": 0.05})[-1, 2] > 0.5
    assert paths.path(valley, {"name": "momentum", "learning_rate": 0.02})[-1, 2] < 0.01


def test_animation_ends_with_the_whole_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SHOWN", {name: paths.SHOWN[name] for name in ("sgd", "adam")})
    monkeypatch.setattr(paths, "FRAMES", 4)
    with Image.open(io.BytesIO(paths.optimizer_animation(RunConfig()))) as image:
        assert image.n_frames == 4  # type: ignore[attr-defined]
        first = np.asarray(image.convert("RGB")).astype(int)
        image.seek(3)
        last = np.asarray(image.convert("RGB")).astype(int)
    for color in ((213, 94, 0), (34, 34, 34)):
        shown = [(np.abs(frame - color).sum(axis=-1) < 60).sum() for frame in (first, last)]
        assert shown[1] > shown[0] + 100


def test_schedules_draw_the_notes_numbers() -> None:
    figure = functions.schedule_curves(RunConfig())
    axes = next(each for each in figure.axes if each.get_title().startswith("multi_step"))
    epochs, rates = (np.asarray(values) for values in axes.lines[0].get_data())
    assert [rates[epochs == epoch][0] for epoch in (49, 50, 125, 160)] == [1, 0.5, 0.25, 0.125]
    assert inside(figure)


def test_dropout_scales_what_it_keeps() -> None:
    shown = titles(layers.dropout_masks(RunConfig()))
    assert "dropout 0.4, training\nvalues 0 and 1.67" in shown
    assert "dropout 0.4, inference\nvalues 1" in shown


def test_examples_refuse_data_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b,label\n" + "\n".join(f"{i},{i + 1},{i % 2}" for i in range(20)))
    config = RunConfig(task="binary", data={"name": "csv", "path": str(tmp_path / "table.csv")})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data must be images with one class each, received table for binary"):
        networks.data_examples(config)


def test_draw_leaves_files_and_tensorboard_images_and_keeps_those_of_before(tmp_path: Path) -> None:
    assert draw(tmp_path, pictures=["builders"]) == [tmp_path / "builders.png"]
    draw(tmp_path, pictures=["regression_losses"])
    raw = RawEventFileLoader(str(tmp_path / event_files.FILE)).Load()
    values = [value for record in raw for value in Event.FromString(record).summary.value]
    assert [value.tag for value in values] == ["regression_losses", "builders"]
    with Image.open(tmp_path / "builders.png") as image:
        assert image.size == (values[1].image.width, values[1].image.height)
    assert values[1].image.encoded_image_string == (tmp_path / "builders.png").read_bytes()
    with pytest.raises(ValueError, match=r"picture must be one of activations, .*did you mean 'builders'"):
        draw(tmp_path, pictures=["builder"])


def test_every_picture_has_a_function() -> None:
    modules = {"functions": functions, "weights": weights, "paths": paths, "layers": layers, "networks": networks}
    for described in PICTURES.values():
        module, _, name = described.partition(".")
        assert callable(getattr(modules[module], name))

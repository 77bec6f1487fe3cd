"""Makes the README's pictures anew: `python .readme/make.py`. It needs Chromium (Debian's package chromium)."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

from kerasnn import RunConfig, replace_at, train
from kerasnn.gallery.draw import draw
from kerasnn.report.write_report import report
from kerasnn.search.config import SearchConfig
from kerasnn.search.run_search import search
from kerasnn.study.run_study import study
from tests.browser.chromium import Browser

GALLERY = (
    *("activations", "dropout", "initializers", "losses", "optimizer_animation", "regression_losses", "schedules"),
    "signal_variance",
)

# Opens the groups of layers that the picture shows.
OPEN_GROUPS = """all(document).filter(node => node.tagName === 'BUTTON' &&
  ['gradient_norm', 'units_dead'].includes(node.textContent.trim().split(/\\s/)[0])).map(node => node.click()).length"""


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        logs = Path(temporary) / "logs"
        for path in draw(logs / "gallery", pictures=GALLERY):
            shutil.copy(path, HERE / path.name)
        study(study_dir=logs / "study")
        shutil.copy(logs / "study" / "differences.png", HERE / "study.png")
        quiet = {"report.progress": "silent"}
        train(replace_at(RunConfig(), {**quiet, "schedule.name": "cosine"}), logs / "runs" / "first")
        search(SearchConfig(run=replace_at(SearchConfig().run, quiet), trials=40), logs / "search")
        with Browser(Path(temporary) / "profile") as browser:
            browser.open(report(logs / "runs" / "first").as_uri())
            browser.wait("text().includes('By class')")
            size(browser, 1300, 1500)
            browser.screenshot(HERE / "report.png")
            for name, tab, shown in (
                ("runs", "scalars", "gradient_norm"),
                ("search", "hparams", "matching session groups"),
            ):
                show(browser, logs / name, tab, shown, HERE / f"{'dashboard' if tab == 'scalars' else tab}.png")


def size(browser: Browser, width: int, height: int) -> None:
    """Give the page a size in pixels."""
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)


def show(browser: Browser, folder: Path, tab: str, shown: str, path: Path) -> None:
    """A picture of TensorBoard."""
    program = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as board:
        try:
            assert board.stderr is not None
            line = next(line for line in board.stderr if "http://" in line)
            address = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert address is not None
            browser.open(f"{address[0]}#{tab}")
            browser.wait(f"text().includes({shown!r})")
            if tab == "scalars":
                browser.ask(OPEN_GROUPS)
            # Two curves beside each other, or all columns of a table, and nothing below them.
            size(browser, *((1160, 1250) if tab == "scalars" else (2050, 900)))
            time.sleep(8)  # for the curves to be drawn
            browser.screenshot(path)
        finally:
            board.terminate()


if __name__ == "__main__":
    main()

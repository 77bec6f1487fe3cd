"""What a user sees: TensorBoard and the reports of a real run, search and study, in a browser."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.report.write_report import report
from kerasnn.runs.train import train
from kerasnn.search.config import SearchConfig
from kerasnn.search.run_search import search
from kerasnn.study.config import StudyConfig
from kerasnn.study.run_study import study
from tests.browser.chromium import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian's package chromium)")

RUN = RunConfig.model_validate(
    {
        "network": {"hidden": [8]},
        "training": {"epochs": 3, "batch_size": 256},
        "report": {"progress": "silent"},
    }
)
# What a user's file may hold, and a name that a run's folder may have.
BAD = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
NAME = "<i>run"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a search and a study, the last two of one program, which is compiled once."""
    folder = tmp_path_factory.mktemp("logs")
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "<b>b</b>", "label"])
        rows.writerows([index % 7 / 7, index % 5 / 5, BAD if index % 2 else "plain"] for index in range(60))
    table = {"data.name": "csv", "data.path": str(folder / "table.csv")}
    train(replace_at(RUN, table), folder / "shown" / NAME)
    space = {"optimizer.learning_rate": {"min": 1e-3, "max": 1e-1, "sampling": "log"}}
    kept = {"space": space, "trials": 12, "run": json.loads(RUN.to_json())}
    search(SearchConfig.model_validate(kept), folder / "search")
    factors = {"optimizer.learning_rate": [0.01, 0.02], "network.kernel_initializer": ["glorot_normal", "he_normal"]}
    described = {"factors": factors, "seeds": 3, "run": json.loads(RUN.to_json()), "objective": "val_accuracy"}
    study(StudyConfig.model_validate(described), folder / "shown" / "study")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def boards(logs: Path) -> Iterator[dict[str, str]]:
    """Addresses of two TensorBoards: one on the search, one on the run and the study."""
    started, addresses = [], {}
    for name in ("search", "shown"):
        program = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs / name), "--host", "127.0.0.1"]
        process = subprocess.Popen(
            [*program, "--port", "0"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        started.append(process)
    try:
        for name, process in zip(("search", "shown"), started, strict=True):
            assert process.stderr is not None
            line = next(line for line in process.stderr if "http://" in line)
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert found is not None
            addresses[name] = found[0]
        yield addresses
    finally:
        for process in started:
            process.terminate()
            process.communicate(timeout=20)


def says(*texts: str) -> str:
    """A JavaScript expression: whether the page shows all of these."""
    return f"{json.dumps(texts)}.every(each => text().includes(each))"


def drawn(kind: str, count: int) -> str:
    """The first half of an expression: whether so many elements of a kind are there, images with a picture in them."""
    found = "loaded()" if kind == "IMG" else f"all(document).filter(node => node.tagName === '{kind}')"
    return f"{found}.length >= {count} && "


@pytest.mark.parametrize(
    ("board", "tab", "shown"),
    [
        (
            "shown",
            "scalars",
            drawn("VZ-LINE-CHART2", 2) + says("tag: epoch_accuracy", "gradient_norm", "learning_rate", "val_accuracy"),
        ),
        (
            "shown",
            "histograms",
            drawn("VZ-HISTOGRAM-TIMESERIES", 4)
            + says(f"activations/dense_1 {NAME}/train", "gradients/output/bias", "weights"),
        ),
        (
            "shown",
            "images",
            drawn("IMG", 2) + says("tag: confusion_matrix step 3", "tag: differences", "heat_map", "mistakes"),
        ),
        ("search", "hparams", says("matching session groups: 12", "optimizer.learning_rate", "best val_loss", "0011")),
        ("search", "scalars", says("tag: accuracy", "val_loss", "trials/0011")),
        ("shown", "hparams", says("matching session groups: 4", "network.kernel_initializer", "best val_accuracy")),
        (
            "shown",
            "text",
            says('"name": "table"', "against glorot_normal", "baseline", '"seeds": 3'),
        ),
    ],
    ids=lambda value: value if value.isalpha() else "shows",
)
def test_tensorboard_shows(browser: Browser, boards: dict[str, str], board: str, tab: str, shown: str) -> None:
    address = f"{boards[board]}#{tab}"
    browser.open(address)
    browser.wait(shown)


HEADINGS = ("Data", "Learning curves", "Health by layer", "Confusion matrix")


@pytest.mark.parametrize(
    ("name", "headings", "images"),
    [
        (f"shown/{NAME}", [*HEADINGS, "By class", "Configuration"], 8),
        ("search", ["Values and scores", "What decides", "Trials", "Configuration"], 3),
        ("shown/study", ["Means", "Against the baseline", "Learning curves", "Table", "Configuration"], 3),
    ],
)
def test_report_opens_whole_and_loads_nothing(
    browser: Browser, logs: Path, name: str, headings: list[str], images: int
) -> None:
    folder = logs / name
    browser.open(report(folder).as_uri())
    browser.wait("document.readyState === 'complete' && document.images.length > 0")
    assert browser.ask("[...document.querySelectorAll('h2')].map(node => node.textContent)") == headings
    browser.wait(f"document.images.length >= {images} && loaded().length === document.images.length")
    # Nothing sticks out of the page.
    assert browser.ask("document.documentElement.scrollWidth <= window.innerWidth")
    requests = [url for url in browser.requests if not url.startswith(("data:", "about:"))]
    assert requests == [(folder / "report.html").as_uri()]


def test_report_s_tables_sort_by_a_click(browser: Browser, logs: Path) -> None:
    browser.open(report(logs / "search").as_uri())
    browser.wait("document.readyState === 'complete' && document.querySelectorAll('tbody tr').length === 12")
    column = "[...document.querySelectorAll('tbody tr')].map(row => +row.cells[1].textContent)"
    ranked = browser.ask(column)
    browser.ask("document.querySelectorAll('th')[1].click()")
    assert browser.ask(column) == sorted(ranked)
    browser.ask("document.querySelectorAll('th')[1].click()")
    assert browser.ask(column) == sorted(ranked, reverse=True)


def test_names_that_look_like_html_are_shown_and_not_run(browser: Browser, logs: Path) -> None:
    browser.open(report(logs / "shown" / NAME).as_uri())
    browser.wait("document.readyState === 'complete' && document.images.length > 0")
    assert browser.ask("document.title") == NAME
    assert BAD in browser.ask("[...document.querySelectorAll('td.text')].map(node => node.textContent)")
    assert browser.ask("document.querySelectorAll('body script').length") == 1
    assert browser.ask("document.querySelectorAll('i').length") == 0

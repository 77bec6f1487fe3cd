"""The study: from a description to combinations with their intervals and a study folder."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kerasnn import figures
from kerasnn.data.loading import Data
from kerasnn.files import dated_path, delete_partial_files, refuse_links, write_text
from kerasnn.search import hparams
from kerasnn.search.result import SearchResult, read_search
from kerasnn.search.run_search import search
from kerasnn.search.space import canonical_json
from kerasnn.search.table import aligned, csv_text, short_names
from kerasnn.study.comparison import Cell, compare, is_baseline, level_text
from kerasnn.study.config import StudyConfig, StudySettings, load_study
from kerasnn.study.pictures import differences, heat_maps, learning_curves
from kerasnn.study.statistics import Interval, bands, padded
from kerasnn.tensorboard import event_files

CONTENT = (
    *("config.json", "table.csv", "heat_map.png", "differences.png", "learning_curves.png"),
    *(event_files.FILE, hparams.FILE, "search", "trials"),
)
"""The files and folders of a study folder."""


@dataclass(frozen=True, eq=False)
class StudyResult:
    """The result of a study.

    >>> StudyResult((), StudyConfig(), Path("logs")).rows()[0][:3]
    ['activation', 'kernel_initializer', 'val_accuracy']

    Args:
        cells: all combinations: those that share a baseline together, the best first.
        config: the study.
        study_dir: its folder.
    """

    cells: tuple[Cell, ...] = field(repr=False)
    config: StudySettings = field(repr=False)
    study_dir: Path

    def rows(self) -> list[list[str]]:
        """The table's rows, the headings first."""
        keys = list(self.config.factors)
        reference = ", ".join(level_text(level) for level in self.config.reference.values())
        headings = [self.config.search.objective_name, "95 % interval", f"against {reference}", "95 % interval"]
        rows = [[*short_names(keys), *headings, "p", "p (Holm)"]]
        for cell in self.cells:
            row = [level_text(cell.levels[key]) for key in keys]
            row += ["failed", "–"] if cell.score is None else [f"{cell.score.mean:.4f}", _range(cell.score)]
            if (comparison := cell.comparison) is not None:
                row += [f"{comparison.difference.mean:+.4f}", _range(comparison.difference, "+")]
                row += [_probability(comparison.p_value), _probability(comparison.p_adjusted)]
            else:
                row += ["baseline" if is_baseline(cell.levels, self.config) else "–", "–", "–", "–"]
            rows.append(row)
        return rows

    def table(self) -> str:
        """The table as text."""
        return aligned(self.rows())

    def figure(self) -> Figure:
        """The difference of every combination from its baseline, with its interval."""
        return differences(self.cells, self.config)


def study(
    config: StudyConfig | None = None, study_dir: str | Path | None = None, data: Data | None = None
) -> StudyResult:
    """Train every combination of some factors' levels with the same seeds, and compare them.

    The folder holds `config.json` (the study), `table.csv`, the figures `heat_map.png`, `differences.png` and
    `learning_curves.png`, all of them for TensorBoard too, each combination's mean curve and its line of the HParams
    page in `trials/`, and in `search/` the grid search that trains the study. A study that ended at any moment
    continues when it is called again with the same folder.

    Args:
        config: the study; None is the default study on the digits.
        study_dir: a folder that is new, empty or a study's; None makes `logs/<time>-study-<data>`.
        data: prepared data for all combinations; None loads the data that each run describes.

    Returns:
        Every combination with its score and its comparison.

    Raises:
        ValueError: one line, for a folder in use or of another study, and where every combination failed.

    >>> import tempfile
    >>> quiet = {"progress": "silent", "tensorboard": False, "health": False, "graph": False}
    >>> run = {"network": {"hidden": [4]}, "training": {"epochs": 1}, "report": quiet}
    >>> factors = {"optimizer.learning_rate": [0.001, 0.01]}
    >>> result = study(StudyConfig(run=run, factors=factors, seeds=2), tempfile.mkdtemp())
    >>> [cell.levels["optimizer.learning_rate"] for cell in result.cells]
    [0.01, 0.001]
    """
    config = config or StudyConfig()
    folder = study_dir or dated_path("study", config.run.data.name)
    return conduct(config, folder, lambda search_dir: search(config.search, search_dir, data))


def conduct(config: StudySettings, study_dir: str | Path, train: Callable[[Path], SearchResult]) -> StudyResult:
    """Train the combinations of a study, compare them and write the study's folder.

    Args:
        config: the study.
        study_dir: a folder that is new, empty or a study's.
        train: searches in a folder.
    """
    folder = Path(study_dir)
    journal = folder / "search" / "journal.jsonl"
    if folder.exists() and not journal.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"study_dir must be new, empty or a study's folder, received {folder}, which is none of them")
    refuse_links(folder, *CONTENT)
    delete_partial_files(folder)
    trials = train(folder / "search").trials
    write_text(folder / "config.json", config.to_json() + "\n")
    result = StudyResult(tuple(compare(trials, config)), config, folder)
    _write(result)
    return result


def read_study(study_dir: str | Path) -> StudyResult:
    """The result of a finished study, from its folder.

    Args:
        study_dir: the folder.

    Raises:
        FileNotFoundError: where the folder holds no study.
        ValueError: one line, where it is not finished or a file is damaged.
    """
    folder = Path(study_dir)
    refuse_links(folder, *CONTENT)
    config = load_study(folder)
    trials = read_search(folder / "search").trials
    if len(trials) < config.cells:
        raise ValueError(f"study must be finished, {folder} has {len(trials)} of {config.cells} combinations")
    return StudyResult(tuple(compare(trials, config)), config, folder)


def _range(interval: Interval, sign: str = "") -> str:
    return f"{interval.low:{sign}.4f} to {interval.high:{sign}.4f}"


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _write(result: StudyResult) -> None:
    """Write the study's files."""
    folder, config = result.study_dir, result.config
    write_text(folder / "table.csv", _to_csv(result))
    pictures = {"heat_map": heat_maps, "differences": differences, "learning_curves": learning_curves}
    for name, draw in pictures.items():
        figures.save(draw(result.cells, config), folder / f"{name}.png")
    if config.writes_tensorboard:
        _write_events(result, {name: (folder / f"{name}.png").read_bytes() for name in pictures})


def _write_events(result: StudyResult, pictures: Mapping[str, bytes]) -> None:
    """Write the study for TensorBoard: the table, the configuration, the PNG pictures by name, a run for each cell."""
    folder, config = result.study_dir, result.config
    headings, *rows = [[cell.replace("|", "\\|") for cell in row] for row in result.rows()]
    lines = ["| " + " | ".join(row) + " |" for row in (headings, ["---"] * len(headings), *rows)]
    values = [
        event_files.text("table", "\n".join(lines)),
        event_files.text("config", f"```json\n{config.to_json()}\n```"),
        *(event_files.image(name, encoded) for name, encoded in pictures.items()),
    ]
    event_files.write(folder, [(0, values)])
    # A cell's rank, and so its run's name, may differ from that of the last time.
    hparams.delete(folder / "trials")
    hparams.write_search(folder, config.search, [])
    for number, cell in enumerate(result.cells):
        levels = ", ".join(map(level_text, cell.levels.values()))
        # A level's text may contain characters that a folder's name may not.
        name = re.sub(r"[^\w ,.=-]", "_", f"{number:02d} {levels}")[:80]
        curves: dict[str, list[float]] = {}
        if cell.curves:
            tags = [f"{config.search.objective_name}/{part}" for part in ("low", "mean", "high")]
            curves = dict(zip(tags, bands(padded(cell.curves)).tolist(), strict=True))
        scores = [] if cell.score is None else [(cell.score.mean, max(map(len, cell.curves)))]
        status = "failed" if cell.score is None else "completed"
        hparams.write_trial(folder, name, config.search, cell.levels, status, [curves], scores)


def _to_csv(result: StudyResult) -> str:
    config = result.config
    headings = [*config.factors, "mean", "low", "high", "difference", "difference_low", "difference_high"]
    headings += [
        "p_value",
        "p_adjusted",
        *(f"seed_{config.first_seed + seed}" for seed in range(config.seeds)),
        "error",
    ]
    rows: list[list[Any]] = [headings]
    for cell in result.cells:
        levels = cell.levels.values()
        row: list[Any] = [level if isinstance(level, str | int | float) else canonical_json(level) for level in levels]
        row += cell.score or [None] * 3
        comparison = cell.comparison
        row += [*comparison.difference, comparison.p_value, comparison.p_adjusted] if comparison else [None] * 5
        rows.append([*row, *(cell.scores or [None] * config.seeds), cell.error])
    return csv_text(rows)

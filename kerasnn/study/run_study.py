"""One study, whole: a description in, combinations with their intervals and a study folder out."""

import csv
import io
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from kerasnn import figures
from kerasnn.data.loading import Data
from kerasnn.files import dated_path, write_text
from kerasnn.search import hparams
from kerasnn.search.run_search import read_search, search
from kerasnn.search.space import as_text
from kerasnn.search.trial import short_names
from kerasnn.study.comparison import Cell, compared, is_baseline, level_text
from kerasnn.study.config import StudyConfig
from kerasnn.study.pictures import differences, heat_maps, learning_curves
from kerasnn.study.statistics import Interval, bands, padded
from kerasnn.tensorboard import event_files

__all__ = ["Cell", "StudyConfig", "StudyResult", "study"]


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What a study gives.

    Args:
        cells: all combinations, those compared with one another together, the best of them first.
        config: the study.
        study_dir: its folder.
    """

    cells: tuple[Cell, ...] = field(repr=False)
    config: StudyConfig = field(repr=False)
    study_dir: Path

    def rows(self) -> list[list[str]]:
        """The table, a row of headings first."""
        keys = list(self.config.factors)
        reference = ", ".join(level_text(level) for level in self.config.reference.values())
        heads = [self.config.search.objective_name, "95 % interval", f"against {reference}", "95 % interval"]
        rows = [[*short_names(keys), *heads, "p", "p (Holm)"]]
        for cell in self.cells:
            row = [level_text(cell.levels[key]) for key in keys]
            row += ["failed", "–"] if cell.score is None else [f"{cell.score.mean:.4f}", _range(cell.score)]
            if cell.comparison is not None:
                compared = cell.comparison
                row += [f"{compared.difference.mean:+.4f}", _range(compared.difference, "+")]
                row += [_probability(compared.p_value), _probability(compared.p_adjusted)]
            else:
                row += ["baseline" if is_baseline(cell.levels, self.config) else "–", "–", "–", "–"]
            rows.append(row)
        return rows

    def table(self) -> str:
        """The table as text."""
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def study(
    config: StudyConfig | None = None, study_dir: str | Path | None = None, data: Data | None = None
) -> StudyResult:
    """Train every combination of some factors' levels with the same seeds, and compare them.

    The folder holds `config.json` (the study), `table.csv`, the pictures `heat_map.png`, `differences.png` and
    `learning_curves.png`, all of them for TensorBoard too, where `trials/` has each combination's mean curve and its
    line of HParams, and in `search/` the grid search that trains it: a study that was ended anywhere goes on when
    called again with the same folder.

    Args:
        config: the study; None is the default study on the digits.
        study_dir: a folder that is new, empty or a study's; None makes `logs/<time>-study-<data>`.
        data: prepared data for all combinations; None loads what each run describes.

    Returns:
        Every combination with its score and its comparison.

    Raises:
        ValueError: one line, for a folder in use or of another study, and where every combination failed.
    """
    config = config or StudyConfig()
    folder = Path(study_dir or dated_path("study", config.run.data.name))
    journal = folder / "search" / "journal.jsonl"
    if folder.exists() and not journal.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"study_dir must be new, empty or a study's folder, received {folder}, which is none of them")
    trials = search(config.search, folder / "search", data).trials
    write_text(folder / "config.json", config.to_json() + "\n")
    result = StudyResult(tuple(compared(trials, config)), config, folder)
    _write(result)
    return result


def read_study(study_dir: str | Path) -> StudyResult:
    """What a study has found, from its folder.

    Args:
        study_dir: the folder.

    Raises:
        FileNotFoundError: where the folder holds no study.
        ValueError: one line, where it is not finished or a file is damaged.
    """
    folder = Path(study_dir)
    config = StudyConfig.load(folder)
    trials = read_search(folder / "search").trials
    if len(trials) < config.cells:
        raise ValueError(f"study must be finished, {folder} has {len(trials)} of {config.cells} combinations")
    return StudyResult(tuple(compared(trials, config)), config, folder)


def _range(found: Interval, sign: str = "") -> str:
    return f"{found.low:{sign}.4f} to {found.high:{sign}.4f}"


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _write(result: StudyResult) -> None:
    """The study's files, and its part of TensorBoard."""
    folder, config = result.study_dir, result.config
    write_text(folder / "table.csv", _to_csv(result))
    pictures = {
        "heat_map": heat_maps(result.cells, config),
        "differences": differences(result.cells, config),
        "learning_curves": learning_curves(result.cells, config),
    }
    for name, figure in pictures.items():
        figures.save(figure, folder / f"{name}.png")
    if not config.run.report.tensorboard:
        return
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in result.rows()]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    values = [
        event_files.text("table", "\n".join(lines)),
        event_files.text("config", f"```json\n{config.to_json()}\n```"),
    ]
    values += [event_files.image(name, (folder / f"{name}.png").read_bytes()) for name in pictures]
    event_files.write(folder, [(0, values)])
    # Written again, a combination may have another place and so another name.
    shutil.rmtree(folder / "trials", ignore_errors=True)
    hparams.write_search(folder, config.search, [])
    for number, cell in enumerate(result.cells):
        name = f"{number:02d} " + ", ".join(level_text(level) for level in cell.levels.values())
        curves: dict[str, list[float]] = {}
        if cell.curves:
            tags = [f"{config.search.objective_name}/{part}" for part in ("low", "mean", "high")]
            curves = dict(zip(tags, bands(padded(cell.curves)).tolist(), strict=True))
        best = None if cell.score is None else (cell.score.mean, max(map(len, cell.curves)))
        status = "failed" if cell.score is None else "completed"
        # A level's text may hold anything, a folder's name not.
        run = re.sub(r"[^\w ,.=-]", "_", name)[:80]
        hparams.write_trial(folder, number, config.search, cell.levels, status, [(curves, best)], run)


def _to_csv(result: StudyResult) -> str:
    keys = list(result.config.factors)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        [*keys, "mean", "low", "high", "difference", "difference_low", "difference_high", "p_value", "p_adjusted"]
        + [f"seed_{result.config.run.seed + seed}" for seed in range(result.config.seeds)]
        + ["error"]
    )
    for cell in result.cells:
        levels = [level if isinstance(level, str | int | float) else as_text(level) for level in cell.levels.values()]
        against: list[float | None] = [None] * 5
        if cell.comparison is not None:
            against = [*cell.comparison.difference, cell.comparison.p_value, cell.comparison.p_adjusted]
        scores = cell.scores or [None] * result.config.seeds
        rows.writerow([*levels, *(cell.score or [None] * 3), *against, *scores, cell.error])
    return text.getvalue()

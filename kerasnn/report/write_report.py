"""Reports about run, search and study folders."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from kerasnn.config.description import parse_json
from kerasnn.files import write_text
from kerasnn.report import html, pictures
from kerasnn.report.runs import comparison_sections, read_run, run_sections
from kerasnn.report.schedules import schedules
from kerasnn.search.config import SearchConfig
from kerasnn.search.generations import generation_rows
from kerasnn.search.importance import importance
from kerasnn.search.oracle_config import Pbt
from kerasnn.search.pictures import by_trial, pareto_front
from kerasnn.search.result import SearchResult, read_search
from kerasnn.search.table import cell_text, short_names
from kerasnn.study.pictures import differences, heat_maps, learning_curves
from kerasnn.study.run_study import StudyResult, read_study


def report(folders: str | Path | Sequence[str | Path], path: str | Path | None = None) -> Path:
    """Write one HTML page about a run, a search or a study, or about several runs side by side.

    The page contains its figures and its style, loads nothing, and escapes every text.

    Args:
        folders: a run, search or study folder, or several run folders.
        path: the file to write; None writes `report.html` into the folder, or into the working directory for several.

    Returns:
        The file.

    Raises:
        FileNotFoundError: where a folder is none of these.
        ValueError: one line, for several folders that are not all runs, and for damaged files.
    """
    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    kinds = [kind_of(folder) for folder in paths]
    if len(paths) > 1:
        if set(kinds) != {"run"}:
            received = ", ".join(f"{folder} ({kind})" for folder, kind in zip(paths, kinds, strict=True))
            raise ValueError(f"several folders must all be runs, received {received}")
        runs = [read_run(folder) for folder in paths]
        page = html.page(f"{len(runs)} runs", "kerasnn, runs compared", comparison_sections(runs))
        target = Path("report.html")
    else:
        folder, kind = paths[0], kinds[0]
        match kind:
            case "study":
                sections = _study_sections(read_study(folder))
            case "search":
                sections = _search_sections(read_search(folder))
            case _:
                sections = run_sections(read_run(folder))
        page = html.page(folder.resolve().name, f"kerasnn, {kind}", sections)
        target = folder / "report.html"
    target = target if path is None else Path(path)
    write_text(target, page)
    return target


def kind_of(folder: Path) -> str:
    """The kind of a folder, "run", "search" or "study", by its `config.json`.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: one line, where it is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"folder must be a run's, a search's or a study's with config.json, received {folder}")
    described = parse_json(path.read_text(encoding="utf-8"))
    return "study" if "factors" in described else "search" if "space" in described else "run"


def _search_sections(result: SearchResult) -> Iterator[tuple[str, Markup]]:
    config, trials = result.config, result.trials
    failed = sum(trial.score is None for trial in trials)
    tiles = [
        ("trials", f"{len(trials)}"),
        ("failed", f"{failed}"),
        _best(result),
        ("oracle", config.oracle.name),
        ("seconds of training", f"{sum(trial.seconds for trial in trials):.0f}"),
    ]
    yield "", html.tiles(tiles)
    if failed < len(trials):
        if len(config.objectives) > 1:
            yield "Pareto front", html.pictures([("Pareto front", pareto_front(trials, config))])
        if isinstance(config.oracle, Pbt):
            yield "Schedules", html.pictures([("schedules", schedules(trials, config))])
            headings, *intervals = generation_rows(trials, config)
            cells = [["–" if cell is None else cell_text(cell) for cell in row] for row in intervals]
            yield "Intervals", html.table([str(each) for each in headings], cells)
        shown = [("parallel coordinates", result.figure())]
        drawn = html.pictures([*shown, ("scores by trial", by_trial(trials, config))])
        note = (
            "A trial is one training, a line from its values to its score; the darker, the better. The oracle is the "
            f"algorithm that proposed the values. The objective, {config.objective_name}, ranks trials by their best "
            "epoch."
        )
        yield "Values and scores", html.joined([html.paragraph(note, "note"), drawn])
        yield "What decides", _importance(result)
    keys = list(config.space)
    metrics = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
    rows = [
        [f"{rank}", f"{trial.number}", _score(trial.score), _score(trial.std), f"{trial.epoch}/{trial.epochs}"]
        + [trial.status]
        + [cell_text(trial.values[key]) if key in trial.values else "–" for key in keys]
        + [f"{trial.metrics[name]:.4g}" if name in trial.metrics else "–" for name in metrics]
        + [trial.error or ""]
        for rank, trial in enumerate(trials, 1)
    ]
    names = short_names(keys)
    headings = ["rank", "trial", config.objective_name, "std", "epoch", "status", *names, *metrics, "error"]
    yield "Trials", html.table(headings, rows, sortable=True, marked=0)
    parts = [html.folded("config.json", config.to_json())]
    if config.has_best_run:
        if isinstance(config, SearchConfig):
            best = html.folded("The best trial's run", result.best_config.to_json())
        else:
            best = html.folded("The best trial's values", json.dumps(result.best.values, indent=2))
        parts.insert(0, best)
    yield "Configuration", html.joined(parts)


def _best(result: SearchResult) -> tuple[str, str]:
    """Heading and text of the tile about the best trials."""
    if len(result.config.objectives) > 1:
        return "on the Pareto front", f"{len(result.best_trials)}"
    return f"best {result.config.objective_name}", _score(result.best.score)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _importance(result: SearchResult) -> Markup:
    try:
        decisive = importance(result.trials, result.config)
    except ValueError as error:
        return html.paragraph(str(error), "note")
    note = (
        f"A random forest explains {max(decisive.r_squared, 0):.0%} of the ranks of held-out trials (R²). A bar is how "
        "much of that is lost when a key's values are shuffled, five-fold cross-validated; a line is one standard "
        "deviation."
    )
    if decisive.r_squared < 0.2:
        note += " It explains so little that the order of the bars means little."
    drawn = html.pictures([("importance of hyperparameters", pictures.importances(decisive))])
    return html.joined([drawn, html.paragraph(note, "note")])


def _study_sections(result: StudyResult) -> Iterator[tuple[str, Markup]]:
    config, cells = result.config, result.cells
    tiles = [
        ("combinations", f"{config.cells}"),
        ("seeds of each", f"{config.seeds}"),
        ("objective", config.search.objective_name),
        ("baseline", ", ".join(cell_text(level) for level in config.reference.values())),
    ]
    yield "", html.tiles(tiles)
    yield "Means", html.pictures([("heat map", heat_maps(cells, config))])
    yield "Against the baseline", html.pictures([("differences", differences(cells, config))])
    yield "Learning curves", html.pictures([("learning curves", learning_curves(cells, config))])
    note = (
        "Intervals are Student's, over seeds; differences are seed by seed; p is the paired t-test's, in the last "
        "column with Holm's correction for all comparisons on this page."
    )
    as_loss = config.search.as_loss
    losses = [(as_loss(cell.score.mean), index) for index, cell in enumerate(cells) if cell.score]
    headings, *rows = result.rows()
    best = min(losses)[1] if losses else -1
    table = html.table(headings, rows, text=len(config.factors), sortable=True, marked=best)
    yield "Table", html.joined([table, html.paragraph(note, "note")])
    yield "Configuration", html.folded("config.json", config.to_json())

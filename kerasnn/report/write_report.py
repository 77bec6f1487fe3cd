"""A report of what folders hold."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from kerasnn.config.description import parse_json
from kerasnn.files import write_text
from kerasnn.report import html, pictures
from kerasnn.report.runs import comparison_sections, read_run, run_sections
from kerasnn.search.importance import importance
from kerasnn.search.run_search import SearchResult, read_search
from kerasnn.search.trial import cell_text, short_names
from kerasnn.study.pictures import differences, heat_maps, learning_curves
from kerasnn.study.run_study import StudyResult, read_study


def report(folders: str | Path | Sequence[str | Path], path: str | Path | None = None) -> Path:
    """Write one HTML page about a run, a search or a study, or about several runs side by side.

    The page holds its pictures and its style, loads nothing from anywhere, and shows every text as text.

    Args:
        folders: a folder of any kind, or several run folders.
        path: the file to write; None makes `report.html` in the folder, in the working folder for several.

    Returns:
        The file.

    Raises:
        FileNotFoundError: where a folder holds none of them.
        ValueError: one line, for several folders that are not all runs, and for damaged files.
    """
    places = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    kinds = [kind_of(place) for place in places]
    if len(places) > 1 and set(kinds) != {"run"}:
        told = ", ".join(f"{place} ({kind})" for place, kind in zip(places, kinds, strict=True))
        raise ValueError(f"several folders must all be runs, received {told}")
    if len(places) > 1:
        runs = [read_run(place) for place in places]
        title, sections = f"{len(runs)} runs", comparison_sections(runs)
    else:
        title = places[0].resolve().name
        match kinds[0]:
            case "study":
                sections = _study_sections(read_study(places[0]))
            case "search":
                sections = _search_sections(read_search(places[0]))
            case _:
                sections = run_sections(read_run(places[0]))
    target = Path(path) if path is not None else (places[0] if len(places) == 1 else Path()) / "report.html"
    write_text(target, html.page(title, f"kerasnn, {kinds[0] if len(places) == 1 else 'runs compared'}", sections))
    return target


def kind_of(folder: Path) -> str:
    """ "run", "search" or "study", by the folder's `config.json`.

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
    yield (
        "",
        html.tiles(
            [
                ("trials", f"{len(trials)}"),
                ("failed", f"{failed}"),
                (f"best {config.objective_name}", "–" if result.best.score is None else f"{result.best.score:.4f}"),
                ("oracle", config.oracle.name),
                ("seconds of training", f"{sum(trial.seconds for trial in trials):.0f}"),
            ]
        ),
    )
    if failed < len(trials):
        shown = [("parallel coordinates", pictures.parallel_coordinates(trials, config))]
        yield "Values and scores", html.pictures([*shown, ("scores by trial", pictures.by_trial(trials, config))])
        yield "What decides", _importance(result)
    keys = list(config.space)
    metrics = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
    rows = [
        [f"{rank}", f"{trial.number}", "–" if trial.score is None else f"{trial.score:.4f}"]
        + ["–" if trial.std is None else f"{trial.std:.4f}", f"{trial.epoch}/{trial.epochs}", trial.status]
        + [cell_text(trial.values[key]) if key in trial.values else "–" for key in keys]
        + [f"{trial.metrics[name]:.4g}" if name in trial.metrics else "–" for name in metrics]
        + [trial.error or ""]
        for rank, trial in enumerate(trials, 1)
    ]
    head = ["rank", "trial", config.objective_name, "std", "epoch", "status", *short_names(keys), *metrics, "error"]
    yield "Trials", html.table(head, rows, sortable=True, marked=0)
    best = config.run_with(result.best.values).to_json()
    yield (
        "Configuration",
        html.joined([html.folded("The best trial's run", best), html.folded("config.json", config.to_json())]),
    )


def _importance(result: SearchResult) -> Markup:
    try:
        found = importance(result.trials, result.config)
    except ValueError as error:
        return html.paragraph(str(error), "note")
    told = (
        f"A random forest explains {max(found.r_squared, 0):.0%} of the ranks of trials that it has not seen (R²). "
        "A bar is what is lost of that when a key's values are shuffled, five-fold cross-validated; lines are one "
        "standard deviation."
    )
    if found.r_squared < 0.2:
        told += " It explains so little that the order of the bars says little."
    drawn = html.pictures([("importance of hyperparameters", pictures.importances(found))])
    return html.joined([drawn, html.paragraph(told, "note")])


def _study_sections(result: StudyResult) -> Iterator[tuple[str, Markup]]:
    config, cells = result.config, result.cells
    yield (
        "",
        html.tiles(
            [
                ("combinations", f"{config.cells}"),
                ("seeds of each", f"{config.seeds}"),
                ("objective", config.search.objective_name),
                ("baseline", ", ".join(cell_text(level) for level in config.reference.values())),
            ]
        ),
    )
    yield "Means", html.pictures([("heat map", heat_maps(cells, config))])
    yield "Against the baseline", html.pictures([("differences", differences(cells, config))])
    yield "Learning curves", html.pictures([("learning curves", learning_curves(cells, config))])
    head, *rows = result.rows()
    told = (
        "Intervals are Student's, over seeds; differences are seed by seed, and p is the paired t-test's, in the last "
        "column with Holm's correction for all comparisons on this page."
    )
    scored = [(cell.score.mean, number) for number, cell in enumerate(cells) if cell.score]
    best = (max if config.search.direction == "max" else min)(scored)[1] if scored else -1
    yield (
        "Table",
        html.joined(
            [
                html.table(head, rows, text=len(config.factors), sortable=True, marked=best),
                html.paragraph(told, "note"),
            ]
        ),
    )
    yield "Configuration", html.folded("config.json", config.to_json())

"""The command line of a study."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kerasnn.commands.command import DONE, USAGE, complain, given, guarded, import_tensorflow
from kerasnn.config.description import replace_at
from kerasnn.study.config import StudyConfig

PROGRAM = "study.py"


class _StudySettings(StudyConfig, BaseSettings):
    """Compare settings factorially, each combination over several seeds, with 95 % intervals. The same command with the
    same --study_dir continues a study that was ended."""

    model_config = SettingsConfigDict(cli_hide_none_type=True, cli_use_class_docs_for_groups=True)

    config: str | None = Field(
        default=None, description="JSON file, or a study folder whose config.json is meant; flags change it."
    )
    study_dir: str | None = Field(
        default=None,
        description="Folder: new, empty, or a study's, which is then continued; null makes logs/<time>-study-<data>.",
    )


def study(arguments: Sequence[str] | None = None) -> int:
    """Run a study from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    return guarded(PROGRAM, lambda: _study(arguments))


def _study(arguments: Sequence[str] | None) -> int:
    try:
        flags = given(_StudySettings, PROGRAM, arguments)
        start, study_dir = flags.pop("config", None), flags.pop("study_dir", None)
        if start is None and study_dir is not None and (Path(study_dir) / "config.json").is_file():
            start = study_dir
        config = replace_at(StudyConfig() if start is None else StudyConfig.load(start), flags)
        if config.run.data.name == "arrays":
            raise ValueError("run.data.name 'arrays' is for study() in Python; here give csv, npz or a data set's name")
    except (ValueError, FileNotFoundError) as error:
        return complain(PROGRAM, error, USAGE)
    import_tensorflow()
    from kerasnn.study.run_study import study as run

    result = run(config, study_dir)
    print(result.table())
    print(f"study folder  {result.study_dir}")
    print(f"dashboard     tensorboard --logdir {result.study_dir}")
    return DONE

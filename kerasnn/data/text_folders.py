"""Texts from a folder, as a table with a row for each file."""

from pathlib import Path
from typing import TYPE_CHECKING

from kerasnn.files import check_size

if TYPE_CHECKING:
    import pandas as pd

TEXT, CLASS = "text", "class"
"""Names of the columns."""
ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")


def text_files(path: str | Path) -> list[Path]:
    """The texts in a folder and its subfolders, sorted by name, or the one text that is given.

    Raises:
        ValueError: one line: nothing there, or a folder without texts.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ValueError(f"data.path must be a folder of texts, received {folder}, which does not exist")
    found = sorted(file for file in folder.rglob("*.txt") if file.is_file())
    if not found:
        raise ValueError(f"{folder} must hold texts (.txt); it holds none")
    return found


def read_text_folder(path: str | Path, encoding: str | None = None) -> "pd.DataFrame":
    """A table with the columns `text` and, where the texts lie in subfolders, `class` with the subfolder's name.

    Args:
        path: a folder of .txt files, or with a subfolder of them for each class; or one text.
        encoding: their character encoding; None: utf-8, else that of Windows for Western Europe.

    Raises:
        ValueError: one line: no texts, or a file that does not have the encoding (by name).
    """
    import pandas as pd

    folder, files = Path(path).expanduser(), text_files(path)
    check_size(folder, sum(file.stat().st_size for file in files))
    table = pd.DataFrame({TEXT: [_read(file, encoding) for file in files]}, dtype=object)
    if folder.is_dir() and all(file.parent != folder for file in files):
        table[CLASS] = [file.relative_to(folder).parts[0] for file in files]
    return table


def _read(file: Path, encoding: str | None) -> str:
    content = file.read_bytes()
    for each in ENCODINGS if encoding is None else (encoding,):
        try:
            return content.decode(each)
        except LookupError:
            raise ValueError(f"data.encoding must be an encoding that Python knows, received {encoding!r}") from None
        except UnicodeDecodeError:
            continue
    raise ValueError(f"{file} must be text in the encoding {encoding}")

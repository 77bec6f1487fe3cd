"""The Python of the tutorials runs, block after block; that of all other pages is made of names that exist."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import kerasnn

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
TUTORIALS = [
    page for page in PAGES if page.parent.name in ("tutorials", "concepts") and "```python" in page.read_text()
]


def blocks(page: Path) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_python_of_a_tutorial_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def named_in(tree: ast.AST) -> list[tuple[str, str]]:
    """Modules of kerasnn and the names that are taken from them."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "kerasnn":
            found += [(node.module, alias.name) for alias in node.names]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "kerasnn":
            found.append(("kerasnn", node.attr))
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("schedules", "figures")
        ):
            found.append((getattr(kerasnn, node.value.id).__name__, node.attr))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_names_in_the_python_of_a_page_exist(page):
    for block in blocks(page):
        for module, name in named_in(ast.parse(block)):
            try:
                importlib.import_module(f"{module}.{name}")
            except ModuleNotFoundError:
                assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"

"""A module imports only from strictly lower levels."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEVELS = {
    "kerasnn": 0,
    "kerasnn.files": 1,
    "kerasnn.attributes": 1,
    "kerasnn.signals": 1,
    "kerasnn.timings": 1,
    "kerasnn.compilation_cache": 1,
    "kerasnn.registration": 1,
    "kerasnn.keras_private": 1,
    "kerasnn.config": 2,
    "kerasnn.components": 3,
    "kerasnn.figures": 3,
    "kerasnn.data": 4,
    "kerasnn.distribute": 5,
    "kerasnn.models": 6,
    "kerasnn.callbacks": 7,
    "kerasnn.tensorboard": 8,
    "kerasnn.engine": 9,
    "kerasnn.checkpoint": 10,
    "kerasnn.fused": 11,
    "kerasnn.runs": 12,
    "kerasnn.search": 13,
    "kerasnn.gallery": 13,
    "kerasnn.tuners": 14,
    "kerasnn.study": 14,
    "kerasnn.report": 15,
    "kerasnn.commands": 16,
    "kerasnn.cli": 17,
}
WITHOUT_TENSORFLOW = (
    "kerasnn.config.schema",
    "kerasnn.config.schedules",
    "kerasnn.config.catalog",
    "kerasnn.config.run",
    "kerasnn.distribute.processes",
)
FILES = sorted((ROOT / "kerasnn").rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imports(path: Path, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_module_imports_only_from_lower_levels(path):
    room = room_of(module_of(path))
    assert room in LEVELS, f"give {room} a level"
    if room == "kerasnn":
        return  # the public names, loaded on first use
    for name in imports(path):
        if name.startswith("kerasnn.") and (target := room_of(name)) != room:
            target = target if target in LEVELS else "kerasnn"
            assert LEVELS[target] < LEVELS[room], f"{room} must not import {target}"


@pytest.mark.parametrize("module", WITHOUT_TENSORFLOW)
def test_description_needs_no_tensorflow(module):
    path = next(path for path in FILES if module_of(path) == module)
    roots = {name.split(".")[0] for name in imports(path, top_level=True)}
    assert not roots & {"tensorflow", "keras", "sklearn", "matplotlib"}

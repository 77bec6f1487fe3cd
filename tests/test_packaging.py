"""What an installation brings: the package with its types and its licence, and what it needs at run time."""

import ast
import email
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import kerasnn

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("gp", "mlflow", "optuna", "ray", "tables")
"""Extras of what kerasnn imports, or pandas for it, where a user asks for it."""
NOTEBOOKS_HAVE = {"IPython"}
"""Imported where a notebook runs, and so has imported it."""
REPOSITORY_ONLY = ("tests", "benchmarks", "scripts", "docs", "examples", ".readme")


def distribution(requirement):
    """The normalized name in a requirement: `ml-dtypes` of `ml_dtypes>=0.5,<1`."""
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_imports_and_dependencies_are_the_same():
    imported = set()
    for path in (ROOT / "kerasnn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    packages = packages_distributions()
    distributions = {
        packages.get(name, [name])[0] for name in imported - sys.stdlib_module_names - {"kerasnn"} - NOTEBOOKS_HAVE
    }
    extras = {distribution(name) for extra in EXTRAS for name in PROJECT["optional-dependencies"][extra]}
    required = {distribution(name) for name in PROJECT["dependencies"]}
    assert {distribution(name) for name in distributions} - extras == required


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".git", ".venv", "logs", "build", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "."]
    done = subprocess.run(
        [*command, "--wheel-dir", folder], cwd=folder / "source", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_a_wheel_has_the_package_with_its_types_and_nothing_else(wheel):
    names = wheel.namelist()
    package = {
        path.relative_to(ROOT).as_posix() for suffix in ("py", "pyi") for path in ROOT.glob(f"kerasnn/**/*.{suffix}")
    }
    assert {name for name in names if ".dist-info/" not in name} == package | {"kerasnn/py.typed"}
    assert not [name for name in names if name.startswith(REPOSITORY_ONLY)]
    (licence,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    assert "Apache License" in wheel.read(licence).decode().splitlines()[1]
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert wheel.read(entry_points).decode().split() == ["[console_scripts]", "kerasnn", "=", "kerasnn.cli:main"]


def test_a_wheel_says_what_it_is(metadata):
    assert metadata["Name"] == "kerasnn"
    assert metadata["Version"] == kerasnn.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "kerasnn developers"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Summary"].startswith("Train, study and tune neural networks")


def test_a_wheel_brings_no_development_tools(metadata):
    required = metadata.get_all("Requires-Dist")
    always = {distribution(line) for line in required if "extra ==" not in line}
    assert always == {distribution(name) for name in PROJECT["dependencies"]}
    assert not always & {"pytest", "pytest-xdist", "ruff", "mypy", "setuptools", "torch", "jax", "optuna"}
    assert set(metadata.get_all("Provides-Extra")) == {"docs", "tests", "lint", "peers", *EXTRAS}

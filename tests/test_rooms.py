"""The folders of inversion/: imports go one way, and each folder says what it is for."""

import ast
from pathlib import Path

import pytest
from conftest import REPOSITORY

ALLOWED = {
    "core": set(),
    "encoders": {"core"},
    "data": {"core", "encoders"},
    "decoders": {"core", "encoders", "data"},
    "training": {"core", "encoders", "data", "decoders"},
    "results": {"core", "encoders", "data", "decoders", "training"},
    "studies": {"core", "encoders", "data", "decoders", "training", "results"},
    "launch": {"core", "encoders", "data", "decoders", "training", "results"},
}
"""Folder -> those that it may import."""
PACKAGE = REPOSITORY / "inversion"


def imported_folders(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("inversion.")}


def test_nothing_but_the_package_lies_beside_the_folders():
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ALLOWED)


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_go_one_way(folder):
    for path in (PACKAGE / folder).glob("*.py"):
        assert imported_folders(path) <= ALLOWED[folder] | {folder}, path


@pytest.mark.parametrize("folder", ALLOWED)
def test_each_folder_says_what_it_is_for_in_one_line(folder):
    assert ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text())).count("\n") == 0


@pytest.mark.parametrize("folder", ALLOWED)
def test_tests_mirror_the_folders(folder):
    assert list((REPOSITORY / "tests" / folder).glob("test_*.py"))

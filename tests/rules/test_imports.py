"""Who may import whom: the core knows no builtin, and a builtin knows of the core what any stranger does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {
    "atlas_kernels_builtin": ROOT / "atlas_kernels_builtin/src/atlas_kernels_builtin",
    "atlas_solvers_builtin": ROOT / "atlas_solvers_builtin/src/atlas_solvers_builtin",
    **{path.name: path for path in ROOT.glob("plugins/*/src/*") if path.is_dir() and not path.name.endswith("info")},
}
MAY_IMPORT = {"atlas_solvers_builtin": {"atlas_kernels_builtin"}, "atlas_diffusers": {"atlas_solvers_builtin"}}
PUBLIC = ("atlas_core", "atlas_core.contracts", "atlas_core.errors", "atlas_core.testing")
LIGHT = ("plugins", "contracts", "config")
HEAVY = {"torch", "numpy", "accelerate", "safetensors", "matplotlib", "PIL", "jinja2"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (module, whether it is imported when the file is) for every absolute import that is not for types alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, id(node) not in inside


def files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"there is nothing in {folder}"
    return found


def test_the_core_imports_no_other_distribution_of_ours() -> None:
    bad = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(ROOT / "atlas_core")
        for name, _ in imports(path)
        if name.partition(".")[0] in OURS
    ]
    assert not bad


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_builtin_uses_the_public_names_alone(package: str) -> None:
    bad = []
    for path in files(OURS[package]):
        for name, _ in imports(path):
            top = name.partition(".")[0]
            if top == "atlas_core" and not any(
                name == public or name.startswith(public + ".") for public in PUBLIC[1:]
            ):
                if name != "atlas_core":
                    bad.append(f"{path.relative_to(ROOT)} imports {name}")
            elif top in OURS and top != package and top not in MAY_IMPORT.get(package, ()):
                bad.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not bad


@pytest.mark.parametrize("folder", LIGHT)
def test_the_light_parts_of_the_core_import_nothing_heavy(folder: str) -> None:
    bad = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(ROOT / "atlas_core" / folder)
        for name, at_import in imports(path)
        if at_import and name.partition(".")[0] in HEAVY
    ]
    assert not bad


@pytest.mark.parametrize("statement", ["import atlas_core", "from atlas_core.cli.group import atlas_core"])
def test_importing_the_package_or_the_command_imports_neither_torch_nor_numpy(statement: str) -> None:
    code = f"import sys; {statement}; print(sorted({{'torch', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_that_the_package_offers_is_what_it_says() -> None:
    import inspect

    import atlas_core

    for name in atlas_core.__all__:
        assert getattr(atlas_core, name) is not None
    # A submodule of the same name would take a function's place as soon as anything imports it.
    import atlas_core.building

    assert inspect.isfunction(atlas_core.build)
    with pytest.raises(AttributeError, match="Pipeline"):
        _ = atlas_core.Pipelin

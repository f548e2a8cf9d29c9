"""Every command and every example of the README and of docs/ is typed, and works."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MEMBERS = sorted([*ROOT.glob("atlas_*_builtin/README.md"), *ROOT.glob("plugins/*/README.md")])
"""Of the distributions; those of metrics and models have tests of their own, of what they print."""
SHORT = [
    "train.steps=3",
    "train.validate_every=0",
    "evaluate.count=20",
    """evaluate.metrics=[{use="nearest-neighbour"}]""",
    "evaluate.baselines=[]",
]
"""What makes a training of the documents short enough for a test; .ci/run types the README's own words."""


def blocks(language: str, documents: Sequence[Path] = DOCUMENTS) -> list[tuple[str, str]]:
    found = []
    for path in documents:
        found += [
            (f"{path.parent.name}/{path.name}", text)
            for text in re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)
        ]
    return found


def commands() -> list[str]:
    """Every line of a bash block, and every inline code, that starts with `atlas-core `."""
    lines = [line for _, block in blocks("bash") for line in block.splitlines()]
    for path in DOCUMENTS:
        prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        lines += [" ".join(span.split()) for span in re.findall(r"`(atlas-core [a-z][^`]*)`", prose)]
    typed = {line.partition("  #")[0].strip() for line in lines}
    return sorted(line for line in typed if line.startswith("atlas-core ") and "KIND" not in line)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that docs/transport.md makes, and its config."""
    folder = tmp_path_factory.mktemp("tables")
    document = [ROOT / "docs" / "transport.md"]
    with contextlib.chdir(folder):
        exec(compile(blocks("python", document)[0][1], "transport.md", "exec"), {})
    (folder / "transport.toml").write_text(blocks("toml", document)[0][1])
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, digits_run: Path) -> Path:
    """A folder with the images that docs/tasks.md makes."""
    folder = tmp_path_factory.mktemp("pictures")
    shutil.copytree(digits_run, folder / "runs" / "digits")
    with contextlib.chdir(folder):
        exec(compile(blocks("python", [ROOT / "docs" / "tasks.md"])[0][1], "tasks.md", "exec"), {})
    shutil.rmtree(folder / "runs")
    return folder


@pytest.fixture
def desk(digits_run: Path, tables: Path, pictures: Path, tmp_path: Path) -> Path:
    """A folder with what a reader of the documents has by then: a finished run, a config, tables, pictures."""
    for folder in (tables, pictures):
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.copytree(digits_run, tmp_path / "runs" / "digits")
    toml = next(text for name, text in blocks("toml") if name.endswith("/README.md") and "[data]" in text)
    (tmp_path / "mine.toml").write_text(toml)
    shutil.copytree(ROOT / "plugins" / "atlas-example-kernel", tmp_path / "plugins" / "atlas-example-kernel")
    return tmp_path


def test_the_documents_have_commands() -> None:
    assert len(commands()) >= 15


@pytest.mark.parametrize("line", commands())
def test_a_command_does_what_it_says(line: str, desk: Path) -> None:
    words = shlex.split(line.partition(" > ")[0])
    if words[1] in ("run", "train") and "--resume" not in words and "./transport.toml" not in words:
        words += SHORT
    module = [sys.executable, "-m", "atlas_core", *words[1:]]
    done = subprocess.run(module, cwd=desk, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(("name", "code"), blocks("python", [*DOCUMENTS, *MEMBERS]))
def test_an_example_runs(name: str, code: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    exec(compile(code, name, "exec"), {"__name__": "example"})


def test_every_distribution_shows_an_example() -> None:
    assert len(blocks("python", MEMBERS)) >= len(MEMBERS) == 8


def test_every_link_leads_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_readme_says_the_two_commands_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "python -m pip install -r requirements.txt && atlas-core run digits" in readme
    assert "python -m pip install -r requirements-dev.txt && python -m pytest" in readme
    assert "atlas-core run digits" in script
    assert "python -m pytest" in script

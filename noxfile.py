"""Every check of the project by name: `nox -l` lists them. Each makes its own environment."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
QUIET = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
"""Threads that wait do not spin: with more busy threads than cores, spinning is up to 28 times slower."""
DISTRIBUTIONS = (
    ".",
    "atlas_kernels_builtin",
    "atlas_solvers_builtin",
    *map(str, sorted(Path("plugins").glob("atlas-*"))),
)


def _install(session: nox.Session) -> None:
    session.install("-r", "requirements-dev.txt")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test-suite, in parallel."""
    _install(session)
    session.run("python", "-m", "pytest", *session.posargs, env=QUIET)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: mistakes, imports, names, format."""
    session.install("ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    _install(session)
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Every command of the README and of docs/ is typed, and does what they say."""
    _install(session)
    session.run("python", "-m", "pytest", "tests/docs", env=QUIET)


@nox.session
def wheels(session: nox.Session) -> None:
    """Each distribution builds as a wheel of its own package alone, and core + solvers install from those wheels."""
    _install(session)
    session.run("python", "-m", "pytest", "tests/packaging", env=QUIET)


@nox.session(name="bare-core")
def bare_core(session: nox.Session) -> None:
    """atlas-core alone lists, explains and fails politely."""
    with tempfile.TemporaryDirectory() as folder:
        session.install("build")
        session.run("python", "-m", "build", "--wheel", "--outdir", folder, ".")
        session.install(str(next(Path(folder).glob("atlas_core-*.whl"))))
        with session.chdir(folder):
            session.run("atlas-core", "list-plugins")
            session.run("atlas-core", "doctor")
            session.run("atlas-core", "run", "digits", success_codes=[2])


@nox.session(name="broken-plugin")
def broken_plugin(session: nox.Session) -> None:
    """Distributions that raise, exit, print or lie at import break nothing but themselves."""
    _install(session)
    session.run("python", "-m", "pytest", "tests/broken_plugins", "tests/plugins", env=QUIET)


@nox.session
def startup(session: nox.Session) -> None:
    """How long a listing and an import take, beside the standard library's own."""
    _install(session)
    session.run("python", "benchmarks/startup.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark, its peers installed beside it; each prints a table, with --json one object."""
    session.install("-r", "requirements-bench.txt")
    for script in sorted(set(Path("benchmarks").glob("*.py")) - {Path("benchmarks/table.py")}):
        session.run("python", str(script), *session.posargs, env=QUIET)

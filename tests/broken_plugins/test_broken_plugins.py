"""Every way in which a plugin can be broken: each is a row with a reason, and every command goes on working."""

from __future__ import annotations

import json
import re

import pytest

LIST = "import sys; from atlas_core.cli.list_plugins import main; sys.exit(main(sys.argv[1:]))"
DOCTOR = "from atlas_core.cli.doctor import doctor; doctor()"
IMPORTED = "; import json; print(json.dumps(sorted(sys.modules)), file=sys.stderr); sys.exit(code)"


@pytest.fixture(scope="session")
def checked(run, providers):
    """The rows after a check of the broken providers, by id."""
    done = run(LIST, "--check", "--json", ATLAS_PLUGINS=providers)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["schema"] == 1
    return {f"{row['provider']}:{row['name']}": row for row in content["plugins"]}


def test_after_a_check_the_row_has_its_status_and_names_the_reason(checked, case):
    row = checked[f"{case.provider}:{case.name}"]
    assert row["status"] == case.status
    assert re.search(case.reason, row["reason"]), row["reason"]
    assert set(row) == {"kind", "name", "provider", "version", "target", "status", "reason"}


def test_a_listing_without_a_check_works_and_imports_no_plugin(run, broken_path):
    code = "import sys; from atlas_core.cli.list_plugins import main; code = main(sys.argv[1:])" + IMPORTED
    done = run(code, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["plugins"]) > 19
    modules = json.loads(done.stderr.splitlines()[-1])
    assert [name for name in modules if name.startswith(("acme", "torch", "numpy", "click", "attr", "pluggy"))] == []
    assert [name for name in modules if re.match(r"atlas_\w+_builtin", name)] == []


def test_the_table_shows_the_reason_below_the_row(run, checked):
    lines = run(LIST, "--kind", "sampler").stdout.splitlines()
    (at,) = (index for index, line in enumerate(lines) if "acme-raises" in line)
    assert re.match(r"sampler +raises +acme-raises +1\.0 +broken +acme_raises:Sampler$", lines[at])
    assert "no licence found" in lines[at + 1]


def test_the_answer_does_not_depend_on_the_hash_seed(run, checked):
    outputs = {run(LIST, "--json", PYTHONHASHSEED=seed).stdout for seed in ("0", "1", "2", "31337")}
    assert len(outputs) == 1
    resolve = (
        "from atlas_core.plugins.registry import Registry\n"
        "try: print(Registry().resolve('sampler', 'twin'))\nexcept Exception as error: print(error)"
    )
    answers = {run(resolve, PYTHONHASHSEED=seed).stdout for seed in ("0", "1", "2", "31337")}
    assert len(answers) == 1
    assert "acme-twin-a:twin, acme-twin-b:twin" in answers.pop()


def test_the_order_of_the_path_decides_nothing(run, checked, broken_path):
    import os

    reverse = os.pathsep.join(reversed(broken_path.split(os.pathsep)))
    assert run(LIST, "--json").stdout == run(LIST, "--json", PYTHONPATH=reverse).stdout


def test_doctor_names_every_problem_and_exits_with_1(run, providers):
    done = run(DOCTOR, "--json", ATLAS_PLUGINS=providers)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    problems = "\n".join(report["problems"])
    for provider in (
        "raises",
        "exits",
        "dies",
        "prints",
        "needs",
        "no-target",
        "wrong-type",
        "malformed",
        "future",
        "bad-hook",
    ):
        assert f"acme-{provider}:" in problems, provider
    assert "no licence found" in problems
    notes = "\n".join(report["notes"])
    for provider in ("twin-a", "twin-b", "stale", "sleeps"):
        assert f"acme-{provider}:" in notes, provider
    assert report["torch"]["devices"][0]["name"] == "cpu"
    assert report["python"]["version"].startswith("3.")


def test_doctor_reads_well(run, providers):
    done = run(DOCTOR, ATLAS_PLUGINS=providers)
    assert "Python" in done.stdout
    assert re.search(r"problem +sampler acme-raises:raises is broken: .*no licence found", done.stdout)


def test_a_working_component_beside_the_broken_ones_is_described(run):
    done = run("from atlas_core.cli.describe import describe; describe()", "sampler/wheel", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert (content["provider"], content["summary"]) == ("acme-wheel", "A sampler that does nothing.")
    assert content["capabilities"] == {"accepts": ["denoiser"], "stochastic": False}


@pytest.mark.parametrize("command", ["list_plugins", "describe", "doctor"])
def test_no_help_imports_a_plugin(run, command):
    code = f"import sys; from atlas_core.cli.{command} import {command} as c; "
    code += "c.main(['--help'], standalone_mode=False); code = 0" + IMPORTED
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    modules = json.loads(done.stderr.splitlines()[-1])
    assert [name for name in modules if name.startswith(("acme", "torch", "numpy"))] == []
    assert [name for name in modules if re.match(r"atlas_\w+_builtin", name)] == []

"""Checks in processes of their own, and the verdicts that they leave behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from atlas_core.plugins import probe
from atlas_core.plugins.check import Limits, check
from atlas_core.plugins.policy import Policy
from atlas_core.plugins.verdicts import Verdict, Verdicts, cache_file

GOOD = "[atlas_core.samplers]\ngood = {0}:Sampler\n"


@pytest.fixture
def plugin(make, tmp_path):
    """Install `provider`, whose module is `source` (with a working `Sampler` first)."""

    def install(provider, source="", entry_points=GOOD, folder="site", **files):
        module = provider.replace("-", "_")
        files = {f"{module}.py": make.SAMPLER.format(name="Sampler") + source, **files}
        entry_points = entry_points.format(module)
        return make.make_distribution(tmp_path / folder, provider, entry_points=entry_points, files=files)

    return install


def statuses(rows):
    return {row.name: (row.status, row.reason) for row in rows}


def test_a_listing_after_a_check_remembers_it_and_this_process_imports_nothing(plugin, registry_of):
    plugin("acme-good")
    assert statuses(registry_of().listing()) == {"good": ("unverified", "")}
    assert statuses(check(registry_of())) == {"good": ("ok", "")}
    assert statuses(registry_of().listing()) == {"good": ("ok", "")}
    assert "acme_good" not in sys.modules


def test_a_reinstall_makes_a_verdict_void(plugin, registry_of):
    plugin("acme-good")
    check(registry_of())
    plugin("acme-good", source="CHANGED = True\n")
    assert statuses(registry_of().listing()) == {"good": ("unverified", "")}


def test_an_edit_of_an_editable_install_makes_a_verdict_void(plugin, registry_of, tmp_path):
    folder = plugin("acme-good", **{"_editable_impl_acme_good.pth": ""})
    record = folder / "RECORD"
    lines = [line for line in record.read_text().splitlines(keepends=True) if not line.startswith("acme_good.py")]
    record.write_text("".join(lines))
    assert statuses(check(registry_of())) == {"good": ("ok", "")}
    later = (tmp_path / "site" / "acme_good.py").stat().st_mtime + 10
    os.utime(tmp_path / "site" / "acme_good.py", (later, later))
    assert statuses(registry_of().listing()) == {"good": ("unverified", "")}


@pytest.mark.parametrize("can_fork", [True, False])
def test_a_plugin_that_dies_or_hangs_is_blamed_and_those_after_it_are_still_checked(
    plugin, registry_of, monkeypatch, can_fork
):
    if can_fork and not probe.CAN_FORK:
        pytest.skip("forking is not safe on this system")
    if not can_fork:
        child = probe.CHILD.replace("run(job)", "import atlas_core.plugins.probe as p; p.CAN_FORK = False; run(job)")
        monkeypatch.setattr(probe, "CHILD", child + "\n")
    dies = "import os, sys; print('x'); sys.stderr.write('fatal: no GPU\\n'); sys.stderr.flush(); os._exit(7)"
    entry_points = (
        "[atlas_core.samplers]\na = {0}:Sampler\nb = acme_dies:Sampler\nc = acme_hangs:Sampler\nd = {0}:Sampler\n"
    )
    files = {"acme_dies.py": dies, "acme_hangs.py": "import time; time.sleep(600)"}
    plugin("acme-mixed", entry_points=entry_points, **files)
    plugin("beta-after")
    seconds = 3 if can_fork else 20  # without forking, every process imports torch anew
    found = statuses(check(registry_of(), limits=Limits(seconds=seconds)))
    assert found["a"] == found["d"] == found["good"] == ("ok", "")
    assert found["b"] == ("broken", "importing it ends the process with code 7: fatal: no GPU")
    assert found["c"] == ("broken", f"importing it takes more than {seconds} s")


def test_a_torch_that_ends_the_process_is_told_by_the_plugins_that_need_it(make, plugin, registry_of, tmp_path):
    (tmp_path / "site" / "torch").mkdir(parents=True)
    (tmp_path / "site" / "torch" / "__init__.py").write_text("import os; os._exit(9)")
    make.make_distribution(
        tmp_path / "site",
        "acme-heavy",
        entry_points="[atlas_core.samplers]\nheavy = acme_heavy:Sampler\n",
        files={"acme_heavy.py": "import torch\n"},
        requires=["torch>=2"],
    )
    plugin("beta-light")
    found = statuses(check(registry_of()))
    assert found["heavy"] == ("broken", "importing it ends the process with code 9")
    assert found["good"] == ("ok", "")


def test_components_of_a_hook_are_checked_and_listed_from_then_on(plugin, registry_of):
    hooks = (
        "from atlas_core import hookimpl\nfrom atlas_core.plugins.hookspecs import ComponentSpec\n@hookimpl\n"
        "def atlas_samplers():\n    for name in ('Sampler', 'No'): yield ComponentSpec(name, f'acme_more:{name}')\n"
    )
    plugin("acme-more", entry_points="[atlas_core.plugins]\nmore = acme_more_hooks\n", **{"acme_more_hooks.py": hooks})
    assert set(statuses(registry_of().listing())) == {"more"}
    check(registry_of())
    found = statuses(registry_of().listing())
    assert found["more"] == found["Sampler"] == ("ok", "")
    assert found["No"][0] == "broken"
    assert set(statuses(registry_of(Policy(disabled={"acme-more:more": "test"})).listing())) == {"more"}


def test_what_is_disabled_is_not_even_checked(plugin, registry_of, tmp_path):
    plugin("acme-off", source=f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    found = statuses(check(registry_of(Policy(disabled={"acme-off": "test"}))))
    assert found == {"good": ("disabled", "disabled by test")}
    assert not (tmp_path / "imported").exists()


def test_code_that_another_folder_shadows_is_named(plugin, registry_of, tmp_path):
    plugin("acme-good")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "acme_good.py").write_text((tmp_path / "site" / "acme_good.py").read_text())
    found = statuses(check(registry_of(folders=("old", "site"))))
    assert found["good"][0] == "broken"
    assert f"Python imports {tmp_path / 'old' / 'acme_good.py'}, which shadows" in found["good"][1]


def test_a_broken_plugin_keeps_its_reason_while_its_name_is_ambiguous(plugin, registry_of):
    plugin("acme-good")
    plugin("beta-bad", source="raise OSError('no')\n")
    check(registry_of())
    found = {row.provider: (row.status, row.reason) for row in registry_of().listing()}
    assert found["acme-good"][0] == "ambiguous"
    assert found["beta-bad"][0] == "broken"
    assert "OSError: no; also provided as acme-good:good" in found["beta-bad"][1]


def test_a_cache_that_cannot_be_written_is_said_and_the_verdicts_still_show(plugin, registry_of, tmp_path):
    plugin("acme-good")
    (tmp_path / "file").write_text("")
    registry = registry_of()
    registry.verdicts = Verdicts(tmp_path / "file" / "atlas" / "plugins.json")
    assert statuses(check(registry)) == {"good": ("ok", "")}
    assert "cannot be written" in registry.verdicts.notes[-1]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 1, "installs": 3}', "\0"])
def test_a_damaged_cache_is_forgotten_and_said(plugin, registry_of, tmp_path, content):
    plugin("acme-good")
    (tmp_path / "cache.json").write_text(content)
    registry = registry_of()
    assert statuses(registry.listing()) == {"good": ("unverified", "")}
    assert "cannot be read" in registry.verdicts.notes[0]
    check(registry)
    assert statuses(registry_of().listing()) == {"good": ("ok", "")}


def test_a_damaged_verdict_is_forgotten(plugin, registry_of, tmp_path):
    plugin("acme-good")
    check(registry_of())
    content = json.loads((tmp_path / "cache.json").read_text())
    for install in content["installs"].values():
        install["verdicts"] = {"sampler/good=acme_good:Sampler": ["ok"]}
    (tmp_path / "cache.json").write_text(json.dumps(content))
    registry = registry_of()
    assert statuses(registry.listing()) == {"good": ("unverified", "")}
    assert "damaged" in registry.verdicts.notes[0]


def test_the_cache_lies_where_the_system_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "atlas" / "plugins.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/to/be/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_file() == tmp_path / "home" / ".cache" / "atlas" / "plugins.json"
    assert Verdict("ok") == ("ok", "", ())
    assert isinstance(cache_file(), Path)

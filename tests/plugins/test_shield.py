"""An entry-point file that Python cannot read does not take torch down with it."""

from __future__ import annotations

import sys

import pytest

READ = "import importlib.metadata as m; print(sorted(e.name for e in m.entry_points(group='atlas_core.samplers')))"


@pytest.mark.parametrize(
    "spoil", [b"[atlas_core.samplers]\nno-equals\ngood = acme_torn:X\n", b"[atlas_core.samplers]\n\xff = x:Y\n"]
)
def test_python_reads_the_rest_after_a_registry_exists(command, sampler, tmp_path, spoil):
    (sampler("acme-torn", "x") / "entry_points.txt").write_bytes(spoil)
    sampler("acme-good", "fine")
    path = (tmp_path / "site",)
    assert command(READ, path=path, cache=tmp_path).returncode == 1  # were it 0, this module would have no purpose
    code = f"from atlas_core.plugins.registry import Registry; Registry(); Registry(); {READ}; import torch"
    done = command(code, path=path, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'fine'" in done.stdout
    assert ("'good'" in done.stdout) == (b"good" in spoil)


def test_a_second_scan_still_reports_the_broken_line(command, sampler, tmp_path):
    (sampler("acme-torn", "x") / "entry_points.txt").write_text("[atlas_core.samplers]\nno-equals\n")
    code = "from atlas_core.plugins.registry import Registry; Registry(); print(Registry().listing('sampler'))"
    done = command(code, path=(tmp_path / "site",), cache=tmp_path)
    assert done.stdout.count("acme-torn") == 1, done.stderr
    assert "import torch` fails outside Atlas" in done.stdout


def test_an_environment_in_order_is_left_alone(sampler, registry_of):
    sampler("acme-good", "x")
    before = list(sys.meta_path)
    registry_of()
    assert sys.meta_path == before

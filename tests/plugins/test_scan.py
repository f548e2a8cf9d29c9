"""The static index: what is read from entry-point files, and what is said about those that cannot be read."""

from __future__ import annotations

from importlib.metadata import distributions

import pytest

from atlas_core.plugins.api_version import unmet
from atlas_core.plugins.scan import parse, scan


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no-equals-sign", "malformed entry point 'no-equals-sign'"),
        ("= acme:Sampler", "malformed"),
        ("x =", "malformed"),
        ("x = acme sampler:Sampler", "malformed"),
        ("x = acme:Sampler:Twice", "malformed"),
        ("x = 1acme:Sampler", "malformed"),
        ("a:b = acme:Sampler", "malformed"),
        ("x = acme.samplers", "names a module"),
    ],
)
def test_a_malformed_line_is_a_row_and_its_neighbour_still_counts(line, reason):
    rows = list(parse(f"[atlas_core.samplers]\n{line}\ngood = acme.samplers:Good\n"))
    assert rows[0][3] == "broken"
    assert reason in rows[0][4]
    assert rows[1] == ("sampler", "good", "acme.samplers:Good", "unverified", "")


def test_spaces_comments_other_groups_and_old_extras_are_read_as_python_does():
    text = "# a\n[console_scripts]\nx = y:z\n\n[ atlas_core.grids ]\n  a  =  b.c : D.E [extra]\na = b.c:D.E\n; no\n"
    assert [row[:4] for row in parse(text)] == [("grid", "a", "b.c:D.E", "unverified")] * 2


def test_a_mistyped_group_is_named_with_the_nearest_one():
    (row,) = parse("[atlas_core.sampler]\nx = a:B\n")
    assert row[0] == "unknown"
    assert "did you mean 'atlas_core.samplers'" in row[4]


def test_bytes_that_are_no_text_are_a_row(tmp_path, sampler):
    folder = sampler("acme-bytes", "x")
    (folder / "entry_points.txt").write_bytes(b"[atlas_core.samplers]\nx = \xff\xfe:Y\n")
    ((entry,),) = [one.entries for one in scan(distributions(path=[str(tmp_path / "site")]))]
    assert (entry.provider, entry.status) == ("acme-bytes", "broken")
    assert "not UTF-8" in entry.reason


def test_metadata_without_a_name_or_a_file_does_not_stop_the_scan(tmp_path, sampler):
    (sampler("acme-nameless", "x") / "METADATA").unlink()
    sampler("acme-good", "y")
    names = {entry.name for one in scan(distributions(path=[str(tmp_path / "site")])) for entry in one.entries}
    assert names == {"x", "y"}


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_a_stale_egg_info_is_shadowed_wherever_it_lies(tmp_path, sampler, order):
    sampler("acme-stale", "old-name", version="0.9", egg_info=True, folder="old")
    sampler("acme-stale", "new-name", version="1.0", folder="new")
    entries = [e for one in scan(distributions(path=[str(tmp_path / each) for each in order])) for e in one.entries]
    assert {(entry.name, entry.status) for entry in entries} == {("old-name", "shadowed"), ("new-name", "unverified")}
    (shadowed,) = (entry for entry in entries if entry.status == "shadowed")
    assert "stale egg-info of acme-stale 0.9" in shadowed.reason
    assert "1.0" in shadowed.reason


def test_of_two_installs_the_one_that_python_imports_is_used_and_the_other_is_said(tmp_path, sampler):
    sampler("acme-two", "x", version="2.0", folder="first")
    sampler("acme-two", "x", version="3.0", folder="second")
    path = [str(tmp_path / "first"), str(tmp_path / "second")]
    entries = [entry for one in scan(distributions(path=path)) for entry in one.entries]
    assert [(entry.version, entry.status) for entry in entries] == [("2.0", "unverified"), ("3.0", "shadowed")]


def test_an_install_that_is_found_twice_is_listed_once(tmp_path, sampler):
    sampler("acme-dev", "x", folder="site")
    sampler("acme-dev", "x", folder="source", egg_info=True)  # as an editable install by setuptools leaves it
    path = [str(tmp_path / "source"), str(tmp_path / "site"), str(tmp_path / "site")]
    assert len(scan(distributions(path=path))) == 1


@pytest.mark.parametrize(
    ("requirement", "version", "expected"),
    [
        ("atlas-core>=2,<3", "2.0.0", ""),
        ("atlas_core (>=2, <3)", "2.9", ""),
        ("Atlas.Core[all]>=3", "2.0.0", ">=3"),
        ("atlas-core<2", "2.0", "<2"),
        ("atlas-core>2", "2.0.0", ">2"),
        ("atlas-core<=2", "2.0.0", ""),
        ("atlas-core==2", "2.0.0", ""),
        ("atlas-core==2.*", "2.5.1", ""),
        ("atlas-core~=2.1", "2.0.0", "~=2.1"),
        ("atlas-core!=2.0", "2.0.0", "!=2.0"),
        ("atlas-core>=2,<3", "2.1.0.dev3", ""),
        ("atlas-core", "2.0.0", ""),
        ("atlas-core @ file:///somewhere", "2.0.0", ""),
        ('atlas-core>=3; extra == "future"', "2.0.0", ""),
        ('atlas-core>=3; python_version < "3"', "2.0.0", ""),
        ('atlas-core>=3; python_version >= "3"', "2.0.0", ">=3"),
        ("atlas-core-tools>=9", "2.0.0", ""),
    ],
)
def test_the_requirement_on_atlas_core_is_held_against_our_version(requirement, version, expected):
    assert unmet(f"Name: acme\nRequires-Dist: torch>=2\nRequires-Dist: {requirement}", version) == expected


def test_plain_comparisons_agree_with_packaging():
    from itertools import product

    from packaging.specifiers import SpecifierSet

    versions = ["1", "1.9.9", "2", "2.0", "2.0.0", "2.0.1", "2.10", "3", "10.0"]
    for operator, theirs, ours in product([">=", "<=", "==", "!=", ">", "<"], versions, versions):
        expected = SpecifierSet(f"{operator}{theirs}").contains(ours)
        assert (unmet(f"Requires-Dist: atlas-core{operator}{theirs}", ours) == "") == expected, (operator, theirs, ours)

"""What starting up imports. How long it takes is measured by `benchmarks/startup.py`."""

from __future__ import annotations

import json
import re

import pytest

MODULES = "; import json; print(json.dumps(sorted(sys.modules)))"


@pytest.mark.parametrize(
    "code",
    [
        "import atlas_core",
        "import atlas_core.contracts",
        "import atlas_core.plugins.registry as r; r.Registry().listing()",
        "import atlas_core.plugins.registry as r; r.Registry().resolve('sampler', 'heun')",
        "import atlas_core.plugins.events, atlas_core.plugins.check, atlas_core.plugins.describe",
        "import atlas_core.cli.list_plugins, atlas_core.cli.describe, atlas_core.cli.doctor",
    ],
)
def test_starting_up_imports_neither_torch_nor_numpy_nor_a_component(command, tmp_path, code):
    done = command(f"import sys; {code}{MODULES}", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout)
    assert [name for name in modules if name in ("torch", "numpy")] == []
    components = [name for name in modules if re.match(r"atlas_\w+_builtin\.", name)]
    assert [name for name in components if "presets" not in name] == []  # looking up names asks the hooks modules


def test_import_atlas_core_imports_little_beyond_python_itself(command, tmp_path):
    done = command(f"import sys; import atlas_core{MODULES}", cache=tmp_path)
    third_party = {"attr", "attrs", "cattrs", "click", "pluggy", "rich", "packaging", "importlib.metadata"}
    assert third_party.isdisjoint(json.loads(done.stdout))


def test_a_listing_imports_no_library_of_the_terminal(command, tmp_path):
    code = f"import sys; from atlas_core.cli import main; main(['list-plugins', '--kind', 'grid']){MODULES}"
    done = command(code, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout.splitlines()[-1])
    assert {"attr", "cattrs", "click", "pluggy", "rich", "packaging", "torch", "numpy"}.isdisjoint(modules)

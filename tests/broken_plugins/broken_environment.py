"""One environment with every way in which a plugin can be broken, on an extra path beside the real installation.

`conftest.py` builds it; `CASES` says what each row has to tell after a check.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import NamedTuple


class Case(NamedTuple):
    """One row of the listing after a check."""

    provider: str
    name: str
    status: str
    reason: str
    """A regular expression."""


CASES = (
    Case("acme-raises", "raises", "broken", "raises RuntimeError: no licence found"),
    Case("acme-exits", "exits", "broken", r"calls sys\.exit\('go away'\)"),
    Case("acme-dies", "dies", "broken", "ends the process with code 7"),
    Case("acme-prints", "prints", "broken", "prints at import: 'Welcome to ACME'"),
    Case("acme-needs", "needs", "broken", "needs the module 'acme_absent', which is not installed"),
    Case("acme-no-target", "no-class", "broken", "has no 'Smapler'; did you mean 'Sampler'"),
    Case(
        "acme-no-target", "no-module", "broken", r"module acme_no_target\.lost does not exist|no module|does not exist"
    ),
    Case("acme-wrong-type", "number", "broken", "is no sampler: it is 42"),
    Case("acme-wrong-type", "no-steps", "broken", "lacks steps"),
    Case("acme-twin-a", "twin", "ambiguous", "acme-twin-b:twin"),
    Case("acme-twin-b", "twin", "ambiguous", "acme-twin-a:twin"),
    Case("acme-malformed", "no-equals-sign", "broken", "malformed entry point 'no-equals-sign'"),
    Case("acme-malformed", "good", "ok", "^$"),
    Case("acme-future", "future", "incompatible", r"acme-future 4\.1 needs atlas-core>=3,<4; this is atlas-core 2\."),
    Case("acme-stale", "old-name", "shadowed", r"stale egg-info of acme-stale 0\.9"),
    Case("acme-stale", "new-name", "ok", "^$"),
    Case("acme-sleeps", "sleeps", "slow", r"takes [5-9]\.\d s to import"),
    Case("acme-bad-hook", "bad-hook", "broken", "there is no hook 'atlas_train_setp'; did you mean 'atlas_train_step'"),
    Case("acme-wheel", "wheel", "ok", "^$"),
)
PROVIDERS = ",".join(sorted({case.provider for case in CASES}))


def build(folder: Path, make: ModuleType) -> tuple[Path, ...]:
    """Install everything below `folder`, and return what has to go on PYTHONPATH, in this order."""
    stale, site = folder / "stale", folder / "site"
    good = make.SAMPLER.format(name="Sampler")

    def install(provider: str, names: str, source: str, root: Path = site, **options: object) -> None:
        module = provider.replace("-", "_")
        lines = "".join(f"{line}\n" for line in names.format(m=module).split("; "))
        options.setdefault("entry_points", f"[atlas_core.samplers]\n{lines}")
        make.make_distribution(root, provider, files={f"{module}.py": source}, **options)

    install("acme-raises", "raises = {m}:Sampler", "raise RuntimeError('no licence found')")
    install("acme-exits", "exits = {m}:Sampler", "import sys\nsys.exit('go away')")
    install("acme-dies", "dies = {m}:Sampler", "import os\nos._exit(7)")
    install("acme-prints", "prints = {m}:Sampler", f"print('Welcome to ACME')\n{good}")
    install("acme-needs", "needs = {m}:Sampler", f"import acme_absent\n{good}")
    install("acme-no-target", "no-class = {m}:Smapler; no-module = {m}.lost:Sampler", good)
    install(
        "acme-wrong-type", "number = {m}:A; no-steps = {m}:B", "import attrs\nA = 42\n@attrs.frozen\nclass B: pass\n"
    )
    install("acme-twin-a", "twin = {m}:Sampler", good)
    install("acme-twin-b", "twin = {m}:Sampler", good)
    install("acme-malformed", "no-equals-sign; good = {m}:Sampler", good)
    install("acme-future", "future = {m}:Sampler", good, version="4.1", requires=["atlas-core>=3,<4"])
    install("acme-stale", "old-name = {m}:Gone", "", root=stale, version="0.9", egg_info=True)
    (stale / "acme_stale.py").unlink()  # what a build leaves behind is the metadata
    install("acme-stale", "new-name = {m}:Sampler", good)
    install("acme-sleeps", "sleeps = {m}:Sampler", f"import time\ntime.sleep(5)\n{good}")
    hook = "from atlas_core import hookimpl\n@hookimpl\ndef atlas_train_setp(step): pass\n"
    install("acme-bad-hook", "", hook, entry_points="[atlas_core.plugins]\nbad-hook = acme_bad_hook\n")
    make.install_wheel(
        site,
        folder / "source",
        "acme-wheel",
        entry_points='[project.entry-points."atlas_core.samplers"]\nwheel = "acme_wheel:Sampler"',
        files={"acme_wheel.py": good},
    )
    return stale, site

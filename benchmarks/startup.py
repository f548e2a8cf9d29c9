"""What it costs to ask Atlas something, against the least that Python could do.

    python benchmarks/startup.py [--json] [--rounds 15] [--distributions 100]

Two pairs, each in fresh processes, interleaved, so that a busy machine slows both alike:

- `atlas-core list-plugins` among N installed plugins, and `importlib.metadata.entry_points()` in the same environment;
- `import atlas_core`, and `import importlib.metadata`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 2.0
PAIRS = {
    "list-plugins": (
        "import sys; from atlas_core.cli import main; sys.exit(main(['list-plugins']))",
        "import importlib.metadata as m; m.entry_points()",
    ),
    "import atlas_core": ("import atlas_core", "import importlib.metadata"),
}


def install(folder: Path, count: int) -> None:
    """Write `count` distributions with three components each into `folder`, as an installer would."""
    for index in range(count):
        name = f"acme_plugin_{index:03}"
        (folder / f"{name}.py").write_text("raise RuntimeError('a listing imports no plugin')\n", encoding="utf-8")
        info = folder / f"{name}-1.{index}.dist-info"
        info.mkdir()
        requires = "Requires-Dist: atlas-core<3,>=2\nRequires-Dist: torch>=2.4\nRequires-Dist: attrs>=23.2\n"
        header = f"Metadata-Version: 2.3\nName: acme-plugin-{index:03}\nVersion: 1.{index}\n{requires}"
        (info / "METADATA").write_text(
            f"{header}\n# A plugin\n{'A paragraph of its README. ' * 100}\n", encoding="utf-8"
        )
        groups = (("kernels", "Kernel"), ("samplers", "Sampler"), ("metrics", "Metric"))
        lines = [f"[atlas_core.{group}]\nx{index} = {name}:{target}\n" for group, target in groups]
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        files = [f"{name}.py", *(f"{info.name}/{file}" for file in ("METADATA", "RECORD", "WHEEL", "entry_points.txt"))]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")


def seconds(code: str, environment: dict[str, str], folder: Path) -> float:
    """Return the wall-clock time of a fresh Python that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def measure(rounds: int, distributions: int) -> list[dict[str, float | str]]:
    """Return one row a pair: median seconds of each side, and the median of the ratios of neighbours."""
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "site")
        folder.mkdir()
        install(folder, distributions)
        environment = {**os.environ, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": name}
        for title, (ours, baseline) in PAIRS.items():
            for code in (ours, baseline):  # byte code and disk cache
                seconds(code, environment, folder)
            pairs = [
                (seconds(ours, environment, folder), seconds(baseline, environment, folder)) for _ in range(rounds)
            ]
            rows.append(
                {
                    "what": title,
                    "ours_ms": 1e3 * statistics.median(ours for ours, _ in pairs),
                    "baseline_ms": 1e3 * statistics.median(baseline for _, baseline in pairs),
                    "ratio": statistics.median(ours / baseline for ours, baseline in pairs),
                    "limit": LIMIT,
                }
            )
    return rows


def main() -> None:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--distributions", type=int, default=100)
    options = parser.parse_args()
    rows = measure(options.rounds, options.distributions)
    if options.json:
        settings = {"rounds": options.rounds, "distributions": options.distributions, "python": sys.version.split()[0]}
        print(json.dumps({"schema": 1, "benchmark": "startup", **settings, "rows": rows}, indent=2))
        return
    print(f"{'':20}{'ours':>10}{'baseline':>12}{'ratio':>8}{'limit':>8}")
    for row in rows:
        times = f"{row['ours_ms']:>7.0f} ms{row['baseline_ms']:>9.0f} ms"
        print(f"{row['what']:20}{times}{row['ratio']:>8.2f}{row['limit']:>8.1f}")


if __name__ == "__main__":
    main()

"""Is the main job as good as we say? Holds the scores of `atlas-core run digits` against the promises of the project.

    python benchmarks/digits.py                  run it first (three minutes), then score
    python benchmarks/digits.py runs/digits      score a finished run
    python benchmarks/digits.py --json

Exits with 1 if a promise is broken. The time is printed, and judged by a reader who knows how busy the machine was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple


class Promise(NamedTuple):
    """One number that has to hold."""

    name: str
    value: float
    limit: float
    at_least: bool

    @property
    def kept(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def promises(evaluation: dict[str, Any]) -> list[Promise]:
    """Read the scores of a run that was evaluated as the preset says."""
    rows = {row["kind"] if row["kind"] != "baseline" else row["name"]: row["cells"] for row in evaluation["rows"]}
    floors = {column["name"]: column["floor"] for column in evaluation["columns"]}
    ours, gaussian = rows["ours"], rows["class-gaussian"]
    pixels, features = "frechet-distance (pixels)", "frechet-distance (classifier)"
    near = ours["nearest-neighbour"]["value"] / floors["nearest-neighbour"]
    return [
        Promise("conditional accuracy", ours["conditional-accuracy"]["value"], 0.97, True),
        Promise("Fréchet distance in pixels / floor", ours[pixels]["value"] / floors[pixels], 1.5, False),
        Promise("the same / class Gaussian", ours[pixels]["value"] / gaussian[pixels]["value"], 1.0, False),
        Promise("in features / class Gaussian", ours[features]["value"] / gaussian[features]["value"], 1.0, False),
        Promise("nearest neighbour / real test images, from below", near, 0.9, True),
        Promise("nearest neighbour / real test images, from above", near, 1.1, False),
        Promise("two-sample test", ours["two-sample"]["value"], 0.65, False),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished run; without it, one is made")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run
        if run is None:
            command = [sys.executable, "-m", "atlas_core", "run", "digits", "--runs", folder, "--quiet"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            run = Path(folder) / "digits"
        found = promises(json.loads((run / "evaluation.json").read_text()))
        timings = json.loads((run / "timings.json").read_text())
    if options.json:
        rows = [{**promise._asdict(), "kept": promise.kept} for promise in found]
        print(json.dumps({"promises": rows, "timings": timings, "seconds": sum(timings.values())}, indent=2))
    else:
        for promise in found:
            sign, word = "≥" if promise.at_least else "≤", "kept" if promise.kept else "BROKEN"
            print(f"{promise.name:<50} {promise.value:7.3f}  {sign} {promise.limit:<5}  {word}")
        print(f"{'seconds, from the config to the report':<50} {sum(timings.values()):7.1f}  {timings}")
    return 0 if all(promise.kept for promise in found) else 1


if __name__ == "__main__":
    sys.exit(main())

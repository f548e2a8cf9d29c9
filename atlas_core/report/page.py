"""Turn a run's folder into one page: `report.html`, self-contained, made again at any time from the files beside it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atlas_core.engine.scores import Evaluation, number
from atlas_core.report.comparison import shown_comparisons
from atlas_core.report.contents import Contents, Picture, read_contents
from atlas_core.report.curve import training_curve
from atlas_core.report.inline import data_uri
from atlas_core.runs.atomic import write_atomically
from atlas_core.runs.folder import RunFolder

LEVELS = {"close": ("●", "close"), "near": ("◐", "near"), "far": ("○", "far"), "none": ("–", "not scored")}
"""Mark and word of each verdict: the colour beside them repeats what they say."""


def write_report(run: RunFolder) -> Path:
    """Write `report.html` of a run from the files in its folder, and return its path.

    What the run has not done yet is said on the page. Raises RunError where the page cannot be written.
    """
    write_atomically(run.report_html, render(read_contents(run)))
    return run.report_html


def render(contents: Contents) -> str:
    """Return the page as HTML: one text without a single reference to anything outside it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    curves = {theme: training_curve(contents.journal, theme) for theme in ("light", "dark")}
    return environment.get_template("page.html.j2").render(
        run=contents,
        summary=list(_summary(contents)),
        samples=_image(contents.samples),
        samples_words=_what(contents),
        unlike=_unlike(contents),
        folder=str(contents.home),
        strip=_image(contents.strip),
        progress=[(picture.title, _image(picture)) for picture in _spread(contents.progress, 6)],
        curves={theme: data_uri(png) if png else "" for theme, png in curves.items()},
        curve_words=_curve_words(contents),
        scores=score_lines(contents.evaluation),
        timings=[(name, _duration(seconds)) for name, seconds in contents.timings.items()],
        comparisons=list(shown_comparisons(contents.home)),
        commands=list(_commands(contents)),
    )


def _summary(run: Contents) -> Iterator[tuple[str, str]]:
    """The facts on top: (what, value)."""
    journal = run.journal
    if run.used("data"):
        yield "data", run.used("data")
    if run.used("model"):
        yield "model", ", ".join(filter(None, (run.used("model"), run.used("process"))))
    if journal:
        yield "trained", f"{journal[-1]['step']:,} steps".replace(",", "\u202f")
    seconds = next((row["seconds"] for row in reversed(journal) if isinstance(row.get("seconds"), int | float)), None)
    if seconds is not None:
        yield "training time", _duration(seconds)
    if run.manifest:
        yield "sampler", f"{run.drew('sampler')}, {run.manifest.get('nfe')} NFE"
        if run.drew("guidance") not in ("", "none"):
            yield "guidance", run.drew("guidance")
    elif run.used("sampler"):
        yield "sampler", _own_sampler(run)
    if run.evaluation is not None:
        levels = [run.evaluation.verdict(column).level for column in run.evaluation.columns]
        yield "close to real data", f"{levels.count('close')} of {len(levels)} scores"


def _own_sampler(run: Contents) -> str:
    nfe, steps = run.setting("sampling", "nfe"), run.setting("sampling", "steps")
    return run.used("sampler") + (f", {nfe} NFE" if nfe else f", {steps} steps" if steps else "")


def _unlike(run: Contents) -> str:
    """Say where what drew and scored differs from the run's own config; empty where it does not."""
    own = f"; its own sampler is {_own_sampler(run)}" if run.used("sampler") else ""
    if run.overrides:
        return f"Evaluated with {', '.join(run.overrides)} instead of the run's own settings{own}."
    sampling = run.config.get("sampling", {})
    asked = {key: value for key, value in run.manifest.get("requested", {}).items() if value is not None}
    pairs = {
        "sampler": (run.manifest.get("sampler"), run.config.get("sampler")),
        "grid": (run.manifest.get("grid"), sampling.get("grid")),
        "guidance": (run.manifest.get("guidance"), sampling.get("guidance")),
        "steps or NFE": (asked, {key: sampling[key] for key in ("steps", "nfe") if key in sampling}),
    }
    other = [name for name, (drawn, own) in pairs.items() if drawn and own and drawn != own]
    return f"Not drawn as config.toml says: {', '.join(other)} differ{own}." if other else ""


def _what(run: Contents) -> str:
    if run.samples is None:
        return ""
    if run.samples in run.progress:
        return f"Samples {run.samples.title}; the run has not drawn its final ones yet."
    by = ""
    if run.manifest:
        parts = [f"{run.manifest.get('steps')} steps, {run.manifest.get('nfe')} NFE"]
        parts += [f"{part} {run.drew(part)}" for part in ("grid", "guidance") if run.drew(part)]
        by = f" with {run.drew('sampler')} ({'; '.join(parts)})"
    after = f" after training on {run.used('data')}" if run.used("data") else ""
    return f"Drawn from noise{by}{after}; none was picked by hand."


def _curve_words(run: Contents) -> str:
    rows = [row for row in run.journal if isinstance(row.get("loss"), int | float)]
    if len(rows) < 2:
        return ""
    first, last = rows[0], rows[-1]
    words = (
        f"Training loss {number(first['loss'])} at step {first['step']}, {number(last['loss'])} at step {last['step']}"
    )
    validated = [row for row in run.journal if isinstance(row.get("validation_loss"), int | float)]
    return words + (f"; last validation loss {number(validated[-1]['validation_loss'])}." if validated else ".")


def score_lines(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """The table turned round: a line a metric, a column a contender."""
    if evaluation is None:
        return None
    lines = []
    for column in evaluation.columns:
        verdict = evaluation.verdict(column)
        mark, word = LEVELS[verdict.level]
        cells = [row.cells[column.name] for row in evaluation.rows]
        lines.append(
            {
                "name": column.name,
                "summary": column.summary,
                "better": {"lower": "lower is better", "higher": "higher is better"}.get(
                    column.better, "as real data is best"
                ),
                "floor": number(column.floor),
                "cells": [
                    (row.kind, number(cell.value), cell) for row, cell in zip(evaluation.rows, cells, strict=True)
                ],
                "features": next((cell.features for cell in cells if cell.features), ""),
                "level": verdict.level,
                "mark": mark,
                "word": word,
                "text": verdict.text,
                "beats": verdict.beats,
                "details": {k: number(v) for k, v in cells[0].details.items()},
                "errors": sorted(
                    {
                        cell.error
                        for row, cell in zip(evaluation.rows, cells, strict=True)
                        if cell.error and not row.error and not cell.failed
                    }
                ),
            }
        )
    return {
        "contenders": [(row.kind, row.name, row.n) for row in evaluation.rows],
        "lines": lines,
        "failures": evaluation.failures,
        "notes": evaluation.notes,
    }


def _commands(run: Contents) -> Iterator[tuple[str, str]]:
    """(what it does, what to type)."""
    providers = {"atlas-core": run.versions.get("atlas-core")}
    providers |= {each["id"].partition(":")[0]: each["version"] for each in run.components}
    pinned = [f"{name}=={version}" for name, version in providers.items() if version]
    folder, here = shlex.quote(str(run.home)), shlex.quote(str(run.path))
    given = "".join(f" {shlex.quote(each)}" for each in run.overrides)
    if len(pinned) > 1:
        yield "the same versions", f"python -m pip install {' '.join(pinned)}"
    if run.config_text:
        yield "the same run", f"atlas-core run {folder}/config.toml"
    yield "more samples", f"atlas-core sample {folder}{given}"
    yield "score again", f"atlas-core evaluate {folder}{given}"
    yield "this page again", f"atlas-core report {here}"


def _spread(pictures: tuple[Picture, ...], most: int) -> list[Picture]:
    """At most `most` of them, evenly spaced, the first and the last among them."""
    if len(pictures) <= most:
        return list(pictures)
    return [pictures[round(i * (len(pictures) - 1) / (most - 1))] for i in range(most)]


def _image(picture: Picture | None) -> str:
    return data_uri(picture.png) if picture is not None else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

"""The comparisons of a run as its report shows them: a plot, a table and pictures side by side."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from atlas_core.comparing import CONTENT, comparisons_in
from atlas_core.engine.comparison import Comparison
from atlas_core.engine.scores import number
from atlas_core.report.curve import INK, dress, plain
from atlas_core.report.inline import data_uri

_MARKS = "osD^vPX*<>"
_COLOURS = {
    "light": ("#2f6fde", "#c2571a", "#2b8a57", "#8b4fb8", "#b08500", "#c0304f", "#3a8f9e", "#6b6f78"),
    "dark": ("#7aa7ff", "#f0a35e", "#6fcf97", "#c99bf0", "#e6c35c", "#ff8fa3", "#7fd6e5", "#b5bac4"),
}


@attrs.frozen
class Shown:
    """One comparison, ready for the page."""

    name: str
    words: str
    plots: dict[str, str]
    """theme -> data URI."""
    blocks: list[dict[str, Any]]
    """A measure each: title, and lines of (contender, [(text, best)])."""
    pictures: list[dict[str, Any]]
    """A contender each: name, and a picture a budget."""
    budgets: tuple[int, ...]
    problems: list[str]


def shown_comparisons(run: Path) -> Iterator[Shown]:
    """Read the comparisons of a run, newest first; one that cannot be read says so in its words."""
    for folder in reversed(list(comparisons_in(run))):
        try:
            found = Comparison.from_json(json.loads((folder / CONTENT).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Shown(folder.name, f"{folder / CONTENT} cannot be read: {error}", {}, [], [], (), [])
            continue
        yield _shown(found, folder)


def _shown(found: Comparison, folder: Path) -> Shown:
    words = " ".join(found.notes)
    if found.reference:
        words += f" The error is the distance from {found.reference}, a value of a sample."
    rows = [_pictures(found, folder, name) for name in found.contenders]
    if found.picture and (folder / found.picture).exists():
        uri = data_uri((folder / found.picture).read_bytes())
        rows.append({"name": found.reference, "cells": [uri, *[""] * (len(found.budgets) - 1)]})
    return Shown(
        name=folder.name,
        words=words,
        plots={theme: data_uri(comparison_plot(found, theme)) for theme in ("light", "dark")},
        blocks=[_block(found, measure) for measure in found.measures],
        pictures=[row for row in rows if any(row["cells"])],
        budgets=found.budgets,
        problems=[f"{e.contender} at {e.asked}: {e.problem}" for e in found.entries if e.problem],
    )


def _block(found: Comparison, measure: str) -> dict[str, Any]:
    column = found.column(measure)
    lines = [
        (name, [(number(found.value(measure, name, n)), found.best(measure, n) == name) for n in found.budgets])
        for name in found.contenders
    ]
    floor = number(column.floor) if column is not None and column.floor is not None else ""
    wish = {"higher": "higher is better", "match": "near real data is better"}.get(column.better if column else "")
    return {"title": measure, "floor": floor, "wish": wish or "lower is better", "lines": lines}


def _pictures(found: Comparison, folder: Path, name: str) -> dict[str, Any]:
    cells = []
    for budget in found.budgets:
        entry = found.entry(name, budget)
        path = folder / entry.picture
        cells.append(data_uri(path.read_bytes()) if entry.picture and path.exists() else "")
    return {"name": name, "cells": cells}


def comparison_plot(found: Comparison, theme: str) -> bytes:
    """Draw every measure over the NFE used, a line a contender, both axes logarithmic, as a PNG.

    Lines differ by marker, not by colour alone.
    """
    from matplotlib.figure import Figure

    measures = found.measures
    across = min(2, max(1, len(measures)))
    down = -(-max(1, len(measures)) // across)
    figure = Figure(figsize=(4.4 * across, 3.0 * down + 0.5), dpi=144, layout="constrained")
    lines: dict[str, Any] = {}
    for number_of, measure in enumerate(measures):
        lines.update(_panel(figure.add_subplot(down, across, number_of + 1), found, measure, theme))
    if lines:
        look = {"frameon": False, "labelcolor": INK[theme][0], "ncols": min(4, len(lines))}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", **look)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return buffer.getvalue()


def _panel(axes: Any, found: Comparison, measure: str, theme: str) -> dict[str, Any]:
    """Draw one measure; return the lines by their names."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    colours, values, lines = _COLOURS[theme], [], {}
    for i, name in enumerate(found.contenders):
        mine = [
            (entry.nfe, found.value(measure, name, entry.asked)) for entry in found.entries if entry.contender == name
        ]
        points = [(nfe, value) for nfe, value in mine if nfe and value is not None]
        values += [value for _, value in points]
        if points:
            look = {"color": colours[i % len(colours)], "marker": _MARKS[i % len(_MARKS)], "markersize": 4}
            (lines[name],) = axes.plot(*zip(*points, strict=True), linewidth=1.4, **look)
    axes.set_xscale("log")
    if values and min(values) > 0 and max(values) > 3 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(plain))
        axes.yaxis.set_minor_formatter(FuncFormatter(plain))
    column = found.column(measure)
    if column is not None and column.floor is not None and column.floor > 0:
        lines["real data"] = axes.axhline(column.floor, linestyle=":", color=INK[theme][0])
    axes.set_xticks(list(found.budgets), [str(n) for n in found.budgets])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("NFE")
    axes.set_ylabel(measure)
    dress(axes, theme)
    return lines

"""The training curve, once for a light and once for a dark page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

INK = {"light": ("#1f2430", "#d9dce3"), "dark": ("#e6e8ee", "#3a404c")}
_LINES = {"light": ("#2f6fde", "#c2571a"), "dark": ("#7aa7ff", "#f0a35e")}


def training_curve(rows: Sequence[Mapping[str, Any]], theme: str) -> bytes | None:
    """Draw loss and validation loss over steps as a PNG; None with fewer than two logged losses.

    `theme` is `light` or `dark`; the background is transparent. Lines differ by dash and marker, not by colour alone.
    """
    series = {name: _series(rows, name) for name in ("loss", "validation_loss")}
    if len(series["loss"]) < 2:
        return None
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(8, 3.2), dpi=144, layout="constrained")
    axes: Any = figure.add_subplot()
    looks = {"loss": ("training", "-", ""), "validation_loss": ("validation", "--", "o")}
    for (name, points), colour in zip(series.items(), _LINES[theme], strict=True):
        if points:
            label, dash, marker = looks[name]
            axes.plot(
                *zip(*points, strict=True), dash, color=colour, marker=marker, markersize=4, linewidth=1.6, label=label
            )
    values = [value for points in series.values() for _, value in points]
    # Early losses dwarf all later ones on a linear axis; a logarithm of a loss that is not positive does not exist.
    if min(values) > 0 and max(values) > 4 * min(values):
        axes.set_yscale("log")
        for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            which(FuncFormatter(plain))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    dress(axes, theme)
    axes.legend(frameon=False, labelcolor=INK[theme][0])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return buffer.getvalue()


def dress(axes: Any, theme: str) -> None:
    """Give axes the inks of a light or a dark page, a faint grid, and two spines."""
    ink, faint = INK[theme]
    axes.tick_params(colors=ink, which="both")
    axes.grid(color=faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(faint)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)


def plain(value: float, _position: object) -> str:
    """Label 0.1, 0.2 and 0.5 of each decade: powers of ten alone are too few, all of them too many."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(row["step"], float(row[name])) for row in rows if isinstance(row.get(name), int | float)]

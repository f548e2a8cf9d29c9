"""The pictures of a transport: who is coupled with whom, where the source goes, and for images what becomes of some."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas_core.report.images import grid_png
from atlas_core.runs.atomic import write_atomically

if TYPE_CHECKING:
    from atlas_core.transport.side import Side

Points = NDArray[np.float64]

MOST, LINES, PARTNERS, COLUMNS = 1500, 60, 3, 12
"""Points of a side that are drawn; source points whose lines are; lines of each at most; images of the strip."""
COLOURS = {"source": "#2f6fde", "target": "#d3761c", "mapped": "#0b7a4b"}
INK, FAINT = "#1f2430", "#c9ced8"
LEGEND: dict[str, Any] = {
    "frameon": False,
    "labelcolor": INK,
    "loc": "upper left",
    "bbox_to_anchor": (0, -0.12),
    "ncols": 3,
}


def draw_pictures(folder: Path, coupling: Any, source: Side, target: Side, mapped: Tensor) -> list[dict[str, str]]:
    """Write coupling.png, and images.png where items are images; return file, title and words of each.

    Points of one coordinate are drawn as histograms and as the graph of the map, those of more than two in their two
    principal components, which source and target share.
    """
    pictures = []
    if _as_images(source, source.points[:1]) is not None:
        words = _strip(folder / "images.png", source, target, mapped)
        pictures.append({"file": "images.png", "title": "Some images, and what becomes of them", "words": words})
    rows = _shown(mapped)
    chosen = _evenly((source.masses[rows] > 0).nonzero().flatten().cpu(), LINES)
    draw = _line if source.points.shape[1] == 1 else _plane
    words = draw(folder / "coupling.png", coupling, source, target, mapped, rows[chosen])
    title = "Source, target and where the source goes"
    return [*pictures, {"file": "coupling.png", "title": title, "words": words}]


def _plane(path: Path, coupling: Any, source: Side, target: Side, mapped: Tensor, chosen: Tensor) -> str:
    places, labels, how = _in_two_coordinates(source, target, mapped)
    links = _links(coupling, len(source), chosen)
    figure, (left, right) = _figure(shared=True)
    first, second = places["source"], places["target"]
    for row, column, share in links:
        line = np.stack([first[row], second[column]])
        left.plot(*line.T, color=INK, alpha=0.35, linewidth=2 * share, zorder=3)
    for axes, names in ((left, ("source", "target")), (right, ("target", "mapped"))):
        for name in names:
            _scatter(axes, name, places[name], {"source": source, "target": target}.get(name))
        axes.set_xlabel(labels[0], color=INK)
        axes.set_aspect("equal")
        axes.legend(**LEGEND)
    left.set_ylabel(labels[1], color=INK)
    left.scatter(*first[chosen].T, s=16, c=COLOURS["source"], edgecolors=INK, linewidths=0.6, zorder=4)
    left.set_title("the plan", color=INK, fontsize=11)
    right.set_title("the map", color=INK, fontsize=11)
    _save(figure, path)
    return (
        f"Left: where {len(chosen)} of {len(source)} source points go; each has {PARTNERS} lines, laid as the plan "
        "spreads its mass, thicker where they fall together. Right: each source point at the mean of its partners. "
        f"{how}"
    )


def _line(path: Path, coupling: Any, source: Side, target: Side, mapped: Tensor, chosen: Tensor) -> str:
    figure, (left, right) = _figure(shared=False)
    finite = mapped.isfinite().all(-1).cpu()
    for name, points, masses in (
        ("source", source.points, source.masses),
        ("target", target.points, target.masses),
        ("mapped", mapped[finite], source.masses[finite]),
    ):
        values, weights = points.flatten().double().cpu().numpy(), masses.double().cpu().numpy()
        style = {"mapped": "--"}.get(name, "-")
        left.hist(
            values, bins=30, weights=weights, density=True, histtype="step", color=COLOURS[name], ls=style, label=name
        )
    order = source.points.flatten().argsort()
    x, y = (each[order].flatten().double().cpu().numpy() for each in (source.points, mapped))
    for row, column, share in _links(coupling, len(source), chosen):
        place = float(source.points[row]), float(target.points[column])
        right.plot(*place, "o", color=COLOURS["target"], markersize=4, alpha=0.2 + 0.7 * share)
    right.plot(x, y, color=COLOURS["mapped"], linewidth=1.4, label="mapped")
    name = source.names[0] if source.names else "coordinate"
    for axes, labels in ((left, (name, "density")), (right, (f"{name} of the source", f"{name} it goes to"))):
        axes.set_xlabel(labels[0], color=INK)
        axes.set_ylabel(labels[1], color=INK)
        axes.legend(**LEGEND)
    _save(figure, path)
    return (
        "Left: how the points are spread. Right: the line is where each source point goes on average; the dots, "
        f"{PARTNERS} for {len(chosen)} of them, lie as the plan spreads their mass."
    )


def _strip(path: Path, source: Side, target: Side, mapped: Tensor) -> str:
    chosen = _evenly(_shown(mapped), COLUMNS)
    images = mapped[chosen]
    nearest = torch.cdist(images, target.points).argmin(1)
    rows = {"source": source.points[chosen], "mapped": images, "nearest target": target.points[nearest]}
    frames = [_as_images(source, points) for points in rows.values()]
    values = source.dataset.spec.value_range
    if values is None:
        seen = torch.cat([rows["source"], rows["nearest target"]])
        values = float(seen.min()), float(seen.max())
    grid_png(torch.cat([frame for frame in frames if frame is not None]), path, len(chosen), values)
    _label_rows(path, list(rows))
    return (
        f"{len(chosen)} of {len(source)} images of the source, evenly spaced; below each where the plan sends it, "
        "which is a mean of target images; below that the target image nearest to the mean."
    )


def _label_rows(path: Path, labels: list[str]) -> None:
    """Put a margin with a label for each row to the left of a picture."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(14)
    with Image.open(path) as grid:
        margin = int(max(font.getlength(label) for label in labels)) + 16
        wide = Image.new("RGB", (grid.width + margin, grid.height), "white")
        wide.paste(grid.convert("RGB"), (margin, 0))
    draw = ImageDraw.Draw(wide)
    for number, label in enumerate(labels):
        centre = (number + 0.5) * wide.height / len(labels)
        draw.text((margin - 8, centre), label, fill=INK, font=font, anchor="rm")
    out = io.BytesIO()
    wide.save(out, format="PNG", optimize=True)
    write_atomically(path, out.getvalue())


def _as_images(side: Side, points: Tensor) -> Tensor | None:
    """Points as images (k, c, h, w); None if items are none."""
    shape = side.shape if len(side.shape) != 2 else (1, *side.shape)
    if len(shape) != 3 or shape[0] not in (1, 3, 4):
        return None
    return points.reshape(-1, *shape)


def _in_two_coordinates(source: Side, target: Side, mapped: Tensor) -> tuple[dict[str, Points], tuple[str, str], str]:
    """All three in the plane, the names of its axes, and how they came there."""
    sets = {"source": source.points, "target": target.points, "mapped": mapped}
    if source.points.shape[1] == 2:
        names = source.names if len(source.names) == 2 else ("first coordinate", "second coordinate")
        return {name: _array(points) for name, points in sets.items()}, (names[0], names[1]), ""
    both = torch.cat([side.points[_evenly(torch.arange(len(side)), 1000)] for side in (source, target)]).double().cpu()
    centre = both.mean(0)
    # The Gram matrix of at most 2000 points, since the dimension may be that of images.
    values, vectors = torch.linalg.eigh((both - centre) @ (both - centre).T)
    axes = (both - centre).T @ vectors[:, -2:].flip(1)
    axes = axes / axes.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    shares = [100 * float(value / values.clamp_min(0).sum().clamp_min(1e-300)) for value in values[-2:].flip(0)]
    labels = tuple(f"principal component {number + 1} ({share:.0f} %)" for number, share in enumerate(shares))
    how = (
        f"The plane is that of the two principal components, {sum(shares):.0f} % of the variance of source and target."
    )
    flat = {name: _array((points.double().cpu() - centre) @ axes) for name, points in sets.items()}
    return flat, (labels[0], labels[1]), how


def _links(coupling: Any, n: int, chosen: Tensor) -> list[tuple[int, int, float]]:
    """(source row, target row, share of the lines) of partners of each chosen source point.

    Three lines a point, systematically drawn from its row of the plan: they lie where its mass goes.
    """
    if not len(chosen):
        return []
    like = coupling.marginals[0]
    indicator = torch.zeros(n, len(chosen), dtype=like.dtype, device=like.device)
    indicator[chosen.to(like.device), torch.arange(len(chosen), device=like.device)] = 1
    rows = coupling.rmatvec(indicator).detach().double().cpu().T  # of the plan, without forming it
    levels = rows.cumsum(1) / rows.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    quantiles = (torch.arange(PARTNERS, dtype=torch.float64) + 0.5) / PARTNERS
    drawn = torch.searchsorted(levels, quantiles.expand(len(levels), -1).contiguous()).clamp(max=rows.shape[1] - 1)
    counts = Counter((int(row), int(column)) for row, columns in zip(chosen, drawn, strict=True) for column in columns)
    return [(row, column, count / PARTNERS) for (row, column), count in counts.items()]


def _scatter(axes: Any, name: str, places: Points, side: Side | None) -> None:
    shown = _evenly(torch.arange(len(places)), MOST).numpy()
    size: Any = 11.0
    if side is not None and side.weights is not None:
        weights = side.weights.double().cpu().numpy()[shown]
        size = 2 + 20 * np.sqrt(weights / max(weights.max(), 1e-300))
    look = {"marker": "x", "linewidths": 0.9} if name == "mapped" else {"marker": "o", "linewidths": 0}
    axes.scatter(*places[shown].T, s=size, c=COLOURS[name], alpha=0.75 if len(shown) < 500 else 0.5, label=name, **look)


def _figure(*, shared: bool) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 5.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2, sharex=shared, sharey=shared)
    for each in axes:
        each.tick_params(colors=INK)
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(FAINT)
        each.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white", bbox_inches="tight", pad_inches=0.12)
    write_atomically(path, out.getvalue())


def _shown(mapped: Tensor) -> Tensor:
    """Rows that have an image."""
    return mapped.isfinite().all(-1).nonzero().flatten().cpu()


def _evenly(rows: Tensor, most: int) -> Tensor:
    """At most `most` of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).round().long()]


def _array(points: Tensor) -> Points:
    array: Points = points.detach().double().cpu().numpy()
    return array

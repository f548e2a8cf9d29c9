"""Coarse to fine: what an image shows is decided on few pixels, its detail on many."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import torch

from atlas_core.asked import check_whole
from atlas_core.engine.task import Task
from atlas_core.errors import UsageError
from atlas_core.tasks.given import image_shape, seeds_of
from atlas_core.tasks.levels import time_of_log_snr, time_of_strength
from atlas_core.tasks.pixels import block_means, repeated
from atlas_core.tasks.tiled import in_tiles

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts import Denoiser, NoiseSource, Process
    from atlas_core.pipeline import Pipeline


@attrs.frozen(slots=False, eq=False)
class Until(Task):
    """Stop early, with the noise that is left at time `earliest`."""

    earliest: float = 0.0


@attrs.frozen(slots=False, eq=False)
class Refine(Task):
    """Go on from coarse states, enlarged, on tiles where `tiles` says so."""

    coarse: Tensor
    """(n, c, h, w): α_c x₀ + σ_c z."""
    alpha: float
    """α_c."""
    factor: int
    latest: float | None = None
    tiles: Task | None = None

    def start(self, process: Process, noise: NoiseSource, like: Tensor, t: float, rows: slice) -> Tensor:
        """Enlarge the coarse state."""
        unit = noise.normal("detail", 0, like)
        return enlarged(process, self.coarse[rows].to(like), self.alpha, unit, t, self.factor)

    def wrap(self, denoiser: Denoiser, rows: slice) -> Denoiser:
        """Cut into tiles."""
        return denoiser if self.tiles is None else self.tiles.wrap(denoiser, rows)


def enlarged(process: Process, coarse: Tensor, alpha: float, unit: Tensor, t: float, factor: int) -> Tensor:
    """Return a state (n, c, f h, f w) at time t whose block means are the coarse state (n, c, h, w), up to scale.

    At the log-SNR that `matching` gives, the noise in the block means of a fine state has just the variance that the
    coarse state's noise has; `unit` noise, less its own block means, supplies the rest of white noise:
    x = α/α_c · up(x_c) + σ (z − up(down(z))).
    """
    at = torch.tensor(t, dtype=torch.float64)
    detail = unit - repeated(block_means(unit, factor), factor)
    return repeated(coarse, factor) * (float(process.alpha(at)) / alpha) + detail * float(process.sigma(at))


def matching(log_snr: float, factor: int) -> float:
    """Return the log-SNR of the coarse state that goes with a fine one's: block means have 1/f² of the noise."""
    return log_snr + 2 * math.log(factor)


def hierarchical(
    pipeline: Pipeline,
    n: int,
    *,
    factor: int = 2,
    fine: Pipeline | None = None,
    strength: float = 0.4,
    overlap: float = 0.5,
    seed: int | None = None,
    condition: Any = None,
    steps: int | None = None,
    nfe: int | None = None,
    batch: int | None = None,
) -> Tensor:
    """Draw n images of factor × the size of the pipeline's, coarse first -> float32 (n, c, factor h, factor w).

    The pipeline draws at its own size until the log-SNR that matches `strength` (the share of noise σ/(α + σ)) in the
    large image; the state is enlarged to exactly that noise level, and refined by `fine`, a pipeline trained for the
    large size, or by the same network on tiles that share `overlap`. Tiles know nothing of the whole but what the noise
    leaves them: keep `strength` low there, about 0.4. `steps` or `nfe` count for each of both stages;
    the other options are those of `Pipeline.sample`. Raises UsageError.
    """
    channels, height, width = image_shape(pipeline)
    check_whole("factor", factor, least=2)
    large = (channels, factor * height, factor * width)
    if fine is not None and image_shape(fine) != large:
        raise UsageError(f"the fine pipeline draws {image_shape(fine)}; {factor} times the coarse one's is {large}")
    finer = pipeline if fine is None else fine
    process, coarse = finer.network.process, pipeline.network.process
    latest = time_of_strength(process, strength)
    level = float(process.log_snr(torch.tensor(latest, dtype=torch.float64)))
    earliest = time_of_log_snr(coarse, matching(level, factor), f"strength={strength:g}")
    if earliest >= coarse.t_max:
        raise UsageError(f"strength={strength:g} leaves the coarse stage nothing to do", hint="Try 0.4.")
    seeds = seeds_of(pipeline, seed, n)
    draw, refine = (partial(each.draw, steps=steps, nfe=nfe, batch=batch) for each in (pipeline, finer))
    states = draw(seeds, pipeline.conditions(condition, n), task=Until(earliest))
    alpha = float(coarse.alpha(torch.tensor(earliest, dtype=torch.float64)))
    tiles = (
        in_tiles((channels, height, width), large[1:], overlap, pipeline.plan.sampling.batch) if fine is None else None
    )
    task = Refine(states, alpha, factor, latest, tiles)
    return refine(seeds, finer.conditions(condition, n), task=task, shape=large)

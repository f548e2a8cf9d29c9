"""What the schedulers of diffusers have in common, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from atlas_core.errors import UsageError

WANTS_NOISE = ("EulerAncestralDiscreteScheduler",)
"""Schedulers that take no x̂₀: they are told the noise that it leaves."""
Space = Literal["exploding", "preserving", "flow"]


def scheduler_class(name: str) -> Any:
    """Return a scheduler class of diffusers by name. Raises ValueError with the nearest names."""
    import difflib

    import diffusers

    found = getattr(diffusers, name, None)
    if found is None or not name.endswith("Scheduler"):
        known = [each for each in dir(diffusers) if each.endswith("Scheduler")]
        near = difflib.get_close_matches(name, known, 3)
        raise ValueError(f"diffusers has no scheduler {name!r}" + (f"; near: {', '.join(near)}" if near else ""))
    return found


def made(name: str, options: Mapping[str, Any]) -> Any:
    """Return a scheduler. Raises ValueError for settings that it does not have: diffusers itself would ignore them."""
    import inspect

    cls = scheduler_class(name)
    known = inspect.signature(cls.__init__).parameters
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; it has {', '.join(list(known)[1:])}")
    return cls(**options)


def says_the_sample(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with which a scheduler takes x̂₀. Raises ValueError for one that cannot."""
    import inspect

    known = inspect.signature(scheduler_class(name).__init__).parameters
    if "prediction_type" in options:
        raise ValueError("prediction_type is the network's: the sampler hands x̂₀ to the scheduler")
    if "prediction_type" not in known:
        return dict(options)
    return {**options, "prediction_type": "epsilon" if name in WANTS_NOISE else "sample"}


def space_of(scheduler: Any) -> Space:
    """In which scale a scheduler keeps its state: x₀ + ς z, that over √(1 + ς²), or (1 − s) x₀ + s z."""
    if "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas", False):
        return "flow"
    return "exploding" if float(scheduler.init_noise_sigma) > 1.5 else "preserving"


def levels_of(scheduler: Any, steps: int) -> Tensor:
    """Return σ/α at each of the steps of a scheduler that was set: (steps,) float64. Raises ValueError."""
    name = type(scheduler).__name__
    if len(scheduler.timesteps) != steps:
        raise UsageError(
            f"{name} makes {len(scheduler.timesteps)} calls in {steps} steps: only schedulers with one call a step can "
            "be used; Atlas has heun, dpm-2 and their kin itself"
        )
    if hasattr(scheduler, "sigmas") and len(scheduler.sigmas) == steps + 1:
        levels: Tensor = scheduler.sigmas[:-1].double().cpu()
        return levels / (1 - levels) if space_of(scheduler) == "flow" else levels
    kept = scheduler.alphas_cumprod[scheduler.timesteps.long().cpu()].double()
    found: Tensor = ((1 - kept) / kept).sqrt()
    return found


def lay(scheduler: Any, levels: Tensor) -> None:
    """Make a scheduler step at these σ/α. Raises ValueError for one that only knows its own, if they differ."""
    steps, name = len(levels), type(scheduler).__name__
    own = levels_of(scheduler, steps)
    if torch.allclose(own, levels, rtol=1e-3):
        return
    if not (hasattr(scheduler, "sigmas") and len(scheduler.sigmas) == steps + 1):
        raise UsageError(
            f"{name} steps at its own times only; give the pipeline its grid: sampling.grid = "
            f'{{ use = "diffusers", scheduler = "{name}" }}'
        )
    if space_of(scheduler) == "flow":
        given = 1 / (1 + 1 / levels)
    elif bool(levels.isfinite().all()):
        given = levels
    else:
        raise ValueError(f"{name} cannot start from pure noise: its state is x₀ + ς z, and ς = σ/α is infinite there")
    ends = torch.cat([given, torch.zeros(1, dtype=torch.float64)])
    scheduler.sigmas = ends.to(scheduler.sigmas.dtype)
    # The time steps only tell the scheduler where it is: they must be in order, and no two the same.
    scheduler.timesteps = torch.linspace(999, 0, steps, dtype=torch.float64)


def scale(space: Space, alpha: float, sigma: float) -> float:
    """What α x₀ + σ z is multiplied by to be a scheduler's own state."""
    if space == "exploding":
        return 1 / alpha
    return 1 / math.hypot(alpha, sigma) if space == "preserving" else 1 / (alpha + sigma)

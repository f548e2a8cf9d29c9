"""Where a solve starts: at zero, or at the potentials of another solution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atlas_solvers_builtin.transport.problem import Problem


def start_of(problem: Problem, init: Any) -> tuple[Tensor, Tensor]:
    """The (f, g) to start from. Raises ValueError for ones of another shape."""
    if init is None:
        return torch.zeros_like(problem.a), torch.zeros_like(problem.b)
    found = init if isinstance(init, tuple | list) else (getattr(init, "f", None), getattr(init, "g", None))
    if len(found) != 2 or not all(isinstance(potential, Tensor) for potential in found):
        raise ValueError(f"init must be a solution or its (f, g), not a {type(init).__name__}")
    for name, potential, weights in zip("fg", found, (problem.a, problem.b), strict=True):
        if potential.shape != weights.shape or not potential.isfinite().all():
            raise ValueError(
                f"init must hold a finite {name} of shape {tuple(weights.shape)}, not {tuple(potential.shape)}"
            )
    f, g = (p.detach().to(w) for p, w in zip(found, (problem.a, problem.b), strict=True))
    return f, g

"""Exact transport of equally many points of equal weight: an assignment, and the potentials that prove it the best."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def is_assignment(a: Tensor, b: Tensor) -> bool:
    """Whether positive weights a (n,) and b (m,) are one number, up to rounding: then some permutation is optimal."""
    if len(a) != len(b):
        return False
    rounding = 8 * torch.finfo(a.dtype).eps * a[0]
    return all(bool(((weights - a[0]).abs() <= rounding).all()) for weights in (a, b))


def assign(cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the columns (n,) that rows 0, 1, … are assigned to, and the potentials (n,), (n,); cost (n, n), float64.

    Jonker–Volgenant (Crouse 2016), in SciPy. Raises ValueError if infinite costs leave no assignment.
    """
    try:
        _, columns = linear_sum_assignment(cost.numpy())
    except ValueError as error:
        raise ValueError(f"no assignment has a finite cost ({error}): widen the kernel") from None
    match = torch.from_numpy(columns)
    return match, *_potentials(cost, match)


def _potentials(cost: Tensor, match: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials with f_i + g_j ≤ C_ij, and equality on the assignment, by shortest paths (Bellman 1958, Ford 1956).

    From any f, g_j = min_i C_ij − f_i is feasible, and f_i = C_{i,σ(i)} − g_σ(i) tight; f only rises, and for the best
    assignment it comes to rest within n rounds.
    """
    tight = cost.gather(1, match[:, None])[:, 0]
    f = cost.amin(1)
    rest = 1e-14 * float(tight.abs().amax())
    for _ in range(len(cost)):
        g = (cost - f[:, None]).amin(0)
        raised = tight - g[match]
        moved = float((raised - f).amax())
        f = raised
        if moved <= rest:
            break
    return f, g

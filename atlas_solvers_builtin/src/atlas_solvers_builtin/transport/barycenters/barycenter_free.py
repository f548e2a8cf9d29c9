"""Barycenters whose points move: each to the mean of where its plans send it."""

from __future__ import annotations

import time
import warnings
from typing import Any

import attrs
import torch
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.barycenters.barycenter_plan import BarycenterPlan


@torch.no_grad()
def move_support(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    shares: Tensor,
    epsilon: float,
    *,
    tolerance: float,
    limit: int,
    init: Any,
) -> BarycenterPlan:
    """Move x (n, d) until it rests: x ← Σ_k w_k T_k(x), each step a descent of Σ_k w_k OT_ε (Cuturi & Doucet, alg. 2).

    The potentials of one step start the next. Raises ValueError for a cost that is no squared distance: only there is
    the mean the nearest point.
    """
    if not hasattr(kernel, "quadratic"):
        raise ValueError(
            f"a free support needs a squared-Euclidean cost, `gaussian` or `squared-euclidean`, not "
            f"{type(kernel).__name__}: use support = 'fixed'"
        )
    began = time.perf_counter()
    solver = Sinkhorn(kernel=kernel, tolerance=tolerance)
    weights = x.new_full((len(x),), 1 / len(x)) if a is None else a.to(x)
    if weights.shape != (len(x),):
        raise ValueError(f"a must hold one weight a point of the support, {(len(x),)}, not {tuple(weights.shape)}")
    if b is not None and a is None:
        weights = weights * b.sum(-1)[0]
    if init is not None and not isinstance(init, BarycenterPlan):
        raise ValueError("init must be a BarycenterPlan of a problem of the same shape")
    points = x if init is None or init.points is None else init.points
    start = None if init is None else init.couplings
    share = weights / weights.sum()
    spread = _length(points - share @ points, share) or 1.0
    history: list[float] = []
    status = "max-iterations"
    while True:
        operator = operator_of(kernel, points.expand(len(y), *points.shape), y, epsilon=epsilon)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what does not converge is said once, of the last plans
            couplings = solver.solve_operator(operator, a=weights.expand(len(y), -1), b=b, init=start, y=y)
        if status == "converged" or len(history) >= limit or not bool(couplings.f.isfinite().all()):
            break
        moved = (shares[:, None, None] * couplings.barycentric_map()).sum(0)
        history.append(_length(moved - points, share) / spread)
        # The plans are solved once more where the points have come to rest.
        status = "converged" if history[-1] <= tolerance else status
        points, start = moved, couplings
    return BarycenterPlan(
        weights=weights,
        points=points,
        couplings=attrs.evolve(couplings, kernel=kernel),
        shares=shares,
        value=(shares * couplings.value).sum(),
        status=next((each for each in couplings.status if each != "converged"), status),
        marginal_error=float((couplings.marginal_error / weights.sum()).max()),
        iterations=len(history),
        history=history,
        seconds=time.perf_counter() - began,
    )


def _length(vectors: Tensor, share: Tensor) -> float:
    """Root of the mean square of vectors (n, d), weighted with `share` (n,)."""
    return float((share @ vectors.square().sum(-1)).sqrt())

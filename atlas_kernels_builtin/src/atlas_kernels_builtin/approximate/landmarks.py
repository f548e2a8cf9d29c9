"""Landmarks of a Nyström approximation: few points whose kernels say most about all the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Gram = Callable[[Tensor, Tensor], Tensor]
"""K of two sets of points in float64: (p, *item), (q, *item) -> (p, q)."""
MEMORY = 2**23
"""Entries of the partial Cholesky factor of the candidates."""


def candidates(total: int, count: int, generator: torch.Generator) -> Tensor:
    """Points that landmarks are picked from: as many as memory allows, since a few may lie far from all others."""
    most = max(2 * count, MEMORY // count)
    return torch.randperm(total, generator=generator)[:most]


def uniform(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Pick `count` of n points with equal odds: (count,)."""
    return torch.randperm(points.shape[0], generator=generator)[:count]


def k_means_plus_plus(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Pick each point with odds of its squared distance from those picked before (Arthur & Vassilvitskii 2007).

    Stops where all are picked or coincide with one that is: at most `count` of n points.
    """
    flat = points.flatten(1).double()
    picked = [torch.randint(len(flat), (1,), generator=generator)]
    nearest = torch.full((len(flat),), torch.inf, dtype=torch.float64, device=flat.device)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (flat - flat[picked[-1].to(flat.device)]).square().sum(-1))
        odds = nearest.cpu()
        if not bool((odds > 0).any()):
            break
        picked.append(torch.multinomial(odds, 1, generator=generator))
    return torch.cat(picked)


def rp_cholesky(
    points: Tensor, count: int, generator: torch.Generator, *, gram: Gram, diagonal: Tensor, tolerance: float
) -> Tensor:
    """Pick pivots of a Cholesky factorisation with odds of what is left of the diagonal (Chen et al. 2022, alg. 2.1).

    In rounds: as many proposals as are cheap, of which rejection keeps what the sequential algorithm would have picked
    (Epperly, Tropp & Webber 2024, alg. 2). Stops where `tolerance` of the trace is left: at most `count` of n points.
    `diagonal` is k(p, p), (n,). Raises ValueError for a kernel that is not positive definite.
    """
    left, total = diagonal.double().clone(), float(diagonal.sum())
    if not bool((left >= 0).all()) or not total > 0:
        raise ValueError(
            "nystroem: rp-cholesky needs a positive definite kernel, and k(x, x) is not positive: use method = "
            '"k-means++" or "uniform"'
        )
    room = torch.empty(len(points), count, dtype=torch.float64, device=points.device)
    picked = torch.zeros(0, dtype=torch.int64)
    while len(picked) < count and float(left.sum()) > tolerance * total:
        proposed = torch.multinomial(left.cpu(), max(8, count // 8), replacement=True, generator=generator)
        chance = torch.rand(len(proposed), generator=generator, dtype=torch.float64)
        factor = room[:, : len(picked)]
        rows = factor[proposed]
        schur = (gram(points[proposed], points[proposed]) - rows @ rows.mT).cpu()
        new = proposed[_accepted(schur, chance * left.cpu()[proposed])][: count - len(picked)]
        columns = gram(points, points[new]) - factor @ factor[new].mT
        # Symmetric, and positive but for rounding, which the tiny shift outweighs.
        core = columns[new] + torch.finfo(torch.float64).eps * total / len(points) * torch.eye(len(new)).to(columns)
        root = torch.linalg.cholesky(core)
        columns = torch.linalg.solve_triangular(root, columns.mT, upper=False).mT
        room[:, len(picked) : len(picked) + len(new)] = columns
        picked = torch.cat([picked, new])
        left = (left - columns.square().sum(-1)).clamp(min=0)
        left[picked] = 0
    return picked


def _accepted(schur: Tensor, threshold: Tensor) -> list[int]:
    """Proposals that a sequential run would have accepted: their pivot after the ones before is above the threshold."""
    schur, accepted = schur.clone(), []
    for index in range(len(schur)):
        pivot = float(schur[index, index])
        if pivot > float(threshold[index]) and pivot > 0:
            accepted.append(index)
            schur -= torch.outer(schur[:, index], schur[index]) / pivot
    return accepted

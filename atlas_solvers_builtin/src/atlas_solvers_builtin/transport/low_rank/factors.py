"""The factors of a low-rank plan, and one mirror step of theirs with its projection."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.low_rank.cost_products import CostProducts
from atlas_solvers_builtin.transport.problem import Problem

FLOOR = 1e-8
"""Least mass of an intermediate point, as a share of an even one."""
WARMTH = 0.1
"""Temperature of the first factors, in units of the mean cost."""
LOOSE, ROUNDS = 1e-5, 60
"""Mismatch, as a share of the mass, and number of rounds at which a projection stops; rounding does the rest."""
CHECK_EVERY = 5
"""Rounds between two looks at the mismatch."""


@attrs.frozen(eq=False)
class Factors:
    """Q = diag(a) out, R = diag(b) into, and w between them."""

    out: Tensor
    into: Tensor
    w: Tensor
    levels: tuple[Tensor, Tensor]
    """Dual potentials of the intermediate points towards the sources and the targets, in units of the mean cost."""

    def chosen(self, where: Tensor, moved: Factors) -> Factors:
        """`moved` for the problems `where` (*batch,), this for the others."""
        wide = where[..., None]
        return Factors(
            torch.where(wide[..., None], moved.out, self.out),
            torch.where(wide[..., None], moved.into, self.into),
            torch.where(wide, moved.w, self.w),
            (torch.where(wide, moved.levels[0], self.levels[0]), torch.where(wide, moved.levels[1], self.levels[1])),
        )

    def error(self, problem: Problem) -> Tensor:
        """(*batch,): the larger L1 distance of the plan's marginals from a and b."""
        sent, received = (
            (weights[..., None] * shares).sum(-2) for weights, shares in ((problem.a, self.out), (problem.b, self.into))
        )
        rows = problem.a * (self.out @ (received / self.w)[..., None])[..., 0]
        columns = problem.b * (self.into @ (sent / self.w)[..., None])[..., 0]
        return torch.maximum((rows - problem.a).abs().sum(-1), (columns - problem.b).abs().sum(-1))


@attrs.frozen(eq=False)
class Slope:
    """⟨P, C⟩ and its derivatives, in units of the mean cost."""

    cost: Tensor
    """(*batch,)."""
    out: Tensor
    """By Q, (*batch, n, r): the mean cost from a source to the targets of an intermediate point."""
    into: Tensor
    """By R, (*batch, m, r)."""
    w: Tensor
    """(*batch, r)."""

    def chosen(self, where: Tensor, there: Slope) -> Slope:
        """`there` for the problems `where` (*batch,), this for the others."""
        wide = where[..., None]
        return Slope(
            torch.where(where, there.cost, self.cost),
            torch.where(wide[..., None], there.out, self.out),
            torch.where(wide[..., None], there.into, self.into),
            torch.where(wide, there.w, self.w),
        )


def slope_of(problem: Problem, products: CostProducts, factors: Factors, unit: Tensor) -> Slope:
    """Cost and derivatives at the factors: one pass over C."""
    scale = unit[..., None, None] * factors.w[..., None, :]
    mass_in, mass_out = problem.b[..., None] * factors.into, problem.a[..., None] * factors.out
    forward, backward = products.both(mass_in / scale, mass_out / scale)
    through = (mass_out * forward).sum(-2)
    return Slope(through.sum(-1), forward, backward, -through / factors.w)


def first_factors(problem: Problem, products: CostProducts, unit: Tensor, rank: int, seed: int) -> Factors:
    """Intermediate points at `rank` sources drawn by their weights: targets go to near ones, sources follow."""
    starts = torch.zeros(*problem.a.shape, rank, dtype=problem.a.dtype, device=problem.a.device)
    starts.scatter_(-2, _drawn(problem.a, rank, seed)[..., None, :], 1)
    even = (problem.mass / rank)[..., None].expand(*problem.mass.shape, rank)
    costs = products.both(torch.zeros_like(problem.b[..., None]), starts)[1]
    into = (-costs / (WARMTH * unit[..., None, None])).softmax(-1)
    mass = problem.b[..., None] * into
    mean = products.both(mass / mass.sum(-2, keepdim=True), torch.zeros_like(problem.a[..., None]))[0]
    out = (-mean / (WARMTH * unit[..., None, None])).softmax(-1)
    still = Slope(problem.mass, torch.zeros_like(out), torch.zeros_like(into), torch.zeros_like(even))
    return projected(problem, Factors(out, into, even, (still.w, still.w)), still, torch.ones_like(unit))


def _drawn(weights: Tensor, rank: int, seed: int) -> Tensor:
    """Draw `rank` different rows of each problem (*batch, n), with chances that go with their weights: (*batch, rank).

    The first arrivals of processes whose rates are the weights. Arrival times belong to the number of a row among those
    that weigh something: a draw depends neither on the rest of the batch nor on rows of weight 0, which come last.
    """
    times = torch.empty(weights.shape[-1], dtype=torch.float64).exponential_(
        generator=torch.Generator().manual_seed(seed)
    )
    heavy = (weights > 0).cpu()
    number = (heavy.cumsum(-1) - 1).clamp(min=0)
    return (weights.cpu().double() / times[number]).topk(rank, dim=-1).indices.to(weights.device)


def projected(problem: Problem, factors: Factors, slope: Slope, step: Tensor) -> Factors:
    """One mirror step down the slope, then the projection onto Q1 = a, R1 = b, Qᵀ1 = Rᵀ1 = w."""
    # A constant per row is taken up by its scaling: what moves a factor is the spread.
    forward, backward = (part - part.mean(-1, keepdim=True) for part in (slope.out, slope.into))
    inner = slope.w - slope.w.mean(-1, keepdim=True)
    # Rows that weigh nothing, which may lie anywhere, do not hold the others back.
    felt = [part * (w > 0)[..., None] for part, w in ((forward, problem.a), (backward, problem.b))]
    most = [part.abs().flatten(problem.mass.ndim).amax(-1) for part in (*felt, inner)]
    steepest = torch.stack(most).amax(0).clamp(min=torch.finfo(step.dtype).eps)
    gamma = (step / steepest)[..., None]
    k1 = _stepped(factors.out, gamma[..., None] * forward)
    k2 = _stepped(factors.into, gamma[..., None] * backward)
    # Where a step changes nothing, the scalings are those of the levels: a start that leaves little to do.
    levels = factors.levels[0] * gamma, factors.levels[1] * gamma
    v1, v2, w = _balanced(k1, k2, factors.w * (-gamma * inner).exp(), levels, problem)
    out = _rounded(k1 * v1[..., None, :], problem.a, w)
    into = _rounded(k2 * v2[..., None, :], problem.b, w)
    return Factors(out, into, w, (v1.log() / gamma, v2.log() / gamma))


def _rounded(scaled: Tensor, weights: Tensor, w: Tensor) -> Tensor:
    """Shares near those of `scaled` whose rows sum to 1 and whose mass a column is w (Altschuler et al. 2017, alg. 2).

    The projection need then not be exact: the plan is feasible after every step.
    """
    shares = scaled / scaled.sum(-1, keepdim=True)
    mass = (weights[..., None, :] @ shares)[..., 0, :]
    shares = shares * (w / mass).clamp(max=1)[..., None, :]
    missing = (w - (weights[..., None, :] @ shares)[..., 0, :]).clamp(min=torch.finfo(w.dtype).tiny)
    return shares + (1 - shares.sum(-1, keepdim=True)) * (missing / missing.sum(-1, keepdim=True))[..., None, :]


def _stepped(shares: Tensor, move: Tensor) -> Tensor:
    """shares · exp(−move), each row divided by its sum; an entry that has died can come back."""
    return (shares.clamp(min=torch.finfo(shares.dtype).tiny).log() - move).softmax(-1)


def _balanced(
    k1: Tensor, k2: Tensor, k3: Tensor, levels: tuple[Tensor, Tensor], problem: Problem
) -> tuple[Tensor, Tensor, Tensor]:
    """Scalings v1, v2 of the columns, and w, of the projection (Scetbon et al. 2021, algorithm 2).

    Without their lower bound on w, which a positive w needs only in rounding, the constraints are affine: Bregman's
    alternating projections do, and Dykstra's corrections are all 1.
    """
    v1, v2, w = levels[0].exp(), levels[1].exp(), k3 * (-levels[0] - levels[1]).exp()
    floor = FLOOR * problem.mass[..., None] / k3.shape[-1]
    done = torch.zeros_like(problem.mass, dtype=torch.bool)[..., None]
    for count in range(ROUNDS):
        s1, s2 = (
            ((weights / (k @ v[..., None])[..., 0])[..., None, :] @ k)[..., 0, :]
            for k, v, weights in ((k1, v1, problem.a), (k2, v2, problem.b))
        )
        mean = (w * (v1 * s1) * (v2 * s2)).pow(1 / 3).maximum(floor)
        error = (v1 * s1 - mean).abs().sum(-1, keepdim=True) + (v2 * s2 - mean).abs().sum(-1, keepdim=True)
        v1, v2, w = (torch.where(done, old, new) for old, new in ((v1, mean / s1), (v2, mean / s2), (w, mean)))
        done = done | ~(error > LOOSE * problem.mass[..., None])
        if count % CHECK_EVERY == 0 and bool(done.all()):
            break
    return v1, v2, w * (problem.mass[..., None] / w.sum(-1, keepdim=True))

"""Entropic Wasserstein barycenters: the distribution that is nearest to several, in transport cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from atlas_kernels_builtin.exact.streaming import operator_of
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.kernels.parts import fit
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.barycenters.barycenter_free import move_support
from atlas_solvers_builtin.transport.barycenters.barycenter_plan import BarycenterPlan
from atlas_solvers_builtin.transport.barycenters.barycenter_projections import Targets, project
from atlas_solvers_builtin.transport.problem import check_points, mean_cost, problem_of
from atlas_solvers_builtin.transport.settings import (
    SHARE_OF_MEAN_COST,
    epsilon_field,
    kernel_field,
    max_iterations_field,
    mean_cost_of,
    tolerance_field,
)


@attrs.frozen
class Barycenter:
    """Average k distributions b_k: minimise Σ_k w_k OT_ε(a, b_k) over weights a on a support, or over the support.

    Support `fixed`: min Σ_k w_k ε KL(P_k | K_k) over plans P_k whose first marginals are one and the same a, by
    iterative Bregman projections in the log domain. This blurs: the barycenter of copies of one Gaussian is wider.
    `debiased` takes that back: it minimises Σ_k w_k S_ε(a, b_k), with S_ε the Sinkhorn divergence.
    Support `free`: a is given, uniform by default, and the points move to Σ_k w_k T_k(x) with T_k the barycentric map
    of OT_ε(a, b_k), until they rest (squared-Euclidean costs). This shrinks instead.

    A barycenter has k inputs where a solver has two, so the batch holds them: `solve(x, y, b=b)` takes the support x
    (n, d), k clouds y (k, m, d) and their weights b (k, m), and returns a `BarycenterPlan`, which is the batch of the k
    couplings of the barycenter with its inputs, and has `weights`, `points` and more. `solve_many([y_1, …, y_k])` is
    the same for clouds of different sizes, and `solve_images(images)` for images (k, *shape) on one grid.
    """

    paper = (
        "Benamou et al. 2015, sec. 3.2; on grids Solomon et al. 2015; debiased Janati et al. 2020, alg. 1; "
        "free support Cuturi & Doucet 2014, alg. 2"
    )

    kernel: Kernel = kernel_field()
    epsilon: float | None = epsilon_field("the mean cost to the inputs")
    shares: tuple[float, ...] | None = attrs.field(
        default=None, metadata={"help": "What each input counts, w_k: positive, divided by their sum; unset: alike."}
    )
    support: str = attrs.field(
        default="fixed",
        validator=attrs.validators.in_(("fixed", "free")),
        metadata={"help": "fixed: the weights of given points are sought; free: the points of given weights."},
    )
    debiased: bool = attrs.field(
        default=False, metadata={"help": "Minimise Sinkhorn divergences, which do not blur. For a fixed support."}
    )
    tolerance: float = tolerance_field(
        1e-5,
        "L1 error of the plans' marginals, as a share of the mass; free: also the last move of the points, in units of "
        "their spread.",
    )
    max_iterations: int = max_iterations_field(5000, "Iterations after which it gives up.")

    @shares.validator
    def _check_shares(self, attribute: object, value: tuple[float, ...] | None) -> None:
        if value is not None and (not value or not all(0 < share < float("inf") for share in value)):
            raise ValueError(f"shares must be positive numbers, one an input, not {value!r}")

    def __attrs_post_init__(self) -> None:
        if self.debiased and self.support == "free":
            raise ValueError("debiased has no effect on a free support: set support = 'fixed', or leave it out")

    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> BarycenterPlan:
        """Average the clouds y (k, m, d) with weights b (k, m), of equal mass, on the support x (n, d).

        Support free: x is where the points start, with weights a (n,). Support fixed: a has to be None, it is sought.
        `init` is a `BarycenterPlan` of the same problem to start from. Raises ValueError for bad input.
        """
        check_points(x=x, y=y)
        if y.ndim != 3 or x.ndim != 2:
            raise ValueError(
                f"a barycenter is of k clouds, y (k, m, d), on a support x (n, d), not {tuple(y.shape)} and "
                f"{tuple(x.shape)}; clouds of different sizes: solve_many"
            )
        shares = self._shares(y)
        kernel = fit(self.kernel, x.detach(), y.detach(), a, b)
        epsilon = self.epsilon
        if epsilon is None:
            mean = float((shares * mean_cost_of(kernel, x, y, None, _normalised(b))).sum())
            epsilon = SHARE_OF_MEAN_COST * mean if mean > 0 else 1.0
        if self.support == "free":
            return move_support(
                kernel, x, y, a, b, shares, epsilon, tolerance=self.tolerance, limit=self.max_iterations, init=init
            )
        self._no_weights(a)
        operator = operator_of(kernel, x.expand(len(y), *x.shape), y, epsilon=epsilon)
        own = operator_of(kernel, x, x, epsilon=epsilon) if self.debiased else None
        plan = self._project(operator, own, b, init, y)
        return attrs.evolve(plan, points=x, couplings=attrs.evolve(plan.couplings, kernel=kernel))

    def solve_many(
        self,
        points: Sequence[Tensor],
        weights: Sequence[Tensor] | None = None,
        *,
        support: Tensor,
        a: Tensor | None = None,
        init: Any = None,
    ) -> BarycenterPlan:
        """Average clouds (m_k, d) of any sizes with weights (m_k,), uniform where None, on `support` (n, d).

        The clouds are filled up with points of weight 0 to one size, that of the couplings.
        """
        if not points or any(cloud.ndim != 2 or cloud.shape[1:] != support.shape[1:] for cloud in points):
            raise ValueError(
                f"solve_many needs clouds (m, d) of the support's dimension {tuple(support.shape[1:])}, at least one, "
                f"not {[tuple(cloud.shape) for cloud in points]}"
            )
        if weights is None:
            weights = [cloud.new_full((len(cloud),), 1 / len(cloud)) for cloud in points]
        if len(weights) != len(points) or any(w.shape != c.shape[:1] for w, c in zip(weights, points, strict=True)):
            raise ValueError("solve_many needs one weight a point of every cloud")
        size = max(map(len, points))
        # The filling repeats a point of the cloud: no cost there that is not among the others.
        y = torch.stack([torch.cat([c, c[:1].expand(size - len(c), -1)]) for c in points])
        b = torch.stack([torch.cat([w, w.new_zeros(size - len(w))]) for w in weights])
        return self.solve(support, y, a=a, b=b, init=init)

    def solve_images(self, images: Tensor, *, init: Any = None) -> BarycenterPlan:
        """Average images (k, *shape), of 1 to 3 dimensions and equal mass, on their own grid.

        `kernel` is a kernel `grid`, or one of two points; square cells then, and a longest side of 1.
        `plan.weights.unflatten(-1, shape)` is the image.
        """
        if self.support == "free":
            raise ValueError("the pixels of an image do not move: support = 'free' is for clouds of points")
        shape = tuple(images.shape[1:])
        grid: Any = self.kernel if isinstance(self.kernel, Grid) else Grid(shape, kernel=self.kernel)
        b = images.flatten(1)
        epsilon = self.epsilon
        if epsilon is None:
            one = grid.operator(like=images)
            mean = (self._shares(images) * mean_cost(problem_of(one, None, _normalised(b)))).sum()
            epsilon = SHARE_OF_MEAN_COST * float(mean)
        own = grid.operator(like=images[0], epsilon=epsilon) if self.debiased else None
        plan = self._project(grid.operator(like=images, epsilon=epsilon), own, b, init, None)
        return attrs.evolve(plan, points=grid.points().to(images))

    def solve_operator(
        self,
        operator: KernelOperator,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        init: Any = None,
        y: Tensor | None = None,
    ) -> BarycenterPlan:
        """The same for an operator of batch shape (k,), support to inputs; b (k, m). Not debiased, and not free."""
        if self.debiased or self.support == "free":
            raise ValueError("solve_operator knows no costs within the support and no points: use solve(x, y)")
        self._no_weights(a)
        return self._project(operator, None, b, init, y)

    def _project(
        self, operator: KernelOperator, own: KernelOperator | None, b: Tensor | None, init: Any, y: Tensor | None
    ) -> BarycenterPlan:
        began = time.perf_counter()
        if len(operator.batch_shape) != 1:
            raise ValueError(f"a barycenter needs an operator of batch shape (k,), not {operator.batch_shape}")
        problem = problem_of(operator, None, b, balanced=False)
        mass = problem.b.detach().sum(-1)
        if ((mass - mass[0]).abs() > 1e3 * torch.finfo(mass.dtype).eps * mass[0]).any():
            raise ValueError(f"the inputs have masses {mass.tolist()}: divide each by its sum")
        targets = Targets(operator, problem.b.detach(), self._shares(problem.b), own)
        plan = project(targets, tolerance=self.tolerance, limit=self.max_iterations, init=init, y=y)
        return attrs.evolve(plan, seconds=time.perf_counter() - began)

    def _shares(self, inputs: Tensor) -> Tensor:
        """w_k, (k,)."""
        count = len(inputs)
        if self.shares is None:
            return inputs.new_full((count,), 1 / count)
        if len(self.shares) != count:
            raise ValueError(f"shares has {len(self.shares)} numbers for {count} inputs")
        shares = inputs.new_tensor(self.shares)
        return shares / shares.sum()

    def _no_weights(self, a: Tensor | None) -> None:
        if a is not None:
            raise ValueError(
                "the weights a of a fixed support are what is sought: leave a out, or set support = 'free'"
            )


def _normalised(b: Tensor | None) -> Tensor | None:
    return None if b is None else b / b.sum(-1, keepdim=True)

"""Entropic Wasserstein barycenters: the distribution that is nearest to several, in transport cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.barycenters.barycenter_free import move_support
from atlas_solvers_builtin.transport.barycenters.barycenter_plan import BarycenterPlan, warned
from atlas_solvers_builtin.transport.barycenters.barycenter_projections import Targets, project
from atlas_solvers_builtin.transport.barycenters.inputs import alike, of_one_mass, refuse_gradients, stacked
from atlas_solvers_builtin.transport.inputs_as_solved import as_solved
from atlas_solvers_builtin.transport.problem import (
    check_epsilon,
    check_points,
    check_same_epsilon,
    mean_cost,
    problem_of,
)
from atlas_solvers_builtin.transport.settings import (
    SHARE_OF_MEAN_COST,
    epsilon_field,
    fitted_kernel,
    kernel_field,
    max_iterations_field,
    mean_cost_of,
    tolerance_field,
)
from atlas_solvers_builtin.transport.uncompiled import uncompiled


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
    couplings of the barycenter with its inputs, and has `weights`, `points` and more. For clouds of different
    sizes `solve_many([y_1, …, y_k], support=x)` is the same, and for images (k, *shape) on one grid
    `solve_images(images)`.
    """

    paper = (
        "Benamou et al. 2015, sec. 3.2; on grids Solomon et al. 2015; debiased Janati et al. 2020, alg. 1; "
        "free support Cuturi & Doucet 2014, alg. 2"
    )

    kernel: Kernel = kernel_field()
    epsilon: float | None = epsilon_field("the mean cost to the inputs")
    shares: tuple[float, ...] | None = attrs.field(
        default=None, metadata={"help": "What each input counts, w_k: 0 or more, divided by their sum; unset: alike."}
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
        if value is not None and not (all(0 <= share < float("inf") for share in value) and sum(value) > 0):
            raise ValueError(f"shares must be numbers of 0 or more, one an input and not all 0, not {value!r}")

    def __attrs_post_init__(self) -> None:
        if self.debiased and self.support == "free":
            raise ValueError("debiased has no effect on a free support: set support = 'fixed', or leave it out")

    @uncompiled
    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> BarycenterPlan:
        """Average the clouds y (k, m, d) with weights b (k, m), of equal mass, on the support x (n, d).

        Support free: x is where the points start, with weights a (n,). Support fixed: a has to be None, it is sought.
        `init` is a `BarycenterPlan` of the same problem to start from. Raises ValueError for bad input.
        """
        return warned(self._of_points(x, y, a, b, init), self.tolerance)

    def _of_points(self, x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, init: Any) -> BarycenterPlan:
        check_points(x=x, y=y)
        refuse_gradients(x, y, a, b)
        if self.support == "fixed":
            self._no_weights(a)
        if y.ndim != 3 or x.ndim != 2:
            raise ValueError(
                f"a barycenter is of k clouds, y (k, m, d), on a support x (n, d), not {tuple(y.shape)} and "
                f"{tuple(x.shape)}; clouds of different sizes: solve_many"
            )
        shares = self._shares(y)
        kernel = fitted_kernel(self.kernel, x, y, a, b)
        dtypes = [None if weights is None else weights.dtype for weights in (a, b)]
        given, b = b, None if b is None else alike(b, x.dtype).expand(y.shape[:2])
        epsilon = self._epsilon(lambda: mean_cost_of(kernel, x, y, None, b, balanced=False), shares)
        if self.support == "free":
            if a is not None and a.shape == x.shape[:1]:
                a = of_one_mass(a, y if b is None else b, dtypes)
            return move_support(
                kernel, x, y, a, b, shares, epsilon, tolerance=self.tolerance, limit=self.max_iterations, init=init
            )
        operator = operator_of(kernel, x.expand(len(y), *x.shape), y, epsilon=epsilon)
        own = operator_of(kernel, x, x, epsilon=epsilon) if self.debiased else None
        plan = self._project(operator, own, b, init, y)
        inputs = as_solved(x, y, given, value=plan.value)
        return attrs.evolve(plan, points=x, couplings=attrs.evolve(plan.couplings, kernel=kernel, inputs=inputs))

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
        y, b = stacked(points, weights, support)
        return warned(self._of_points(support, y, a, b, init), self.tolerance)

    def solve_images(self, images: Tensor, *, init: Any = None) -> BarycenterPlan:
        """Average images (k, *shape), of 1 to 3 dimensions and equal mass, on their own grid.

        `kernel` is a kernel `grid`, or one of two points; square cells then, and a longest side of 1.
        `plan.weights.unflatten(-1, shape)` is the image.
        """
        if self.support == "free":
            raise ValueError("the pixels of an image do not move: support = 'free' is for clouds of points")
        check_points(images=images)
        refuse_gradients(images)
        shape = tuple(images.shape[1:])
        grid: Any = self.kernel if isinstance(self.kernel, Grid) else Grid(shape, kernel=self.kernel)
        shares, b = self._shares(images), images.flatten(1)
        epsilon = self._epsilon(
            lambda: mean_cost(problem_of(grid.operator(like=images), None, b, balanced=False)), shares
        )
        own = grid.operator(like=images[0], epsilon=epsilon) if self.debiased else None
        plan = self._project(grid.operator(like=images, epsilon=epsilon), own, b, init, None)
        return warned(attrs.evolve(plan, points=grid.points().to(images)), self.tolerance)

    @uncompiled
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
        check_same_epsilon(self.epsilon, operator)
        refuse_gradients(a, b)
        if self.debiased or self.support == "free":
            raise ValueError("solve_operator knows no costs within the support and no points: use solve(x, y)")
        self._no_weights(a)
        return warned(self._project(operator, None, b, init, y), self.tolerance)

    def _project(
        self, operator: KernelOperator, own: KernelOperator | None, b: Tensor | None, init: Any, y: Tensor | None
    ) -> BarycenterPlan:
        began = time.perf_counter()
        if len(operator.batch_shape) != 1:
            raise ValueError(f"a barycenter needs an operator of batch shape (k,), not {operator.batch_shape}")
        problem = problem_of(operator, None, b, balanced=False)
        check_epsilon(problem)
        if b is not None:
            problem = attrs.evolve(problem, b=alike(problem.b, problem.b.dtype, b.dtype))
        targets = Targets(operator, problem.b.detach(), self._shares(problem.b), own)
        plan = project(targets, tolerance=self.tolerance, limit=self.max_iterations, init=init, y=y)
        return attrs.evolve(plan, seconds=time.perf_counter() - began)

    def _shares(self, inputs: Tensor) -> Tensor:
        """w_k, (k,)."""
        count = len(inputs)
        if not count:
            raise ValueError("a barycenter is of one input at least, and there is none")
        if self.shares is None:
            return inputs.new_full((count,), 1 / count)
        if len(self.shares) != count:
            raise ValueError(f"shares has {len(self.shares)} numbers for {count} inputs")
        shares = inputs.new_tensor(self.shares)
        return shares / shares.sum()

    def _epsilon(self, mean_costs: Callable[[], Tensor], shares: Tensor) -> float:
        """ε as it is set, or its share of the mean cost, over all inputs. Points that coincide cost nothing: any ε."""
        if self.epsilon is not None:
            return self.epsilon
        mean = float((shares * mean_costs()).sum())
        return SHARE_OF_MEAN_COST * mean if mean > 0 else 1.0

    def _no_weights(self, a: Tensor | None) -> None:
        if a is not None:
            raise ValueError(
                "the weights a of a fixed support are what is sought: leave a out, or set support = 'free'"
            )

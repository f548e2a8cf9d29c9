"""The metric `sinkhorn-divergence`."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import MetricResult
from atlas_metrics_builtin.features import FeatureSets
from atlas_metrics_builtin.rows import equal_sizes

SHARE_OF_MEAN_COST = 0.5
"""Much less, and in 64 dimensions some hundred points see nothing but their sampling error (Genevay et al. 2019)."""


@attrs.define
class SinkhornDivergence(FeatureSets):
    """Tell two point sets apart by optimal transport, without bins or Gaussians; lower is better, 0 is equal.

    S(x, y) = OT_ε(x, y) − ½ OT_ε(x, x) − ½ OT_ε(y, y), OT_ε as the solver's `value`, in units of its cost C = −log k:
    for the Gaussian kernel of scale s, two points at distance r have r² / 2s². The self terms remove the entropic bias,
    so S(x, x) = 0, but only with one cost and one ε in all three, and two scores compare only at the same ones.
    Settings of the kernel that depend on the data are those of the real set; where the solver's ε is unset, it is half
    the mean cost within that set, and where its price ρ of mass is, that mean cost. Both sets are cut to one size,
    since what is left of the bias depends on it.
    """

    better = "lower"
    paper = "Feydy et al. 2019, eq. 3"

    solver: Any = component(
        "solver", default="atlas-solvers-builtin:sinkhorn", help="What computes OT_ε; its kernel is the cost."
    )
    size: int = attrs.field(
        default=500,
        validator=attrs.validators.ge(1),
        metadata={"help": "Most samples of either set that are compared."},
    )

    def compute(self) -> MetricResult:
        """Raises ValueError without a sample on either side, or if a solve is not finite."""
        x, y = (rows.double() for rows in equal_sizes(*self.both(at_least=1), self.size, self.seed))
        with torch.no_grad():
            solver = self._of_the_real_set(y)
            solutions = [solver.solve(*pair) for pair in ((x, y), (x, x), (y, y))]
        across, within_x, within_y = (float(solution.value) for solution in solutions)
        value = across - within_x / 2 - within_y / 2
        if value != value:
            raise ValueError(f"the solver {type(self.solver).__name__} returned {across}, {within_x}, {within_y}")
        details = {
            "n_real": len(y),
            "converged": float(all(bool(solution.converged.all()) for solution in solutions)),
            "epsilon": float(getattr(solver, "epsilon", None) or 0),
            "marginal_error": max(float(solution.marginal_error.max()) for solution in solutions),
        }
        return MetricResult(value, len(x), self.features, details=details)

    def _of_the_real_set(self, real: Tensor) -> Any:
        """Return the solver with every number that it would take from the points taken from the real set alone."""
        solver: Any = self.solver
        kernel: Any = getattr(solver, "kernel", None)
        if hasattr(kernel, "fitted"):
            kernel = kernel.fitted(real, real)
            solver = attrs.evolve(solver, kernel=kernel)
        unset = [name for name in ("epsilon", "rho") if getattr(solver, name, 0.0) is None]
        if not unset:
            return solver
        mean = float(-kernel.log_kernel(real, real).mean())
        numbers = {"epsilon": SHARE_OF_MEAN_COST * mean, "rho": mean} if mean > 0 else {"epsilon": 1.0, "rho": 1.0}
        return attrs.evolve(solver, **{name: numbers[name] for name in unset})

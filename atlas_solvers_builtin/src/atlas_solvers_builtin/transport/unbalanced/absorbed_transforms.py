"""c-transforms on a kernel that is stored around the potentials: products without exponentials."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import KernelOperator
from atlas_solvers_builtin.transport.problem import Problem

DRIFT = 20.0
"""Most that a potential may move, in units of ε, from where the kernel was absorbed: exp(20) is safe in float32."""


@attrs.frozen(eq=False)
class Absorbed:
    """c-transforms on the kernel E_ij = exp((t_i + g_j − C_ij) / ε), which is stored: products without exponentials."""

    problem: Problem
    entries: KernelOperator
    t: Tensor
    g: Tensor

    @classmethod
    def at(cls, problem: Problem, t: Tensor, g: Tensor, tolerance: float) -> Absorbed:
        """Absorb at t = T(g), where the rows of diag(a) E diag(b) sum to a: nothing is far from 1."""
        storage = torch.float32 if tolerance >= 1e-5 else None  # sums of float32 entries are right to some 1e-7
        entries = problem.operator.scaled(problem.over(t), problem.over(g), storage=storage)
        return cls(problem, entries, t, g)

    def rows(self, g: Tensor) -> Tensor:
        """T(g): (*batch, m) -> (*batch, n)."""
        right = self.problem.b * self.problem.over(g - self.g).exp()
        return self.t - self.problem.epsilon[..., None] * self.entries.matvec(right).log()

    def columns(self, f: Tensor) -> Tensor:
        """Tᵀ(f): (*batch, n) -> (*batch, m)."""
        left = self.problem.a * self.problem.over(f - self.t).exp()
        return self.g - self.problem.epsilon[..., None] * self.entries.rmatvec(left).log()

    def holds(self, g: Tensor) -> bool:
        """Whether g has not drifted so far from where it was absorbed that something could overflow."""
        return bool(self.problem.over(g - self.g).abs().amax() < DRIFT)

"""What a transport solver is asked, checked: an operator and two weightings of equal mass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import KernelOperator

MEAN_COST_ROWS = 4096
"""Rows that the mean cost is measured on; it is exact up to that many points."""
PROBED_ROWS = 16
"""Rows that tell the order of magnitude of the costs."""
LEAST_UNITS = 4
"""Roundings of the mean cost that ε must be above."""
SLACK_UNITS, MOST_SLACK = 1e3, 1e-2
"""By how much masses may differ: in roundings of the weights' own dtype, and at most, as a share of the mass."""

ANOTHER_SOLVER = "use `sinkhorn-unbalanced`"
"""What to do about masses that differ, of a solver that has no price for them."""


@attrs.frozen(eq=False)
class Problem:
    """Couple weights a (*batch, n) with b (*batch, m) under the cost C = −ε log K."""

    operator: KernelOperator
    a: Tensor
    b: Tensor
    epsilon: Tensor
    """(), or (*batch,)."""
    log_a: Tensor = attrs.field(init=False, repr=False)
    """Without a graph, −inf where the weight is 0: log 0 has no derivative."""
    log_b: Tensor = attrs.field(init=False, repr=False)

    @log_a.default
    def _log_a(self) -> Tensor:
        return self.a.detach().log()

    @log_b.default
    def _log_b(self) -> Tensor:
        return self.b.detach().log()

    @property
    def mass(self) -> Tensor:
        """(*batch,): the mass of either side."""
        return self.a.sum(-1)

    def detach(self) -> Problem:
        """Return the problem without the graph of its weights and ε."""
        return Problem(self.operator, self.a.detach(), self.b.detach(), self.epsilon.detach())

    def at(self, epsilon: Tensor) -> Problem:
        """Return the problem at another ε; for operators that have `with_epsilon`."""
        operator = self.operator.with_epsilon(epsilon)  # type: ignore[attr-defined]
        return attrs.evolve(self, operator=operator, epsilon=epsilon)

    def over(self, potential: Tensor) -> Tensor:
        """potential / ε: (*batch, n) -> (*batch, n)."""
        return potential / self.epsilon[..., None]

    def left(self, f: Tensor) -> Tensor:
        """log a + f / ε, −inf where the weight is 0."""
        return self.log_a + self.over(f)

    def right(self, g: Tensor) -> Tensor:
        """log b + g / ε, −inf where the weight is 0."""
        return self.log_b + self.over(g)

    def scalings(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """log a + f / ε and log b + g / ε, for `scaled`; in float64 where the operator takes that (`wide_scalings`).

        f / ε is large: to round it to float32 is a relative error of all entries of a row.
        """
        if self.operator.dtype == torch.float64 or not getattr(self.operator, "wide_scalings", False):
            return self.left(f), self.right(g)
        epsilon = torch.as_tensor(self.operator.epsilon, dtype=torch.float64, device=f.device)[..., None]
        return self.a.double().log() + f.double() / epsilon, self.b.double().log() + g.double() / epsilon

    def balanced(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Move a constant from f to g, which changes no plan, so that ⟨a, f⟩ = ⟨b, g⟩."""
        shift = (((self.a * f).sum(-1) - (self.b * g).sum(-1)) / (2 * self.mass))[..., None]
        return f - shift, g + shift

    def attached_left(self, f: Tensor) -> Tensor:
        """log a + f / ε with the graph of a, too, where a > 0."""
        return _safe_log(self.a) + self.over(f)

    def attached_right(self, g: Tensor) -> Tensor:
        """log b + g / ε with the graph of b, too, where b > 0."""
        return _safe_log(self.b) + self.over(g)

    def c_transform(self, g: Tensor) -> Tensor:
        """f_i = −ε log Σ_j b_j exp((g_j − C_ij) / ε): the best f for this g; finite also where a_i = 0."""
        rows = self.operator.log_matvec(self.right(g).to(self.operator.dtype))
        return -self.epsilon[..., None] * rows.to(g.dtype)

    def c_transform_transposed(self, f: Tensor) -> Tensor:
        """g_j = −ε log Σ_i a_i exp((f_i − C_ij) / ε)."""
        columns = self.operator.log_rmatvec(self.left(f).to(self.operator.dtype))
        return -self.epsilon[..., None] * columns.to(f.dtype)


def _safe_log(weights: Tensor) -> Tensor:
    """log, −inf without a derivative where the weight is 0."""
    return torch.where(weights > 0, torch.where(weights > 0, weights, 1.0).log(), -torch.inf)


def problem_of(
    operator: KernelOperator,
    a: Tensor | None,
    b: Tensor | None,
    *,
    balanced: bool = True,
    otherwise: str = ANOTHER_SOLVER,
) -> Problem:
    """Check everything that a solver relies on; the masses may differ unless `balanced`: `otherwise` says what to do.

    Raises ValueError, with what is wrong and what to do.
    """
    check_positive(operator.positive)
    n, m = operator.shape
    own = [None if weights is None else getattr(weights, "dtype", None) for weights in (a, b)]
    a, b = _weights("a", a, n, operator), _weights("b", b, m, operator)
    if balanced:
        a, b = equal_masses(a, b, own, otherwise)
    epsilon = torch.as_tensor(operator.epsilon, dtype=operator.dtype, device=operator.device)
    return Problem(operator, a, b, epsilon)


def mass_slack(dtype: torch.dtype, own: Sequence[torch.dtype | None] = ()) -> float:
    """Share of the mass by which masses that were meant to be equal differ, summed in `dtype` from weights of `own`.

    Weights were divided by their sum before they got here, in a dtype that may have been coarser.
    """
    coarsest = max(torch.finfo(each).eps for each in (dtype, *own) if each is not None and each.is_floating_point)
    return min(SLACK_UNITS * coarsest, MOST_SLACK)


def equal_masses(
    a: Tensor, b: Tensor, own: Sequence[torch.dtype | None], otherwise: str = ANOTHER_SOLVER
) -> tuple[Tensor, Tensor]:
    """Weights of one dtype, (*batch, n) and (*batch, m); `own` are the dtypes that they came in, None for one's own.

    Where those are coarser, what rounding made of the masses is taken back: b, or a where it alone is coarse, is scaled
    to the other's mass. Raises ValueError where the masses differ by more than rounding.
    """
    masses = a.sum(-1), b.sum(-1)
    difference = (masses[0] - masses[1]).abs().detach()
    if (difference > mass_slack(a.dtype, own) * masses[0]).any():
        raise ValueError(
            f"a has mass {_first(masses[0], difference)} and b {_first(masses[1], difference)}, which differ by "
            f"{float(difference.max()):.2g}, and balanced transport moves all of it: divide each by its sum, or "
            + otherwise
        )
    coarse = [mass_slack(a.dtype, [each]) > mass_slack(a.dtype) for each in own]
    ratio = (masses[0] / masses[1]).detach()[..., None]
    if coarse[1]:
        return a, b * ratio
    return (a / ratio, b) if coarse[0] else (a, b)


def check_same_epsilon(own: float | None, operator: KernelOperator) -> None:
    """Raise ValueError where a solver's own ε is set, and is not the operator's: one would have no effect."""
    if own is None:
        return
    given = torch.as_tensor(operator.epsilon).detach().double()
    if not torch.allclose(given, torch.full_like(given, own), rtol=1e-6, atol=0):
        raise ValueError(
            f"epsilon is {own:.6g}, and that of the operator {given.flatten().tolist()[:3]}: leave the solver's unset, "
            "and the operator's holds, or make the operator with the same one"
        )


def check_positive(positive: bool) -> None:
    """Raise ValueError for a kernel, or an operator, that may be negative."""
    if not positive:
        raise ValueError(
            "transport needs a positive kernel: the cost −log k of a signed one is not real. Use `gaussian`, or any "
            "kernel with has_log = True; of approximations `positive-rff`, since `rff` and `nystroem` may be negative; "
            "`auto` with positive = true"
        )


def _weights(name: str, weights: Tensor | None, length: int, operator: KernelOperator) -> Tensor:
    shape = (*operator.batch_shape, length)
    if weights is None:
        return torch.full(shape, 1 / length, dtype=operator.dtype, device=operator.device)
    check_weights(name, weights, shape, operator.device)
    return weights.to(dtype=operator.dtype).expand(shape)


def check_weights(name: str, weights: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise ValueError unless these are masses of points (*batch, length), or one problem's for all of the batch."""
    length = shape[-1]
    if not isinstance(weights, Tensor):
        raise ValueError(f"{name} must be a tensor of weights, not a {type(weights).__name__}")
    if weights.device != device:
        raise ValueError(f"{name} is on {weights.device}, the points are on {device}: move one of them")
    if weights.shape[-1:] != (length,) or weights.ndim > len(shape):
        raise ValueError(f"{name} must hold one weight a point, {shape}, not {tuple(weights.shape)}")
    if not weights.isfinite().all() or (weights < 0).any():
        raise ValueError(f"{name} holds a weight that is negative or not finite; weights are masses, 0 or more")
    if (weights.sum(-1) == 0).any():
        raise ValueError(f"{name} is all zero: there is nothing to transport")


def _first(values: Tensor, difference: Tensor) -> str:
    return f"{float(values.detach().flatten()[difference.argmax()]):.6g}"


def check_points(**points: Tensor) -> None:
    """Raise ValueError, naming the first such row, if a coordinate is not finite; for two devices; for anything but
    tensors of float32 or float64."""
    for name, values in points.items():
        if not isinstance(values, Tensor):
            raise ValueError(f"{name} is a {type(values).__name__}: points must be a tensor, (*batch, n, *item)")
    devices = {name: values.device for name, values in points.items()}
    if len(set(devices.values())) > 1:
        listing = ", ".join(f"{name} is on {device}" for name, device in devices.items())
        raise ValueError(f"{listing}: move one of them")
    for name, values in points.items():
        if not values.is_floating_point():
            raise ValueError(f"{name} holds {values.dtype}: points must be floating point; convert with .float()")
        if values.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} holds {values.dtype}, too coarse for transport: convert with .float()")
        # The extremes are NaN where a value is: one pass, without a copy of the points.
        if values.numel() and not all(extreme.isfinite() for extreme in values.detach().aminmax()):
            place = tuple((~values.isfinite()).nonzero()[0].tolist())
            raise ValueError(f"{name}{list(place)} is {float(values[place].detach())}: points must be finite")


@torch.no_grad()
def mean_cost(problem: Problem, *, rows: int = MEAN_COST_ROWS) -> Tensor:
    """⟨a ⊗ b, C⟩ / mass², (*batch,); above `rows` points, from that many, evenly spaced."""
    operator, (n, m) = problem.operator, problem.operator.shape
    own = getattr(operator, "mean_cost", None)
    if own is not None:  # on a grid, a sum over the axes
        exact: Tensor = own(problem.a, problem.b)
        return exact
    index = torch.linspace(0, n - 1, min(n, rows), device=operator.device).round().long()
    # The tiny addition: all the rows that were picked may have weight 0.
    weights = problem.a[..., index] + torch.finfo(problem.a.dtype).tiny
    columns = problem.b / problem.b.sum(-1, keepdim=True)
    chunk = max(1, 2**18 // (m * max(1, math.prod(operator.batch_shape))))
    costs = torch.empty_like(weights)  # all at once: small tensors between large ones would keep their memory apart
    for start in range(0, len(index), chunk):
        part = slice(start, start + chunk)
        costs[..., part] = _row_costs(operator.log_rows(index[part]), columns)
    return problem.epsilon * (costs * weights).sum(-1) / weights.sum(-1)


def _row_costs(log_rows: Tensor, columns: Tensor) -> Tensor:
    """Mean cost of each row, (*batch, r), over the pairs that can be matched at all."""
    return torch.where(log_rows.isfinite(), -log_rows * columns[..., None, :], 0.0).sum(-1)


@torch.no_grad()
def check_epsilon(problem: Problem, mean: Tensor | None = None) -> None:
    """Raise ValueError where costs, divided by ε, are rounded to more than a unit: no plan can be told.

    `mean` is the mean cost, where it is known already.
    """
    mean = mean_cost(problem, rows=PROBED_ROWS) if mean is None else mean
    least = LEAST_UNITS * torch.finfo(problem.operator.dtype).eps * mean
    low = problem.epsilon < least
    if low.any():
        worst = int(low.expand(least.shape).flatten().int().argmax())
        epsilon = float(problem.epsilon.expand(least.shape).flatten()[worst])
        dtype = str(problem.operator.dtype).removeprefix("torch.")
        raise ValueError(
            f"epsilon {epsilon:.3g} is below what {dtype} can carry: costs divided by it are rounded by more than 1. "
            f"The smallest for these points is {float(least.flatten()[worst]):.2g}"
            + ("" if dtype == "float64" else "; float64 goes further")
        )

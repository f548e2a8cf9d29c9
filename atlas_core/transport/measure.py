"""What a coupling is worth, measured on the plan as returned, whatever solver it comes from."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core.transport.side import Side

ROWS, COLUMNS = 2048, 4096
"""Most points of either side that the mean cost is taken over, evenly spaced."""
PROBED = 8
"""Rows on which potentials are held against the plan."""


def measured(coupling: Any, source: Side, target: Side) -> dict[str, Any]:
    """Return the numbers of a solution, None for one that is not finite.

    `cost` and both marginals are what every `Coupling` has; the rest is there if the solution has it.
    """
    marginals = [each.detach().double().cpu() for each in coupling.marginals]
    masses = [side.masses.double().cpu() for side in (source, target)]
    errors = [_finite((got - asked).abs().sum() / asked.sum()) for got, asked in zip(marginals, masses, strict=True)]
    numbers: dict[str, Any] = {
        "n": len(source),
        "m": len(target),
        "d": source.points.shape[1],
        "dtype": str(source.points.dtype).removeprefix("torch."),
        "device": str(source.points.device),
        "cost": _finite(coupling.cost),
        "marginal_errors": errors,
        "marginal_error": None if None in errors else max(error for error in errors if error is not None),
        "mass": _finite(marginals[0].sum()),
    }
    for name in ("value", "epsilon", "duality_gap"):
        if getattr(coupling, name, None) is not None:
            numbers[name] = _finite(getattr(coupling, name))
    for name in ("iterations", "matvecs"):
        if getattr(coupling, name, None) is not None:
            numbers[name] = int(getattr(coupling, name))
    status, converged = getattr(coupling, "status", None), getattr(coupling, "converged", None)
    if status is not None:
        numbers["status"] = status if isinstance(status, str) else ", ".join(status)
    # Who says nothing of convergence has none to speak of, as a closed form.
    numbers["converged"] = None if converged is None else bool(torch.as_tensor(converged).all())
    return numbers


def in_units(solver: Any, source: Side, target: Side) -> Any:
    """Return the solver with the settings of its kernel that depend on the points as numbers.

    So every solver counts in the same units, those that are measured here, whatever it does with weights.
    """
    kernel = getattr(solver, "kernel", None)
    if kernel is None or not hasattr(kernel, "fitted") or "kernel" not in attrs.fields_dict(type(solver)):
        return solver
    fitted = kernel.fitted(source.points, target.points, source.weights, target.weights)
    return attrs.evolve(solver, kernel=fitted)


def kernel_settings(solver: Any) -> dict[str, Any] | None:
    """Return class and plain settings of the solver's kernel, in the numbers of these points; None without one."""
    kernel = getattr(solver, "kernel", None)
    if kernel is None or not attrs.has(type(kernel)):
        return None
    values = {field.name: getattr(kernel, field.name) for field in attrs.fields(type(kernel)) if field.init}
    plain = {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}
    return {"class": type(kernel).__name__, "settings": plain}


def mean_cost(solver: Any, source: Side, target: Side) -> float | None:
    """Return ⟨a ⊗ b, C⟩ / (mass a · mass b) of the solver's own kernel, C = −log k; None if it names no such kernel.

    Exact for a cost c |x − y|², and up to 2048 × 4096 points; of more, over that many, evenly spaced.
    """
    kernel = getattr(solver, "kernel", None)
    if kernel is None or not getattr(kernel, "has_log", False):
        return None
    if isinstance(rate := getattr(kernel, "quadratic", None), float):
        return _finite(rate * _mean_squared(source, target))
    rows, columns = _spaced(len(source), ROWS), _spaced(len(target), COLUMNS)
    a, b = source.masses[rows], target.masses[columns]
    if not float(a.sum() * b.sum()) > 0:
        return None
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for part, mass in zip(torch.split(rows, 256), torch.split(a, 256), strict=True):
            cost = -kernel.log_kernel(source.points[part], target.points[columns])
            total += (cost.double() @ b.double() @ mass.double()).cpu()
    return _finite(total / (a.double().sum() * b.double().sum()).cpu())


def potentials_tell(coupling: Any, solver: Any, source: Side, target: Side) -> bool:
    """True if a_i b_j exp((f_i + g_j − C_ij) / ε) is the plan, tried on some rows of it.

    A solver may name f and g what is not that, as a debiased one: then they do not say what the plan is.
    """
    f, g, epsilon = (getattr(coupling, name, None) for name in ("f", "g", "epsilon"))
    kernel = getattr(solver, "kernel", None)
    if not (isinstance(f, Tensor) and isinstance(g, Tensor) and getattr(kernel, "has_log", False)) or epsilon is None:
        return False
    rows = _spaced(len(source), PROBED)
    indicator = torch.zeros(len(source), len(rows), dtype=f.dtype, device=f.device)
    indicator[rows, torch.arange(len(rows))] = 1
    with torch.no_grad():
        cost = -kernel.log_kernel(source.points[rows], target.points)  # type: ignore[union-attr]
        exponent = (f[rows][:, None] + g - cost) / torch.as_tensor(epsilon, dtype=f.dtype, device=f.device)
        told = source.masses[rows][:, None] * target.masses * exponent.exp()
        given = coupling.rmatvec(indicator).T
    # The larger of float32's rounding of an exponent of some hundred, and of a stored kernel.
    return bool((told - given).abs().sum() <= 1e-2 * given.abs().sum())


def _mean_squared(source: Side, target: Side) -> float:
    """Σ a_i b_j |x_i − y_j|² over both masses, from means and variances: nothing cancels."""
    parts = []
    for side in (source, target):
        weights = side.masses.double() / side.masses.double().sum()
        points = side.points.double()
        centre = weights @ points
        parts.append((centre, float(weights @ (points - centre).square().sum(1))))
    (first, spread), (second, other) = parts
    return float((first - second).square().sum()) + spread + other


def _spaced(count: int, most: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def _finite(value: Any) -> float | None:
    number = float(torch.as_tensor(value).detach().flatten()[0])
    return number if math.isfinite(number) else None
